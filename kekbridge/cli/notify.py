"""`kekbridge notify`: where messages go: entered into the vault, listed without their secrets, tried out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from kekbridge.cli.context import mode_in_force, open_the_vault, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.ops.notifier import Channel
    from kekbridge.vault import OpenVault

app = typer.Typer(
    help="Be told of fills, refusals, limits and trouble.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge notify set < channels.txt", "kekbridge notify test"),
)


@app.command(
    "set",
    epilog=examples(
        "echo 'tgram://TOKEN/CHAT' | kekbridge notify set",
        "kekbridge notify set < /dev/null        tell nobody any more",
    ),
)
def enter(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Read apprise URLs from stdin, one a line, and keep them in the vault in place of the earlier ones.

    A URL holds a token, so it is never an argument. The daemon takes them up when it starts.
    """
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.ops.notifier import NOTIFY_URLS, channels_of

    text = sys.stdin.read()
    channels = channels_of(text.encode())
    for number, channel in enumerate(channels, 1):
        import apprise

        if not apprise.Apprise().add(channel.url):
            raise ConfigError(f"line {number} is no URL that apprise knows; see https://appriseit.com for the forms")
    vault = _vault(context, data_dir, config)
    if channels:
        vault.set(NOTIFY_URLS, text.encode())
    else:
        vault.delete(NOTIFY_URLS)
    if as_json:
        render.as_json([channel.name for channel in channels])
    else:
        render.line(f"{len(channels)} channels kept in the {vault.place.title}; they hold from the daemon's next start")


@app.command(epilog=examples("kekbridge notify channels", "kekbridge notify channels --json"))
def channels(
    context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List the channels by kind and fingerprint; the URLs themselves are never shown."""
    from kekbridge.cli import render

    names = [channel.name for channel in _channels(context, data_dir, config)]
    if as_json:
        render.as_json(names)
        return
    for name in names:
        render.line(name)
    if not names:
        render.note("No channel yet: `kekbridge notify set` reads apprise URLs from stdin.")


@app.command(epilog=examples("kekbridge notify events", "kekbridge notify events --json | jq -r '.[].event'"))
def events(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the events that are told and their words, with the names that your own words in [notify.templates] may use."""
    from kekbridge.cli import render
    from kekbridge.model.notifications import MESSAGES

    wanted = resolve_context(context, data_dir, config).settings.notify
    rows = [
        {
            "event": kind,
            "severity": message.severity,
            "muted": kind in wanted.mute,
            "words": wanted.templates.get(kind, message.words),
            "names": message.names,
        }
        for kind, message in MESSAGES.items()
    ]
    if as_json:
        render.as_json(rows)
        return
    for row in rows:
        words = str(row["words"])
        render.line(f"{row['event']} ({row['severity']}{', muted' if row['muted'] else ''})")
        render.line(f"  {render.to_text(words)}")
        more = [f"{{{name}}}" for name in MESSAGES[str(row["event"])].names if f"{{{name}}}" not in words]
        render.line(f"  also {' '.join(more)}")


@app.command("test", epilog=examples("kekbridge notify test", "kekbridge notify test --json"))
def try_out(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Send one message to every channel now; exit code 1 when one did not take it."""
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError

    found = _channels(context, data_dir, config)
    if not found:
        raise ConfigError("there is no channel; `kekbridge notify set` reads apprise URLs from stdin")
    told = {channel.name: channel.send("kekbridge: test", "Messages reach you here.", "info") for channel in found}
    if as_json:
        render.as_json(told)
    else:
        for name, is_delivered in told.items():
            render.line(f"{name}: {'delivered' if is_delivered else 'not delivered'}")
    return 0 if all(told.values()) else 1


def _vault(context: typer.Context, data_dir: Path | None, config: Path | None) -> OpenVault:
    workspace = resolve_context(context, data_dir, config)
    with opened(workspace, create=True) as database:
        mode = mode_in_force(workspace, database)
    return open_the_vault(workspace, mode)


def _channels(context: typer.Context, data_dir: Path | None, config: Path | None) -> tuple[Channel, ...]:
    from kekbridge.ops.notifier import NOTIFY_URLS, channels_of

    return channels_of(_vault(context, data_dir, config).get(NOTIFY_URLS))
