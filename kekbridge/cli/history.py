"""`kekbridge history`: is the recorded history whole, and what is in it. Reads only."""

from __future__ import annotations

from typing import Annotated

import typer

from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.cli.workspace import find_workspace, opened

app = typer.Typer(
    help="Check that nobody changed the recorded history.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge history verify", "kekbridge history head --json"),
)


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
    with opened(find_workspace(context, data_dir, config)) as database, database.snapshot() as connection:
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

    with opened(find_workspace(context, data_dir, config)) as database, database.snapshot() as connection:
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
