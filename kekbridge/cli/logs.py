"""`kekbridge logs`: alerts and their results, newest last, also live. Reads only.

Also listed: messages that came again, under the id of the first; unauthenticated requests, one line per sender, code and minute; and events
of the bridge itself: exchange unreachable, limit breached, job failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting, parsing
from kekbridge.cli import filters
from kekbridge.cli.context import now, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples
from kekbridge.ops import known_names

if TYPE_CHECKING:
    import sqlite3

    from kekbridge.store.alerts import Repeat, StoredAlert
    from kekbridge.store.database import Database
    from kekbridge.store.journal import Event
    from kekbridge.store.rejected_requests import RejectedRequest

app = typer.Typer(rich_markup_mode=None, add_completion=False)

# Minimum widths, so that lines printed later align with earlier ones.
_TITLES = {"TIME": 11, "ALERT": 13, "WEBHOOK": 8, "ACTION": 6, "MARKET": 8, "STATUS": 9}
_POLL_S = 0.3
_BURST = 1000  # entries between two polls that are all printed


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries to show; None does not restrict."""

    #: Name of a webhook.
    webhook: str | None
    #: Status of an alert.
    status: str | None
    #: Code of an alert or a rejected request.
    code: str | None
    #: Exchange symbol, such as PERP_BTC_USDC.
    symbol: str | None
    #: Earliest time.
    since: datetime | None
    #: Latest time.
    until: datetime | None
    #: Text that the message must contain.
    text: str | None
    #: Maximum number of entries; the newest are kept.
    limit: int

    @property
    def shows_rejected_requests(self) -> bool:
        """True if no filter is set that unauthenticated requests lack: they have no webhook, symbol or stored message."""
        return not (self.webhook or self.symbol or self.text) and self.status in (None, "refused")

    @property
    def shows_events(self) -> bool:
        """True if only the time is filtered: events of the bridge have nothing else to filter by."""
        return not (self.webhook or self.symbol or self.text or self.status or self.code)


def _option(metavar: str, help_text: str, complete: filters.Completer | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False, autocompletion=complete)


@app.command(
    epilog=examples(
        "kekbridge logs",
        "kekbridge logs -f --webhook default",
        "kekbridge logs --since 24h --status denied",
        "kekbridge logs --since 7d --json | jq -r '.code // empty' | sort | uniq -c",
    )
)
def logs(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new entries. Ctrl-C stops.")] = False,
    webhook: Annotated[str | None, _option("NAME", "Only this webhook.", filters.complete_webhooks)] = None,
    status: Annotated[
        str | None,
        _option("STATUS", "filled, accepted, denied, refused, rejected, unknown …", filters.complete_alert_statuses),
    ] = None,
    code: Annotated[
        str | None, _option("CODE", "Only this code; `kekbridge explain --codes` lists them.", filters.complete_codes)
    ] = None,
    symbol: Annotated[str | None, _option("BTC", "Only this market.", filters.complete_symbols)] = None,
    since: Annotated[str | None, _option("TIME", "Start: 2h or 7d (ago), or 2026-11-22T16:00.")] = None,
    until: Annotated[str | None, _option("TIME", "End; as --since.")] = None,
    text: Annotated[str | None, _option("TEXT", "Only messages that contain this text.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Show the newest N.")] = 50,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List alerts and their results, newest last.

    With --json one line of JSON per entry. `kekbridge explain ALERT` shows everything about one; the start of its id is enough.
    """
    from kekbridge.cli import render

    zone = UTC if utc else None
    wanted = Filters(
        webhook=webhook,
        status=known_names.alert_status(status),
        code=known_names.code(code),
        symbol=None,
        since=None if since is None else parsing.instant("--since", since, now(), zone),
        until=None if until is None else parsing.instant("--until", until, now(), zone),
        text=text,
        limit=limit,
    )
    with open_database(resolve_context(ctx, data_dir, config)) as database:
        with database.snapshot() as connection:
            known_names.webhook(connection, webhook)
            wanted = replace(wanted, symbol=known_names.symbol(connection, symbol))
            entries, looked_back_to = _entries(connection, wanted, zone)
        if looked_back_to is not None:
            at = formatting.moment(looked_back_to, zone)
            older = f"use --until {at.replace(' ', 'T')} for older ones"
            render.note(f"Searched messages back to {at} {formatting.zone_name(looked_back_to, zone)}; {older}.")
        elif not entries and not as_json and not follow:
            is_filtered = any((webhook, status, code, symbol, since, until, text))
            none = "No entries. `kekbridge serve` receives alerts; `kekbridge template NAME` prints a message to send."
            render.note("No entries match." if is_filtered else none)
        _print(entries, as_json=as_json, with_header=True, zone=zone)
        if follow:
            for changed in _follow(database, wanted, entries, zone):
                _print(changed, as_json=as_json, with_header=False, zone=zone)


@dataclass(frozen=True, slots=True)
class BridgeEvent:
    """An event of the bridge itself, with its text."""

    #: The row of the history.
    event: Event
    #: info, warning or failure; None for an event without a notification.
    severity: str | None
    #: What happened, on one line.
    text: str


Entry = tuple[datetime, "StoredAlert | Repeat | RejectedRequest | BridgeEvent"]


def _entries(
    connection: sqlite3.Connection, wanted: Filters, zone: tzinfo | None
) -> tuple[list[Entry], datetime | None]:
    """Return the entries that pass the filters, oldest first, and how far back messages were searched (None: all of them).

    `zone`: of times in the texts of events.
    """
    from kekbridge.store import alerts, rejected_requests

    search = alerts.search(
        connection,
        webhook=wanted.webhook,
        status=wanted.status,
        code=wanted.code,
        symbol=wanted.symbol,
        since=wanted.since,
        until=wanted.until,
        text=wanted.text,
        limit=wanted.limit,
    )
    entries: list[Entry] = [(alert.received_at, alert) for alert in search.alerts]
    if not wanted.text:
        entries += [
            (repeat.at, repeat)
            for repeat in alerts.list_repeats(
                connection,
                webhook=wanted.webhook,
                status=wanted.status,
                code=wanted.code,
                symbol=wanted.symbol,
                since=wanted.since,
                until=wanted.until,
                limit=wanted.limit,
            )
        ]
    if wanted.shows_rejected_requests:
        entries += [
            (request.last_at, request)
            for request in rejected_requests.list_recent(
                connection, since=wanted.since, until=wanted.until, code=wanted.code, limit=wanted.limit
            )
        ]
    if wanted.shows_events:
        entries += [(one.event.at, one) for one in _bridge_events(connection, wanted, zone)]
    return sorted(entries, key=lambda entry: entry[0])[-wanted.limit :], search.looked_back_to


def _bridge_events(connection: sqlite3.Connection, wanted: Filters, zone: tzinfo | None) -> Sequence[BridgeEvent]:
    """Return the events of the bridge itself that are worth a notification."""
    from kekbridge.model.notifications import MESSAGES, describe_event
    from kekbridge.reports.event_facts import event_facts
    from kekbridge.store import journal

    found = journal.latest(
        connection, kinds=MESSAGES, since=wanted.since, until=wanted.until, of_alerts=False, limit=wanted.limit
    )
    return [
        BridgeEvent(event, *describe_event(event.kind, event_facts(connection, event, zone), zone=zone))
        for event in found
    ]


def _follow(database: Database, wanted: Filters, shown: list[Entry], zone: tzinfo | None) -> Iterator[list[Entry]]:
    """Yield new entries, and those whose status or count changed, forever. Polls an index; readers of a WAL block no writer."""
    seen = {_identity(entry): _state(entry) for _, entry in shown}
    wanted = replace(wanted, since=shown[0][0] if shown else now(), limit=max(wanted.limit, _BURST))
    while True:
        time.sleep(_POLL_S)
        with database.snapshot() as connection:
            entries, _ = _entries(connection, wanted, zone)
        changed = [entry for entry in entries if seen.get(_identity(entry[1])) != _state(entry[1])]
        seen |= {_identity(entry): _state(entry) for _, entry in changed}
        if changed:
            yield changed


def _identity(entry: StoredAlert | Repeat | RejectedRequest | BridgeEvent) -> object:
    from kekbridge.store.alerts import Repeat
    from kekbridge.store.rejected_requests import RejectedRequest

    if isinstance(entry, BridgeEvent):
        return entry.event.sequence
    if isinstance(entry, Repeat):
        return entry.sequence
    return (entry.minute, entry.remote, entry.code) if isinstance(entry, RejectedRequest) else entry.id


def _state(entry: StoredAlert | Repeat | RejectedRequest | BridgeEvent) -> object:
    return getattr(entry, "status", None), getattr(entry, "count", None)


def _print(entries: list[Entry], *, as_json: bool, with_header: bool, zone: tzinfo | None) -> None:
    import sys

    from kekbridge.cli import render

    if as_json:
        for _, entry in entries:
            render.as_json(_data(entry))
    elif entries:
        titles = {
            f"TIME ({formatting.zone_name(now(), zone)})" if name == "TIME" else name: n for name, n in _TITLES.items()
        }
        rows = [_line(at, entry, zone) for at, entry in entries]
        render.lines(titles, rows, with_header=with_header, drops=("WEBHOOK", "ALERT", next(iter(titles))))
    sys.stdout.flush()


def _data(entry: StoredAlert | Repeat | RejectedRequest | BridgeEvent) -> dict[str, Any]:
    from kekbridge.store.alerts import Repeat

    if isinstance(entry, BridgeEvent):
        event = entry.event
        named = {"kind": "event", "event": event.kind, "severity": entry.severity, "words": entry.text}
        return named | {
            "sequence": event.sequence,
            "at": formatting.to_jsonable(event.at),
            "data": formatting.to_jsonable(event.data),
        }
    if isinstance(entry, Repeat):
        return {"kind": "repeat"} | dict(formatting.to_jsonable(entry)) | {"error": entry.error}
    return {"kind": "alert" if hasattr(entry, "status") else "refusal"} | dict(formatting.to_jsonable(entry))


def _line(at: datetime, entry: StoredAlert | Repeat | RejectedRequest | BridgeEvent, zone: tzinfo | None) -> Any:
    from kekbridge.cli import render
    from kekbridge.store.alerts import Repeat
    from kekbridge.store.rejected_requests import RejectedRequest

    if isinstance(entry, BridgeEvent):
        return render.Line((formatting.clock(at, now(), zone), "-", "-", "-", "-", entry.severity or ""), entry.text)

    if isinstance(entry, RejectedRequest):
        times = f"{entry.count} x " if entry.count > 1 else ""
        return render.Line(
            (formatting.clock(at, now(), zone), "-", "-", "-", "-", "refused"),
            f"{entry.code}: {times}from {entry.remote}: {entry.error}",
        )
    detail = ": ".join(part for part in (entry.code, entry.error) if part)
    name = entry.first_id if isinstance(entry, Repeat) else entry.id
    return render.Line(
        (
            formatting.clock(at, now(), zone),
            formatting.short_id(name),
            entry.webhook_name,
            entry.action,
            formatting.market(entry.symbol),
            entry.status,
        ),
        detail,
    )
