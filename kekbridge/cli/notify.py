"""`kekbridge notify`: notification channels: store them in the vault, list them without secrets, test them."""

from __future__ import annotations

import sys

import typer

from kekbridge import formatting
from kekbridge.cli.context import resolve_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    cls=CommandGroup,
    help="Configure notifications for fills, rejections, limits and errors.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge notify set < channels.txt", "kekbridge notify test"),
)


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
        render.note("No channels yet. `kekbridge notify set` reads apprise URLs from stdin.")


@app.command(epilog=examples("kekbridge notify events", "kekbridge notify events --json | jq -r '.[].event'"))
def events(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List notifications with their texts.

    Texts of your own in [notify.templates] may use the fields shown.
    """
    from kekbridge.cli import render
    from kekbridge.model.notifications import MESSAGES

    notify = resolve_context(ctx, data_dir, config).settings.notify
    rows = [
        {
            "event": kind,
            "severity": message.severity,
            "muted": kind in notify.mute,
            "words": notify.templates.get(kind, message.template),
            "names": message.names,
        }
        for kind, message in MESSAGES.items()
    ]
    if as_json:
        render.as_json(rows)
        return
    for row in rows:
        text = str(row["words"])
        render.line(f"{row['event']} ({row['severity']}{', muted' if row['muted'] else ''})")
        render.line(f"  {formatting.to_text(text)}")
        more = [f"{{{name}}}" for name in MESSAGES[str(row["event"])].names if f"{{{name}}}" not in text]
        render.line(f"  also {' '.join(more)}")


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
