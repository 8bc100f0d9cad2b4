"""What the commands about Orderly keys share: which account at which venue, how secrets are read, and how the exchange is asked.

Secrets are read from a hidden prompt or from stdin, never from an argument: arguments are seen in the process list.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kekbridge.cli.context import CliContext, now, open_the_vault, opened, resolve_context

if TYPE_CHECKING:
    from kekbridge.exchange.orderly.key_management import KeyManagement
    from kekbridge.exchange.orderly.signing import Signer
    from kekbridge.model import Mode
    from kekbridge.model.check import Check
    from kekbridge.vault import OpenVault

Venue = Annotated[
    Literal["testnet", "live"] | None,
    typer.Option("--mode", help="At which venue. Default: the setting `mode`.", show_default=False),
]
Account = Annotated[
    str | None,
    typer.Option("--account", metavar="0x…", help="Default: the setting exchange.account_id.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class KeySession:
    """Where a key command works."""

    workspace: CliContext
    mode: Mode
    account_id: str

    @property
    def vault(self) -> OpenVault:
        """Opened anew at each use; it may prompt."""
        return open_the_vault(self.workspace, self.mode)

    def signer(self, vault: OpenVault) -> Signer:
        """The account's key as the vault has it. Raises NotFound."""
        from kekbridge.errors import NotFound
        from kekbridge.exchange.orderly.signing import Signer
        from kekbridge.vault import orderly_secret

        secret = vault.get(orderly_secret(self.account_id))
        if secret is None:
            raise NotFound(
                "key_missing",
                f"no Orderly key of {self.account_id} in the {vault.title}; add it with `kekbridge keys add`",
            )
        return Signer(self.account_id, secret.decode())

    def desk(self, signer: Signer) -> KeyManagement:
        """The exchange, for questions about keys."""
        from kekbridge.exchange.orderly.key_management import KeyManagement

        wanted = self.workspace.settings.exchange
        return KeyManagement(self.mode.value, wanted.base_url, signer, timeout_s=wanted.request_timeout_s)

    def checks(self, signer: Signer) -> tuple[Check, ...]:
        """The exchange's answers about this key: reachable, clock, key, scopes, expiry, addresses, account, markets."""
        import asyncio

        from kekbridge.exchange.orderly.client import OrderlyExchange

        async def ask() -> tuple[Check, ...]:
            wanted = self.workspace.settings.exchange
            exchange = OrderlyExchange(self.mode.value, wanted.base_url, signer, wanted)
            try:
                return await exchange.checks()
            finally:
                await exchange.close()

        return asyncio.run(ask())

    def remember(self, orderly_key: str, account_id: str) -> None:
        """Note in the store that the vault holds this account's key."""
        from kekbridge.cli import exchange_keys

        at = now()
        with opened(self.workspace, create=True) as database, database.transaction() as connection:
            key = exchange_keys.KnownKey(account_id, orderly_key, self.mode, at)
            exchange_keys.add_key(connection, key, now=at)


def key_session(
    context: typer.Context,
    data_dir: Path | None,
    config: Path | None,
    mode: str | None,
    account: str | None,
    *,
    needs_account: bool = True,
) -> KeySession:
    """Where this command works. Raises ConfigError when there is no venue with keys, or no account."""
    from kekbridge.errors import ConfigError
    from kekbridge.model import Mode

    workspace = resolve_context(context, data_dir, config, {"mode": mode})
    if workspace.settings.mode is Mode.PAPER:
        raise ConfigError(
            'paper mode has its own key and needs no other; name the venue with --mode testnet or --mode live, or set mode = "live"'
        )
    account_id = (account or workspace.settings.exchange.account_id).strip()
    if needs_account and not account_id:
        raise ConfigError(
            "no account is named; set exchange.account_id in the config file, or give --account 0x… (the exchange's API-key page"
            " shows it)",
            field="exchange.account_id",
        )
    return KeySession(workspace, workspace.settings.mode, account_id)


def read_secret(what: str) -> str:
    """One line from a hidden prompt, or from stdin where nobody sits at a terminal. Raises ConfigError when there is none."""
    import getpass

    from kekbridge.errors import ConfigError

    text = getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise ConfigError(f"{what}: nothing was entered; type it at the prompt, or pipe it into the command")
    return text.strip()


def read_line(what: str) -> str:
    """One line that is no secret: asked on a terminal, else the next one of stdin."""
    from kekbridge.errors import ConfigError

    if sys.stdin.isatty():
        sys.stderr.write(f"{what}: ")
        sys.stderr.flush()
    text = sys.stdin.readline()
    if not text.strip():
        raise ConfigError(f"{what}: nothing was entered; nothing was sent to the exchange")
    return text.strip()


def checks_as_data(checks: tuple[Check, ...]) -> list[dict[str, str]]:
    """The checks for scripts."""
    return [{"name": check.name, "level": check.level, "text": check.text, "fix": check.fix} for check in checks]


def print_checks(checks: list[dict[str, Any]]) -> None:
    """One line each, with the fix below where there is one."""
    from kekbridge.cli import render

    columns = [render.Column("CHECK"), render.Column("STATE", is_status=True), render.Column("FOUND", shrinks=True)]
    render.table(columns, [(check["name"], check["level"], check["text"]) for check in checks])
    for check in checks:
        if check["fix"]:
            render.note(f"{check['name']}: {check['fix']}")
