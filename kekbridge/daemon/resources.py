"""Open the daemon's resources in order: directory, lock, vault, store, paper exchange, certificate, exchange client.

The only module that maps a mode to its exchange. Nothing here listens for alerts or trades; the exit stack closes everything in reverse.
What only some bridges need (the paper exchange, an automatic certificate) is imported where it is opened.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from kekbridge.config import Settings
from kekbridge.daemon.steady_clock import SteadyClock
from kekbridge.errors import ConfigError
from kekbridge.exchange.base import Exchange
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.log import get_logger
from kekbridge.model import Mode
from kekbridge.ops import exchange_keys
from kekbridge.ops.standby_record import require_no_standby
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET
from kekbridge.store.account_identity import AccountIdentity, remember, remembered, require_same
from kekbridge.store.database import Database
from kekbridge.store.files import MARKER
from kekbridge.store.lock import DaemonLock
from kekbridge.vault import OpenVault, Sealer, master_key, open_vault, orderly_secret
from kekbridge.webhooks import registry

if TYPE_CHECKING:
    from kekbridge.ingress.tls.acme import AutoCertificate
    from kekbridge.ops.replication import Replication
    from kekbridge.paper.server import PaperExchange

log = get_logger("kekbridge.daemon.resources")


class _Clocks(TypedDict, total=False):
    clock: Callable[[], datetime]
    set_clock: Callable[[int], None]
    ahead_of_wall_ms: Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Everything that `open_all` opened."""

    settings: Settings
    #: Holds the database, the vault's files and the backups.
    data_dir: Path
    #: Where secrets are kept.
    vault: OpenVault
    sealer: Sealer
    database: Database
    exchange: Exchange
    #: Set if kekbridge obtains the certificate of tls.domain itself.
    certificate: AutoCertificate | None
    #: Set if the database is replicated.
    replication: Replication | None
    #: Address of the embedded paper exchange, if it runs.
    paper_url: str | None
    #: Offers a symbol's price to the exchange; True if it became the mark, which only the embedded paper exchange may do.
    offer_price: Callable[[str, Decimal], bool]
    clock: Callable[[], datetime]


async def open_all(
    settings: Settings, data_dir: Path, stack: AsyncExitStack, *, clock: Callable[[], datetime]
) -> Resources:
    """Open everything in order; the stack closes it in reverse. Raises OperatorError."""
    prepare_data_dir(data_dir)
    require_no_standby(data_dir)
    stack.enter_context(DaemonLock(data_dir))
    vault = await asyncio.to_thread(open_vault, settings.vault, data_dir, settings.mode, ask=_ask_on_terminal())
    sealer = Sealer(await asyncio.to_thread(master_key, vault))
    replication = await _replication(settings, data_dir, vault, clock)
    if replication is not None:
        stack.push_async_callback(replication.stop)  # after the database: what was written last is copied, too
    database = await asyncio.to_thread(Database.open, data_dir, is_replicated=replication is not None)
    stack.push_async_callback(database.close)
    await asyncio.to_thread(_claim_data_dir, database, settings, data_dir, clock)
    paper = await _start_paper(settings, data_dir, stack, clock)
    certificate = _auto_certificate(settings, data_dir, database, clock)
    if certificate is not None:
        await certificate.ensure()
    paper_url = paper.base_url if paper else None
    exchange = exchange_client(settings, vault, paper_url, clock)
    stack.push_async_callback(exchange.close)
    signer = exchange.signer
    await database.write(exchange_keys.note_in_use, signer.account_id, signer.orderly_key, now=clock())
    return Resources(
        settings=settings,
        data_dir=data_dir,
        vault=vault,
        sealer=sealer,
        database=database,
        exchange=exchange,
        certificate=certificate,
        replication=replication,
        paper_url=paper_url,
        offer_price=paper.hint_price if paper else _ignore_price,
        clock=clock,
    )


def prepare_data_dir(data_dir: Path) -> None:
    """Create the data directory for its owner only. Raises ConfigError if that is not possible."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"data directory {data_dir} cannot be used: {error.strerror}; choose another with --data-dir"
        ) from None


def account_of(settings: Settings) -> AccountIdentity | None:
    """The account that the settings name; None if it is not set yet."""
    account_id = settings.exchange.account_id
    if settings.mode is Mode.PAPER:
        account_id = account_id or PAPER_ACCOUNT_ID
    return AccountIdentity(mode=settings.mode, account_id=account_id) if account_id else None


def _claim_data_dir(database: Database, settings: Settings, data_dir: Path, clock: Callable[[], datetime]) -> None:
    """Remember at the first start whose directory this is. Raises ConfigError if it belongs to another account or mode.

    A directory of a version that remembered no account adopts the present one, if its last daemon ran in the same mode.
    """
    wanted = account_of(settings)
    if wanted is None:
        return  # the exchange client reports the missing setting
    with database.snapshot() as connection:
        known = remembered(connection)
        if known is None:
            last_mode = registry.mode_of(connection, wanted.mode, is_explicit=False)
            require_same(AccountIdentity(mode=last_mode, account_id=""), wanted, data_dir)
    require_same(known, wanted, data_dir)
    if known is None:
        with database.transaction() as connection:
            remember(connection, wanted, now=clock())
        log.info("data_directory_claimed", account=str(wanted))
    if not (data_dir / MARKER).exists():
        _write_marker(data_dir / MARKER, wanted)


def check_account(connection: sqlite3.Connection, settings: Settings, data_dir: Path) -> None:
    """Raise ConfigError if the settings name another account or mode than the data directory's."""
    wanted = account_of(settings)
    if wanted is not None:
        require_same(remembered(connection), wanted, data_dir)


def _write_marker(path: Path, account: AccountIdentity) -> None:
    """Say beside the database that there is one, and whose. Raises ConfigError."""
    text = json.dumps({"mode": account.mode.value, "accountId": account.account_id}) + "\n"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


async def _start_paper(
    settings: Settings, data_dir: Path, stack: AsyncExitStack, clock: Callable[[], datetime]
) -> PaperExchange | None:
    """Start the embedded paper exchange in paper mode, unless exchange.base_url is set; if its port is taken, on a free one."""
    if settings.mode is not Mode.PAPER or settings.exchange.base_url:
        return None
    from kekbridge.paper.server import PaperExchange
    from kekbridge.paper.settings import PaperSettings

    paper = PaperExchange(
        data_dir / "paper",
        settings=PaperSettings(
            prices=settings.paper.prices, balance=settings.paper.balance, rate_limits=settings.paper.rate_limits
        ),
        clock=lambda: int(clock().timestamp() * 1000),
    )
    try:
        await paper.start(port=settings.paper.port)
    except OSError:
        url = await paper.start(port=0)
        log.warning("paper_port_taken", wanted=settings.paper.port, url=url)
    stack.push_async_callback(paper.close)
    return paper


def exchange_client(
    settings: Settings, vault: OpenVault, paper_url: str | None, clock: Callable[[], datetime]
) -> OrderlyExchange:
    """The client for the mode's exchange. Raises ConfigError without an account or its key."""
    exchange = settings.exchange
    clocks: _Clocks = {"clock": clock}
    if isinstance(clock, SteadyClock):
        clocks |= {"set_clock": clock.step, "ahead_of_wall_ms": clock.ahead_of_wall_ms}
    if settings.mode is Mode.PAPER:
        signer = Signer(exchange.account_id or PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET)
        return OrderlyExchange("paper", exchange.base_url or paper_url or "", signer, exchange, **clocks)
    if not exchange.account_id:
        raise ConfigError(
            f"mode {settings.mode.value} needs exchange.account_id; set it in the config file or KEKBRIDGE_EXCHANGE_ACCOUNT_ID"
        )
    secret = vault.get(orderly_secret(exchange.account_id))
    if secret is None:
        raise ConfigError(
            f"no Orderly key for account {exchange.account_id} in the vault; {exchange_keys.missing_key_fix(vault)}"
        )
    return OrderlyExchange(
        settings.mode.value,
        exchange.base_url,  # empty: the published address of the mode; the stream addresses follow it unless they are set
        Signer(exchange.account_id, secret.decode()),
        exchange,
        ws_public_url=exchange.ws_public_url,
        ws_private_url=exchange.ws_private_url,
        **clocks,
    )


async def _replication(
    settings: Settings, data_dir: Path, vault: OpenVault, clock: Callable[[], datetime]
) -> Replication | None:
    """The replication that `replica.url` asks for; not started yet."""
    if not settings.replica.url:
        return None
    from kekbridge.ops.replica import target_keys
    from kekbridge.ops.replication import Replication

    keys = await asyncio.to_thread(target_keys, settings.replica, vault)
    return Replication(settings.replica, data_dir, secrets=keys, clock=clock)


def _auto_certificate(
    settings: Settings, data_dir: Path, database: Database, clock: Callable[[], datetime]
) -> AutoCertificate | None:
    """The automatic certificate of tls.domain, if it is set; renewals and failures are recorded in the history."""
    if not settings.tls.domain:
        return None
    from kekbridge.ingress.tls.acme import AutoCertificate
    from kekbridge.ops.expiry import record_renewal

    async def report(kind: str, details: dict[str, str]) -> None:
        await database.write(record_renewal, kind, details, now=clock())

    return AutoCertificate(settings.tls, data_dir, host=settings.server.host, clock=clock, report=report)


def _ask_on_terminal() -> Callable[[str], str] | None:
    """A hidden prompt for the vault's passphrase; None without a terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    from getpass import getpass

    return getpass


def _ignore_price(symbol: str, price: Decimal) -> bool:
    """A real exchange has its own marks."""
    return False
