"""`kekbridge history`: list the events of the history, and verify its hash chain. Reads only."""

from __future__ import annotations

import sys
import time
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kekbridge import formatting, parsing
from kekbridge.cli import filters
from kekbridge.cli.context import now, open_database, resolve_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import tzinfo

    from kekbridge.store.journal import Event

_POLL_S: Final = 0.3

app = typer.Typer(
    cls=CommandGroup,
    help="List events, and verify that the record was not altered.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge history list --since 24h", "kekbridge history verify"),
)


def _option(metavar: str, help_text: str, complete: filters.Completer | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False, autocompletion=complete)


@app.command(
    "list",
    epilog=examples(
        "kekbridge history list",
        "kekbridge history list --trouble --since 7d",
        "kekbridge history list -f --kind stream_down --kind stream_back",
    ),
)
def show(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events. Ctrl-C stops.")] = False,
    trouble: Annotated[bool, typer.Option("--trouble", help="Only warnings and failures.")] = False,
    kind: Annotated[
        list[str] | None, _option("EVENT", "Only events of this kind. Repeatable.", filters.complete_kinds)
    ] = None,
    since: Annotated[str | None, _option("TIME", "Start: 2h or 7d (ago), or 2026-11-22T16:00.")] = None,
    until: Annotated[str | None, _option("TIME", "End; as --since.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Show the newest N.")] = 50,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List events, newest last.

    Orders, limits, connections, jobs and webhook changes. With --json one line per event.
    """
    from kekbridge.ops import queries
    from kekbridge.store import journal

    zone = UTC if utc else None
    start = None if since is None else parsing.instant("--since", since, now(), zone)
    end = None if until is None else parsing.instant("--until", until, now(), zone)
    with open_database(resolve_context(ctx, data_dir, config)) as database:
        with database.snapshot() as connection:
            kinds = queries.wanted_kinds(connection, kind or (), trouble=trouble)
            recent = journal.latest(connection, kinds=kinds, since=start, until=end, limit=limit)
            last = journal.head(connection)[0]
            _print(connection, recent, as_json=as_json, zone=zone)
        if not recent and not follow and not as_json:
            from kekbridge.cli import render

            render.note("No such events.")
        while follow:
            time.sleep(_POLL_S)
            with database.snapshot() as connection:
                new = journal.list_events(connection, after=last)
                _print(
                    connection, [event for event in new if not kinds or event.kind in kinds], as_json=as_json, zone=zone
                )
            last = new[-1].sequence if new else last


def _print(connection: sqlite3.Connection, listed: Sequence[Event], *, as_json: bool, zone: tzinfo | None) -> None:
    """Print one line per event: time, severity, text."""
    from kekbridge.cli import render
    from kekbridge.ops.queries import event_data

    for event in listed:
        data = event_data(connection, event, zone)
        if as_json:
            render.as_json(data)
        else:
            head = f"{formatting.clock(event.at, now(), zone):<11}  {data['severity'] or '':<7}  "
            render.hanging(head, data["words"])
    sys.stdout.flush()


@app.command(
    epilog=examples("kekbridge history verify", "kekbridge history verify --head 1042:9f2c…    a head printed earlier")
)
def verify(
    ctx: typer.Context,
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            metavar="N:HASH",
            help="An earlier output of `history head`; it must still be in the chain.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Recompute and check the hash chain.

    Exit code 1 if an event was changed, moved or removed. Events cut off at the end are detected only with a head that you stored
    elsewhere: save one regularly, or keep backups.
    """
    from kekbridge.cli import render
    from kekbridge.store import journal

    expected = None if head is None else (_sequence(head), head.partition(":")[2].strip())
    with open_database(resolve_context(ctx, data_dir, config)) as database, database.snapshot() as connection:
        broken_at = journal.verify(connection)
        sequence, digest = journal.head(connection)
        if broken_at is None and expected is not None and journal.hash_at(connection, expected[0]) != expected[1]:
            broken_at = expected[0]
    if as_json:
        render.as_json({"ok": broken_at is None, "events": sequence, "hash": digest, "brokenAt": broken_at})
    elif broken_at is None:
        render.line(f"intact: {sequence} events, last hash {digest}")
    else:
        render.line(f"broken at event {broken_at}: changed, moved or removed")
    return 0 if broken_at is None else 1


@app.command(epilog=examples("kekbridge history head", "kekbridge history head >> /mnt/elsewhere/heads"))
def head(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print number and hash of the last event. Store them elsewhere for `history verify --head`."""
    from kekbridge.cli import render
    from kekbridge.store import journal

    with open_database(resolve_context(ctx, data_dir, config)) as database, database.snapshot() as connection:
        sequence, digest = journal.head(connection)
    if as_json:
        render.as_json({"events": sequence, "hash": digest})
    else:
        render.line(f"{sequence}:{digest}")


def _sequence(head: str) -> int:
    from kekbridge.errors import ConfigError

    number, separator, digest = head.partition(":")
    if not separator or not digest or not number.isascii() or not number.isdigit():
        raise ConfigError(f"--head: found {head[:80]!r}, expected number:hash as `kekbridge history head` prints it")
    return int(number)
