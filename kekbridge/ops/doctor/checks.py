"""Run all checks in reading order: this machine, the store, the exchange, the daemon, reachability from TradingView.

A part that cannot be opened is one broken line; the others are still checked.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from kekbridge.config import Settings
from kekbridge.errors import KekbridgeError, VaultError
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops import exchange_keys, standby
from kekbridge.ops.doctor import jobs, machine, service, setup
from kekbridge.ops.doctor.reachability import public_url_checks
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.vault import OpenVault, master_key, open_vault, orderly_secret
from kekbridge.vault.master import recorded_vault
from kekbridge.webhooks import registry

AskPassphrase = Callable[[str], str] | None


def examine(
    settings: Settings,
    data_dir: Path,
    *,
    clock: Callable[[], datetime],
    ask: AskPassphrase = None,
    vault: OpenVault | None = None,
    unopened: str = "",
) -> tuple[Check, ...]:
    """Run every check once. Blocks for up to some seconds.

    `settings` contain the mode in force. `vault` is the one that the daemon has open; without it, it is opened here and `ask` prompts for
    its passphrase on a terminal, unless `unopened` says why it must not be. No line contains a secret.
    """
    now, is_daemon = clock(), vault is not None
    checks = [*machine.data_directory(data_dir), *machine.disk(data_dir, settings.store.warn_free_mb)]
    if vault is not None:
        vault_check = _vault_check(settings, vault)
    elif unopened:
        vault_check = Check("vault", "warning", f"not checked: {unopened}")
    else:
        vault, vault_check = _vault(settings, data_dir, ask)
    checks += [vault_check, *_standby(settings, data_dir, vault)]
    checks += [*machine.certificate(settings.tls, now), *machine.proxy(settings)]
    url, store_checks = _store(settings, data_dir, now, is_daemon=is_daemon)
    checks += [*store_checks, *jobs.channels(settings, vault)]
    checks += asyncio.run(_exchange(settings, vault, clock))
    checks += service.daemon_checks(data_dir, url)
    checks += service.systemd_checks(settings.mode)
    checks += public_url_checks(settings, now)
    return tuple(checks)


def _vault(settings: Settings, data_dir: Path, ask: AskPassphrase) -> tuple[OpenVault | None, Check]:
    """Open the vault and check that it has the data directory's master key; never creates one."""
    if not data_dir.is_dir():
        return None, Check("vault", "ok", "no secrets yet; the first start chooses the vault")
    try:
        vault = open_vault(settings.vault, data_dir, settings.mode, ask=ask)
        if recorded_vault(data_dir) is None:
            return vault, Check("vault", "ok", f"{vault.description}; the first start creates the master key")
        master_key(vault)
    except KekbridgeError as error:
        return None, Check(
            "vault", "broken", error.message, "make that vault available again; `kekbridge docs live` explains vaults"
        )
    return vault, _vault_check(settings, vault)


def _vault_check(settings: Settings, vault: OpenVault) -> Check:
    if vault.is_plain and settings.mode is not Mode.PAPER:
        return Check("vault", "warning", f"{vault.description} is not encrypted", "use systemd credentials")
    return Check("vault", "ok", vault.description)


def _standby(settings: Settings, data_dir: Path, vault: OpenVault | None) -> list[Check]:
    """Whether this machine is a standby, and ready."""
    try:
        return list(standby.checks(settings, data_dir, vault))
    except VaultError as error:
        return [Check("standby", "broken", error.message, "run `kekbridge replica prepare` again")]


def _store(settings: Settings, data_dir: Path, now: datetime, *, is_daemon: bool) -> tuple[str, list[Check]]:
    """The daemon's address on this machine, and the checks of the store."""
    usual = f"{'https' if settings.tls.cert else 'http'}://{settings.server.host}:{settings.server.port}"
    if not (data_dir / FILE_NAME).exists():
        return usual, [Check("database", "ok", "none yet; the first start makes it")]
    try:
        database = Database.open(data_dir, create=False, migrate=not is_daemon)
        try:
            with database.snapshot() as connection:
                url = registry.local_url_of(connection) or usual
                return url, [
                    *machine.database(connection),
                    *setup.checks(connection, settings, now),
                    *jobs.checks(connection, settings, data_dir, now),
                ]
        finally:
            database.close_now()
    except (KekbridgeError, sqlite3.Error) as error:
        text = error.message if isinstance(error, KekbridgeError) else f"the database cannot be read: {error}"
        fix = "stop the daemon and restore a backup: `kekbridge restore FILE`"
        return usual, [Check("database", "broken", text, fix)]


async def _exchange(settings: Settings, vault: OpenVault | None, clock: Callable[[], datetime]) -> list[Check]:
    """The venue's own checks. The embedded paper exchange runs with the daemon, whose check covers it."""
    configured = settings.exchange
    if settings.mode is Mode.PAPER:
        if not configured.base_url:
            return [Check("exchange", "ok", "paper: the embedded exchange, started with the daemon")]
        signer = Signer(configured.account_id or PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET)
    else:
        if not configured.account_id:
            text = f"mode {settings.mode.value} needs exchange.account_id"
            return [
                Check("exchange", "broken", text, "set it in the config file; the exchange's API-key page shows it")
            ]
        if vault is None:
            return [Check("exchange", "warning", "not checked: the key is in a vault that cannot be opened")]
        secret = vault.get(orderly_secret(configured.account_id))
        if secret is None:
            text = f"no Orderly key for account {configured.account_id} in the {vault.title}"
            return [Check("exchange", "broken", text, exchange_keys.missing_key_fix(vault))]
        signer = Signer(configured.account_id, secret.decode())
    exchange = OrderlyExchange(settings.mode.value, configured.base_url, signer, configured, clock=clock)
    try:
        return list(await exchange.checks())
    finally:
        await exchange.close()
