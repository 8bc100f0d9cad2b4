"""Shared by the commands for Orderly keys: account and venue, reading secrets, showing checks.

Secrets are read from a hidden prompt or from stdin, never from an argument: arguments show in the process list.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kekbridge.cli.context import CliContext, resolve_context

if TYPE_CHECKING:
    from kekbridge.model import Mode

Venue = Annotated[
    Literal["testnet", "live"] | None,
    typer.Option("--mode", help="Venue. Default: the setting `mode`.", show_default=False),
]
Account = Annotated[
    str | None,
    typer.Option("--account", metavar="0x…", help="Orderly account. Default: exchange.account_id.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class KeySession:
    """Venue and account that a key command works on."""

    #: Data directory and settings of the command.
    context: CliContext
    #: Venue: testnet or live.
    mode: Mode
    #: Orderly account, 0x and 64 hex digits; empty when the command needs none.
    account_id: str
    #: Account in the settings of the bridge that runs, else in the command's own; empty: none.
    configured_account_id: str
    #: Broker in the same settings, such as kek_ai.
    broker_id: str


def key_session(
    ctx: typer.Context,
    data_dir: Path | None,
    config: Path | None,
    mode: str | None,
    account: str | None,
    *,
    needs_account: bool = True,
) -> KeySession:
    """Return venue and account from options, else from the settings of the bridge that runs, else from the command's own.

    Raises ConfigError in paper mode, or without an account.
    """
    from kekbridge.cli.as_service import exit_as_service
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import ConfigError
    from kekbridge.model import Mode
    from kekbridge.ops.vault_operations import ShowVenue

    exit_as_service(ctx, data_dir, standby_only=True)
    context = resolve_context(ctx, data_dir, config, {"mode": mode})
    venue = run_operation(context, ShowVenue(mode=Mode(mode) if mode else None))
    chosen = Mode(venue["mode"])
    if chosen is Mode.PAPER:
        raise ConfigError(
            'paper mode needs no key of yours; choose the venue with --mode testnet or --mode live, or set mode = "live"'
        )
    account_id = (account or venue["accountId"]).strip()
    if needs_account and not account_id:
        raise ConfigError(
            "no account given; set exchange.account_id in the settings file, or use --account 0x… (shown on the exchange's API key"
            " page)",
            field="exchange.account_id",
        )
    return KeySession(
        context,
        chosen,
        account_id,
        configured_account_id=venue["accountId"],
        broker_id=venue["brokerId"],
    )


def read_secret(prompt: str) -> str:
    """Read one line from a hidden prompt, or from stdin if that is no terminal. Raises ConfigError for an empty one."""
    import getpass

    from kekbridge.errors import ConfigError

    text = getpass.getpass(f"{prompt}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise ConfigError(f"{prompt}: nothing entered; type it at the prompt, or pipe it into the command")
    return text.strip()


def read_line(prompt: str) -> str:
    """Read one line that is no secret, with a prompt on a terminal. Raises ConfigError for an empty one."""
    from kekbridge.errors import ConfigError

    if sys.stdin.isatty():
        sys.stderr.write(f"{prompt}: ")
        sys.stderr.flush()
    text = sys.stdin.readline()
    if not text.strip():
        raise ConfigError(f"{prompt}: nothing entered; nothing was sent to the exchange")
    return text.strip()


def print_checks(checks: list[dict[str, Any]]) -> None:
    """Print one line per check on stdout, and the fixes on stderr."""
    from kekbridge.cli import render

    columns = [render.Column("CHECK"), render.Column("STATE", is_status=True), render.Column("FOUND", shrinks=True)]
    render.table(columns, [(check["name"], check["level"], check["text"]) for check in checks])
    for check in checks:
        if check["fix"]:
            render.note(f"{check['name']}: {check['fix']}")
