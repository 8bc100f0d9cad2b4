"""`kekbridge logs`: what came in and what became of it, newest last, also live. Reads only.

Requests that nobody vouched for (no key, wrong signature) are shown too, one line for each sender, code and minute, and between them what
happened to the bridge itself: the exchange away, a limit over, a job that failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import parsing
from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    import sqlite3

    from kekbridge.store.alerts import StoredAlert
    from kekbridge.store.database import Database
    from kekbridge.store.events import Event
    from kekbridge.store.rejected_requests import RejectedRequest

app = typer.Typer(rich_markup_mode=None, add_completion=False)

# Least widths, so that lines that follow later stand under those before.
_TITLES = {"TIME (UTC)": 11, "ALERT": 13, "WEBHOOK": 8, "ACTION": 6, "MARKET": 8, "STATUS": 9}
_LOOK_EVERY_S = 0.3
_BURST = 1000  # so many between two looks are still all printed


@dataclass(frozen=True, slots=True)
class Filters:
    """What to show; None means everything."""

    webhook: str | None
    status: str | None
    code: str | None
    symbol: str | None
    since: datetime | None
    until: datetime | None
    text: str | None
    limit: int

    @property
    def shows_refusals(self) -> bool:
        """Requests nobody vouched for have no webhook, symbol or payload to filter by."""
        return not (self.webhook or self.symbol or self.text) and self.status in (None, "refused")

    @property
    def shows_events(self) -> bool:
        """What happened to the bridge is no alert: nothing to filter by but the time."""
        return not (self.webhook or self.symbol or self.text or self.status or self.code)


def _option(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@app.command(
    epilog=examples(
        "kekbridge logs",
        "kekbridge logs -f --webhook default",
        "kekbridge logs --since 24h --status denied",
        "kekbridge logs --since 7d --json | jq -r 'select(.code) | .code' | sort | uniq -c",
    )
)
def logs(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what comes in. Ctrl-C stops.")] = False,
    webhook: Annotated[str | None, _option("NAME", "Of this webhook only.")] = None,
    status: Annotated[str | None, _option("STATUS", "filled, accepted, denied, refused, rejected, unknown, …")] = None,
    code: Annotated[str | None, _option("CODE", "With this code only; `kekbridge explain --codes` lists them.")] = None,
    symbol: Annotated[str | None, _option("BTC", "Of this market only.")] = None,
    since: Annotated[str | None, _option("TIME", "From then on: 2h, 7d, or 2026-11-22T16:00 (UTC).")] = None,
    until: Annotated[str | None, _option("TIME", "Up to then.")] = None,
    text: Annotated[str | None, _option("TEXT", "With this text in the message.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="The newest N.")] = 50,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List what came in and what became of it, newest last.

    With --json one line of JSON for each. `kekbridge explain ALERT` tells the whole story of one; the first characters of its id do.
    """
    from kekbridge.cli import render
    from kekbridge.webhooks.registry import perp_symbol

    filters = Filters(
        webhook=webhook,
        status=status,
        code=code,
        symbol=None if symbol is None else perp_symbol(symbol, "--symbol"),
        since=None if since is None else parsing.instant("--since", since, now()),
        until=None if until is None else parsing.instant("--until", until, now()),
        text=text,
        limit=limit,
    )
    with opened(resolve_context(context, data_dir, config)) as database:
        with database.snapshot() as connection:
            entries, looked_back_to = _entries(connection, filters)
        if looked_back_to is not None:
            further = f"--until {looked_back_to:%Y-%m-%dT%H:%M:%S} looks further back"
            render.note(f"Looked for the text back to {render.moment(looked_back_to)} UTC; {further}.")
        elif not entries and not as_json and not follow:
            render.note("Nothing here. `kekbridge serve` takes alerts; `kekbridge template NAME` prints one to send.")
        _print(entries, as_json=as_json, with_header=True)
        if follow:
            for news in _news(database, filters, entries):
                _print(news, as_json=as_json, with_header=False)


Entry = tuple[datetime, "StoredAlert | RejectedRequest | Event"]


def _entries(connection: sqlite3.Connection, filters: Filters) -> tuple[list[Entry], datetime | None]:
    """Alerts and refusals that pass the filters, oldest first; and how far back a text was looked for, unless everywhere."""
    from kekbridge.store import alerts, rejected_requests

    search = alerts.search(
        connection,
        webhook=filters.webhook,
        status=filters.status,
        code=filters.code,
        symbol=filters.symbol,
        since=filters.since,
        until=filters.until,
        text=filters.text,
        limit=filters.limit,
    )
    found: list[Entry] = [(alert.received_at, alert) for alert in search.alerts]
    if filters.shows_refusals:
        found += [
            (refusal.last_at, refusal)
            for refusal in rejected_requests.list_recent(
                connection, since=filters.since, until=filters.until, code=filters.code, limit=filters.limit
            )
        ]
    if filters.shows_events:
        found += [(event.at, event) for event in _told(connection, filters)]
    return sorted(found, key=lambda entry: entry[0])[-filters.limit :], search.looked_back_to


def _told(connection: sqlite3.Connection, filters: Filters) -> Sequence[Event]:
    """What is told of the bridge itself."""
    from kekbridge.model.notifications import MESSAGES
    from kekbridge.store import events

    return events.latest(
        connection, kinds=MESSAGES, since=filters.since, until=filters.until, of_alerts=False, limit=filters.limit
    )


def _news(database: Database, filters: Filters, shown: list[Entry]) -> Iterator[list[Entry]]:
    """Entries that are new, or whose status or count moved, for ever. A poll of an index: WAL readers block nobody."""
    seen = {_identity(entry): _state(entry) for _, entry in shown}
    filters = replace(filters, since=shown[0][0] if shown else now(), limit=max(filters.limit, _BURST))
    while True:
        time.sleep(_LOOK_EVERY_S)
        with database.snapshot() as connection:
            entries, _ = _entries(connection, filters)
        fresh = [entry for entry in entries if seen.get(_identity(entry[1])) != _state(entry[1])]
        seen |= {_identity(entry): _state(entry) for _, entry in fresh}
        if fresh:
            yield fresh


def _identity(entry: StoredAlert | RejectedRequest | Event) -> object:
    from kekbridge.store.events import Event
    from kekbridge.store.rejected_requests import RejectedRequest

    if isinstance(entry, Event):
        return entry.sequence
    return (entry.minute, entry.remote, entry.code) if isinstance(entry, RejectedRequest) else entry.id


def _state(entry: StoredAlert | RejectedRequest | Event) -> object:
    return getattr(entry, "status", None), getattr(entry, "count", None)


def _print(entries: list[Entry], *, as_json: bool, with_header: bool) -> None:
    import sys

    from kekbridge.cli import render

    if as_json:
        for _, entry in entries:
            render.as_json(_data(entry))
    elif entries:
        render.lines(_TITLES, [_line(at, entry) for at, entry in entries], with_header=with_header)
    sys.stdout.flush()


def _data(entry: StoredAlert | RejectedRequest | Event) -> dict[str, Any]:
    from kekbridge.cli import render
    from kekbridge.model.notifications import describe
    from kekbridge.store.events import Event

    if isinstance(entry, Event):
        severity, words = describe(entry.kind, entry.data)
        named = {"kind": "event", "event": entry.kind, "severity": severity, "words": words}
        return named | {
            "sequence": entry.sequence,
            "at": render.to_jsonable(entry.at),
            "data": render.to_jsonable(entry.data),
        }
    return {"kind": "alert" if hasattr(entry, "status") else "refusal"} | dict(render.to_jsonable(entry))


def _line(at: datetime, entry: StoredAlert | RejectedRequest | Event) -> Any:
    from kekbridge.cli import render
    from kekbridge.model.notifications import describe
    from kekbridge.store.events import Event
    from kekbridge.store.rejected_requests import RejectedRequest

    if isinstance(entry, Event):
        severity, words = describe(entry.kind, entry.data)
        return render.Line((render.clock(at, now()), "-", "-", "-", "-", severity or ""), words)

    if isinstance(entry, RejectedRequest):
        times = f"{entry.count} x " if entry.count > 1 else ""
        return render.Line(
            (render.clock(at, now()), "-", "-", "-", "-", "refused"),
            f"{entry.code}: {times}from {entry.remote}: {entry.error}",
        )
    detail = ": ".join(part for part in (entry.code, entry.error) if part)
    return render.Line(
        (
            render.clock(at, now()),
            render.short_id(entry.id),
            entry.webhook_name,
            entry.action,
            render.market(entry.symbol),
            entry.status,
        ),
        detail,
    )
