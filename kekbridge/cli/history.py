"""`kekbridge history`: what happened, in words, and whether the record of it is whole. Reads only."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kekbridge import parsing
from kekbridge.cli.context import now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from kekbridge.store.events import Event

_LOOK_EVERY_S: Final = 0.3

app = typer.Typer(
    help="What happened, event by event, and whether nobody changed the record.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge history list --since 24h", "kekbridge history verify"),
)


def _option(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@app.command(
    "list",
    epilog=examples(
        "kekbridge history list",
        "kekbridge history list --trouble --since 7d",
        "kekbridge history list -f --kind stream_down --kind stream_back",
    ),
)
def show(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what happens. Ctrl-C stops.")] = False,
    trouble: Annotated[bool, typer.Option("--trouble", help="Warnings and failures only.")] = False,
    kind: Annotated[list[str] | None, _option("EVENT", "Of this kind only. Repeatable.")] = None,
    since: Annotated[str | None, _option("TIME", "From then on: 2h, 7d, or 2026-11-22T16:00 (UTC).")] = None,
    until: Annotated[str | None, _option("TIME", "Up to then.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="The newest N.")] = 50,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List what happened, newest last: orders, limits, connections, jobs, changes of webhooks. With --json one line for each."""
    from kekbridge.model.notifications import MESSAGES
    from kekbridge.store import events

    kinds = tuple(kind or ())
    if trouble:
        kinds = tuple(name for name, one in MESSAGES.items() if one.severity != "info" and (not kinds or name in kinds))
    began = None if since is None else parsing.instant("--since", since, now())
    ended = None if until is None else parsing.instant("--until", until, now())
    with opened(resolve_context(context, data_dir, config)) as database:
        with database.snapshot() as connection:
            found = events.latest(connection, kinds=kinds, since=began, until=ended, limit=limit)
            last = events.head(connection)[0]
            _print(connection, found, as_json=as_json)
        if not found and not follow and not as_json:
            from kekbridge.cli import render

            render.note("Nothing of that kind happened.")
        while follow:
            time.sleep(_LOOK_EVERY_S)
            with database.snapshot() as connection:
                news = events.list_events(connection, after=last)
                _print(connection, [event for event in news if not kinds or event.kind in kinds], as_json=as_json)
            last = news[-1].sequence if news else last


def _print(connection: sqlite3.Connection, found: Sequence[Event], *, as_json: bool) -> None:
    """One line each: when, how serious, what."""
    from kekbridge.cli import render
    from kekbridge.model.notifications import describe
    from kekbridge.ops.notifier import order_facts

    for event in found:
        severity, words = describe(event.kind, {**order_facts(connection, event), **event.data})
        if as_json:
            render.as_json(render.to_jsonable(event) | {"severity": severity, "words": words})
        else:
            render.line(f"{render.clock(event.at, now()):<11}  {severity or '':<7}  {words}")
    sys.stdout.flush()


@app.command(
    epilog=examples(
        "kekbridge history verify", "kekbridge history verify --head 1042:9f2c…    as `history head` printed it once"
    )
)
def verify(
    context: typer.Context,
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            metavar="N:HASH",
            help="What `history head` printed earlier: must still be in it.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Recompute the chain of hashes; exit code 1 when an event was changed, moved or removed.

    What was cut off at the end shows only against a head that you kept elsewhere: print it now and then, or keep a backup.
    """
    from kekbridge.cli import render
    from kekbridge.store import events

    kept = None if head is None else (_sequence(head), head.partition(":")[2].strip())
    with opened(resolve_context(context, data_dir, config)) as database, database.snapshot() as connection:
        broken_at = events.verify(connection)
        sequence, digest = events.head(connection)
        if broken_at is None and kept is not None and events.hash_at(connection, kept[0]) != kept[1]:
            broken_at = kept[0]
    if as_json:
        render.as_json({"ok": broken_at is None, "events": sequence, "hash": digest, "brokenAt": broken_at})
    elif broken_at is None:
        render.line(f"whole: {sequence} events, last hash {digest}")
    else:
        render.line(f"broken at event {broken_at}: it was changed, moved or removed")
    return 0 if broken_at is None else 1


@app.command(epilog=examples("kekbridge history head", "kekbridge history head >> /mnt/elsewhere/heads"))
def head(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print number and hash of the last event, to be kept elsewhere for `history verify --head`."""
    from kekbridge.cli import render
    from kekbridge.store import events

    with opened(resolve_context(context, data_dir, config)) as database, database.snapshot() as connection:
        sequence, digest = events.head(connection)
    if as_json:
        render.as_json({"events": sequence, "hash": digest})
    else:
        render.line(f"{sequence}:{digest}")


def _sequence(kept: str) -> int:
    from kekbridge.errors import ConfigError

    number, separator, digest = kept.partition(":")
    if not separator or not digest or not number.isascii() or not number.isdigit():
        raise ConfigError(f"--head: found {kept[:80]!r}, expected number:hash as `kekbridge history head` prints it")
    return int(number)
