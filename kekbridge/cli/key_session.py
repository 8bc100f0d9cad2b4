"""Shared by the commands for Orderly keys: account and venue, reading secrets, key management at the exchange.

Secrets are read from a hidden prompt or from stdin, never from an argument: arguments show in the process list.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kekbridge.cli.context import CliContext, now, open_database, open_vault, resolve_context

if TYPE_CHECKING:
    from kekbridge.exchange.orderly.key_management import KeyManagement
    from kekbridge.exchange.orderly.signing import Signer
    from kekbridge.model import Mode
    from kekbridge.model.check import Check
    from kekbridge.vault import OpenVault

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

    #: Data directory and settings.
    context: CliContext
    #: Venue: testnet or live.
    mode: Mode
    #: Orderly account, 0x and 64 hex digits; empty when the command needs none.
    account_id: str

    def open_vault(self) -> OpenVault:
        """Open the vault; may prompt for its passphrase."""
        return open_vault(self.context, self.mode)

    def signer(self, vault: OpenVault) -> Signer:
        """Return a signer with the account's key from the vault. Raises NotFound when it holds none."""
        from kekbridge.errors import NotFound
        from kekbridge.exchange.orderly.signing import Signer
        from kekbridge.vault import orderly_secret

        secret = vault.get(orderly_secret(self.account_id))
        if secret is None:
            raise NotFound(
                "key_missing",
                f"no Orderly key for {self.account_id} in the {vault.title}; add one with `kekbridge keys add`",
            )
        return Signer(self.account_id, secret.decode())

    def key_management(self, signer: Signer) -> KeyManagement:
        """Return a client of the exchange's key management API."""
        from kekbridge.exchange.orderly.key_management import KeyManagement

        settings = self.context.settings.exchange
        return KeyManagement(self.mode.value, settings.base_url, signer, timeout_s=settings.request_timeout_s)

    def checks(self, signer: Signer) -> tuple[Check, ...]:
        """Check the key with the exchange: reachable, clock, key, scopes, expiry, addresses, account, markets."""
        import asyncio

        from kekbridge.exchange.orderly.client import OrderlyExchange

        async def run_checks() -> tuple[Check, ...]:
            settings = self.context.settings.exchange
            exchange = OrderlyExchange(self.mode.value, settings.base_url, signer, settings)
            try:
                return await exchange.checks()
            finally:
                await exchange.close()

        return asyncio.run(run_checks())

    def record_key(self, orderly_key: str, account_id: str) -> None:
        """Record in the store that the vault holds this account's key."""
        from kekbridge.cli import exchange_keys

        at = now()
        with open_database(self.context, create=True) as database, database.transaction() as connection:
            key = exchange_keys.KnownKey(account_id, orderly_key, self.mode, at)
            exchange_keys.add_key(connection, key, now=at)


def key_session(
    ctx: typer.Context,
    data_dir: Path | None,
    config: Path | None,
    mode: str | None,
    account: str | None,
    *,
    needs_account: bool = True,
) -> KeySession:
    """Return venue and account from options and settings. Raises ConfigError in paper mode, or without an account."""
    from kekbridge.errors import ConfigError
    from kekbridge.model import Mode

    context = resolve_context(ctx, data_dir, config, {"mode": mode})
    if context.settings.mode is Mode.PAPER:
        raise ConfigError(
            'paper mode needs no key of yours; choose the venue with --mode testnet or --mode live, or set mode = "live"'
        )
    account_id = (account or context.settings.exchange.account_id).strip()
    if needs_account and not account_id:
        raise ConfigError(
            "no account given; set exchange.account_id in the settings file, or use --account 0x… (shown on the exchange's API key"
            " page)",
            field="exchange.account_id",
        )
    return KeySession(context, context.settings.mode, account_id)


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


def checks_as_data(checks: tuple[Check, ...]) -> list[dict[str, str]]:
    """Return the checks for JSON."""
    return [{"name": check.name, "level": check.level, "text": check.text, "fix": check.fix} for check in checks]


def print_checks(checks: list[dict[str, Any]]) -> None:
    """Print one line per check on stdout, and the fixes on stderr."""
    from kekbridge.cli import render

    columns = [render.Column("CHECK"), render.Column("STATE", is_status=True), render.Column("FOUND", shrinks=True)]
    render.table(columns, [(check["name"], check["level"], check["text"]) for check in checks])
    for check in checks:
        if check["fix"]:
            render.note(f"{check['name']}: {check['fix']}")
