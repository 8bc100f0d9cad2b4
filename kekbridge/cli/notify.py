"""`kekbridge notify`: notification channels, in the vault and never shown; which events are sent, how, and when not."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import resolve_context
from kekbridge.cli.filters import complete_kinds
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    cls=CommandGroup,
    help="Configure notifications for fills, rejections, limits and errors.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples(
        "kekbridge notify add < channel.txt",
        "kekbridge notify test",
        "kekbridge notify quiet-hours 22:00-07:00 --zone Europe/Berlin",
        "kekbridge notify level order_filled off",
    ),
)

_ChannelName = Annotated[
    str, typer.Argument(metavar="NAME", help="As `notify channels` shows it, or its beginning.", show_default=False)
]


@app.command(
    "set",
    epilog=examples(
        "echo 'tgram://TOKEN/CHAT' | kekbridge notify set",
        "kekbridge notify set < /dev/null        remove all channels",
    ),
)
def enter(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Read apprise URLs from stdin and store them in the vault.

    One URL per line; they replace the earlier ones. A URL contains a token, so it is never an argument. A running bridge uses the new
    channels at once.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import SetChannels

    names = run_operation(resolve_context(ctx, data_dir, config), SetChannels(urls=sys.stdin.read()))
    if as_json:
        render.as_json(names)
    else:
        render.line(f"stored {len(names)} channels in the vault")


@app.command(epilog=examples("echo 'ntfys://ntfy.sh/TOPIC' | kekbridge notify add"))
def add(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Read apprise URLs from stdin, one per line, and add them to the channels.

    A running bridge uses them at once, from the next event on.
    """
    from kekbridge.ops.vault_operations import ChangeChannels

    _change(ctx, data_dir, config, ChangeChannels(add=sys.stdin.read()), as_json=as_json)


@app.command(epilog=examples("echo 'ntfys://ntfy.sh/OTHER' | kekbridge notify edit ntfys-1f0c4d2a"))
def edit(
    ctx: typer.Context,
    name: _ChannelName,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Read an apprise URL from stdin and put it in the place of a channel. A running bridge uses it at once."""
    from kekbridge.errors import ConfigError
    from kekbridge.ops.vault_operations import ChangeChannels

    urls = sys.stdin.read()
    if not urls.strip():
        raise ConfigError(f"found no URL on stdin; to remove the channel: kekbridge notify remove {name}")
    _change(ctx, data_dir, config, ChangeChannels(add=urls, remove=name), as_json=as_json)


@app.command(epilog=examples("kekbridge notify remove ntfys-1f0c4d2a"))
def remove(
    ctx: typer.Context,
    name: _ChannelName,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Remove one channel. A running bridge sends nothing there from now on."""
    from kekbridge.ops.vault_operations import ChangeChannels

    _change(ctx, data_dir, config, ChangeChannels(remove=name), as_json=as_json)


def _change(ctx: typer.Context, data_dir: Any, config: Any, operation: Any, *, as_json: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation

    names = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(names)
    else:
        render.line(f"channels now: {', '.join(names) or 'none'}")


@app.command(epilog=examples("kekbridge notify channels", "kekbridge notify channels --json"))
def channels(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the channels by kind and fingerprint. URLs are never shown."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import ListChannels

    names = run_operation(resolve_context(ctx, data_dir, config), ListChannels())
    if as_json:
        render.as_json(names)
        return
    for name in names:
        render.line(name)
    if not names:
        render.note("No channels yet. `kekbridge notify add` reads apprise URLs from stdin.")


@app.command(epilog=examples("kekbridge notify events", "kekbridge notify events --json | jq -r '.[].event'"))
def events(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List notifications with their levels and texts.

    Texts of your own in [notify.templates] may use the fields shown.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.notify_settings import ListEvents

    rows = run_operation(resolve_context(ctx, data_dir, config), ListEvents())
    if as_json:
        render.as_json(rows)
        return
    for row in rows:
        text = str(row["words"])
        level = f"{row['severity']}, muted" if row["muted"] else row["level"]
        own = f", by default {row['severity']}" if not row["muted"] and row["level"] != row["severity"] else ""
        render.line(f"{row['event']} ({level}{own})")
        render.line(f"  {formatting.to_text(text)}")
        more = [f"{{{name}}}" for name in row["names"] if f"{{{name}}}" not in text]
        render.line(f"  also {' '.join(more)}")


def _complete_levels(incomplete: str) -> list[str]:
    from kekbridge.model.notifications import LEVELS

    return [level for level in (*LEVELS, "default") if level.startswith(incomplete)]


@app.command(
    epilog=examples(
        "kekbridge notify level order_filled off            not sent",
        "kekbridge notify level stop_fired failure        sent in quiet hours, too",
        "kekbridge notify level order_filled default        as in the settings",
    )
)
def level(
    ctx: typer.Context,
    event: Annotated[
        str,
        typer.Argument(
            metavar="EVENT",
            help="As `notify events` lists it.",
            show_default=False,
            autocompletion=complete_kinds,
        ),
    ],
    to: Annotated[
        str,
        typer.Argument(
            metavar="LEVEL",
            help="off, info, warning, failure or default.",
            show_default=False,
            autocompletion=_complete_levels,
        ),
    ],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Set how important an event is to you.

    Takes effect at once, and precedence over [notify.levels] of the settings. Quiet hours hold back all but `failure`.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.notify_settings import SetLevel

    data = run_operation(resolve_context(ctx, data_dir, config), SetLevel(event=event, level=to))
    if as_json:
        render.as_json(data)
    else:
        render.line(f"{data['event']}: {data['level']}")


@app.command(
    "quiet-hours",
    epilog=examples(
        "kekbridge notify quiet-hours                               what is in force",
        "kekbridge notify quiet-hours 22:00-07:00 --zone Europe/Berlin",
        "kekbridge notify quiet-hours off",
        "kekbridge notify quiet-hours default                     as in the settings",
    ),
)
def quiet_hours(
    ctx: typer.Context,
    hours: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOURS]", help="Such as 22:00-07:00; off; or default, the settings'.", show_default=False
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE",
            help="Time zone, such as Europe/Berlin. Default: notify.zone, else this machine's.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Set the hours in which only failures are sent; the rest is sent afterwards as one digest.

    Takes effect at once, and precedence over notify.quiet_hours of the settings. Without HOURS it shows those in force.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import ConfigError
    from kekbridge.ops.notify_settings import SetQuietHours, ShowQuietHours

    if hours is None and zone is not None:
        raise ConfigError(
            "found a zone without hours; write both: kekbridge notify quiet-hours 22:00-07:00 --zone ZONE"
        )
    operation = ShowQuietHours() if hours is None else SetQuietHours(hours=hours, zone=zone)
    data = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(data)
    else:
        where = data["zone"] or "this machine's time"
        render.line(f"quiet hours: {data['hours']} ({where})" if data["hours"] else "no quiet hours")


@app.command("test", epilog=examples("kekbridge notify test", "kekbridge notify test --json"))
def try_out(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Send a test message to every channel. Exit code 1 if any delivery failed."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import TryChannels

    delivered = run_operation(resolve_context(ctx, data_dir, config), TryChannels())
    if as_json:
        render.as_json(delivered)
    else:
        for name, is_delivered in delivered.items():
            render.line(f"{name}: {'delivered' if is_delivered else 'not delivered'}")
    return 0 if all(delivered.values()) else 1
