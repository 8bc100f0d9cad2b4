"""The composition root: builds every part, starts them in order, stops them in reverse. The only place that names venues.

    vault -> store -> (paper exchange) -> exchange -> follower/recovery -> pipeline -> worker -> listener -> jobs

Crash-only: the start is the recovery path. The listener answers as soon as the store is open (alerts are queued durably), the worker starts
only once the bridge's view equals the exchange's.
"""

from __future__ import annotations

import asyncio
import gc
import getpass
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import structlog

from kekbridge import coredumps
from kekbridge.admin.access import make_token
from kekbridge.admin.desk import Desk
from kekbridge.admin.server import AdminServer
from kekbridge.attacks import AttackLog
from kekbridge.canceling import Canceller
from kekbridge.config import Server, Settings
from kekbridge.decision import Terms
from kekbridge.delivery import WEBHOOK_PATH, Readiness
from kekbridge.equity import EquityWatch
from kekbridge.errors import ConfigError, KekbridgeError, StoreUnavailable
from kekbridge.exchange.checks import Check
from kekbridge.exchange.orderly import OrderlyExchange
from kekbridge.exchange.signing import Signer
from kekbridge.following import Follower
from kekbridge.ingress.addresses import AllowList
from kekbridge.ingress.auth import Authenticator
from kekbridge.ingress.autocert import AutoCertificate
from kekbridge.ingress.certificates import PinnedCertificates
from kekbridge.ingress.listener import Listener
from kekbridge.ingress.lockout import Lockout
from kekbridge.ingress.tls import serving_context
from kekbridge.jobs import Jobs
from kekbridge.keyuse import KeyUse
from kekbridge.leftovers import Leftovers
from kekbridge.model import Mode
from kekbridge.notify import NOTIFY_URLS, Notifier, channels_of
from kekbridge.outcomes import Outcomes
from kekbridge.paper.identity import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.pipeline import Pipeline
from kekbridge.preflight import check_settings
from kekbridge.protect import Guard
from kekbridge.recovery import Recovery
from kekbridge.refusals import RefusalLog
from kekbridge.risk.limits import account_limits
from kekbridge.store import settings as store_settings
from kekbridge.store import webhooks
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock
from kekbridge.supervise import InheritedSocket, Supervisor, inherited_sockets
from kekbridge.takeprofits import TakeProfits
from kekbridge.upkeep.expiry import note_renewal
from kekbridge.vault import OpenVault, Sealer, master_key, open_vault, orderly_secret
from kekbridge.webhooks import domain_url
from kekbridge.worker import Worker

log = structlog.get_logger("kekbridge.daemon")


_RECOVERY_PAUSE_S = 1.0
_EXCHANGE_ADDRESS = "exchange_address"
_ADMIN_ADDRESS = "admin_address"
_SETTLE_S = 2.0
_CLOCK: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: E731 - a clock is a function


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a person or a script needs to know once everything listens."""

    mode: Mode
    url: str
    webhook_url: str
    vault: str
    data_dir: Path
    paper_url: str | None
    checks: tuple[Check, ...] = ()


def serve(settings: Settings, data_dir: Path, *, announce: Callable[[Started], None]) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns the exit code. A second signal forces.

    Raises OperatorError (one line) when it cannot start.
    """
    coredumps.forbid()
    return asyncio.run(_serve(settings, data_dir, announce))


async def _serve(settings: Settings, data_dir: Path, announce: Callable[[Started], None]) -> int:
    stop = asyncio.Event()
    _install_signals(stop)
    supervisor = Supervisor.from_environment(os.environ)
    sockets = inherited_sockets(os.environ)
    async with AsyncExitStack() as stack:
        daemon = await Daemon.build(settings, data_dir, stack, supervisor=supervisor, sockets=sockets)
        async with daemon.running():
            await daemon.wait_until_recovered(_SETTLE_S)
            announce(replace(daemon.started, checks=await daemon.check_venue(_SETTLE_S)))
            supervisor.ready()
            await stop.wait()
            supervisor.stopping()
    return 0


def _install_signals(stop: asyncio.Event) -> None:
    def on_signal() -> None:
        if stop.is_set():
            log.warning("forced_stop")
            os._exit(130)  # the store is crash-safe: a forced stop is a crash, and the next start recovers
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


class Daemon:
    """All parts of a running bridge. Tests build one in-process; `serve` runs one as the process."""

    started: Started

    def __init__(
        self,
        *,
        settings: Settings,
        data_dir: Path,
        vault: OpenVault,
        sealer: Sealer,
        database: Database,
        paper: PaperExchange | None,
        exchange: OrderlyExchange,
        certificate: AutoCertificate | None,
        clock: Callable[[], datetime],
        supervisor: Supervisor,
        sockets: Sequence[InheritedSocket],
    ) -> None:
        self._settings = settings
        self._certificate = certificate
        self._tls = certificate.tls if certificate else settings.tls
        self._supervisor = supervisor
        self._clock = clock
        self._sockets = sockets
        self._data_dir = data_dir
        self._vault = vault
        self.sealer = sealer
        self._paper_url = paper.base_url if paper else None
        self.database = database
        self.exchange = exchange
        self._recovered = asyncio.Event()
        outcomes = Outcomes()
        self._outcomes = outcomes
        self.follower = Follower(
            database=database,
            exchange=exchange,
            outcomes=outcomes,
            settings=settings.queue,
            clock=clock,
            protection_changed=self._look_after_positions,
        )
        self.recovery = Recovery(
            database=database,
            exchange=exchange,
            follower=self.follower,
            outcomes=outcomes,
            settings=settings,
            clock=clock,
        )
        self.canceller = Canceller(
            database=database, exchange=exchange, follower=self.follower, outcomes=outcomes, clock=clock
        )
        self.worker = Worker(
            database=database,
            follower=self.follower,
            recovery=self.recovery,
            canceller=self.canceller,
            outcomes=outcomes,
            settings=settings.queue,
            clock=clock,
        )
        self.key_use = KeyUse(database)
        self.pipeline = Pipeline(
            door=Authenticator(
                lambda lookup: database.read_now(webhooks.find_by_lookup, lookup, clock()),
                sealer,
                used=self.key_use.note,
            ),
            database=database,
            exchange=exchange,
            outcomes=outcomes,
            settings=settings,
            terms=_terms(settings),
            clock=clock,
            departures=self.worker,
            tell_price=paper.hint_price if paper else _keep_own_prices,
        )
        self.guard = Guard(
            database=database, exchange=exchange, settings=settings.queue, clock=clock, submit=self.pipeline.submit
        )
        self.take_profits = TakeProfits(database=database, exchange=exchange, clock=clock, submit=self.pipeline.submit)
        self.leftovers = Leftovers(database=database, exchange=exchange, cancel=self.canceller.cancel, clock=clock)
        self.equity = EquityWatch(
            database=database,
            exchange=exchange,
            transfers=exchange.market.transfers,
            funding=exchange.market.funding_payments,
            account_limits=_terms(settings).account_limits,
            clock=clock,
        )
        self.jobs = Jobs(
            settings=settings,
            data_dir=data_dir,
            certificate_file=self._tls.cert,
            exchange=exchange,
            follower=self.follower,
            recovery=self.recovery,
            guard=self.guard,
            equity=self.equity,
            database=database,
            clock=clock,
        )
        self.attacks = AttackLog(database, clock=clock)
        self.lockout = Lockout(
            failures=settings.auth.lockout_failures,
            window_s=settings.auth.lockout_window_s,
            lockout_s=settings.auth.lockout_s,
            told=self.attacks.note,
        )
        self.admin = _admin(settings, data_dir, self._desk()) if settings.admin.enabled else None
        self.refusals = RefusalLog(database)
        self.listener = Listener(
            self.pipeline.receive,
            self.readiness,
            settings.server,
            clock=clock,
            refused=self.refusals.note,
            allowed=AllowList.parse(settings.auth.allowed_addresses, "auth.allowed_addresses"),
            certificates=PinnedCertificates(settings.auth.client_certificates),
            lockout=self.lockout,
            ssl_context=serving_context(self._tls),
        )

    def _desk(self) -> Desk:
        """What the admin listener works with."""
        return Desk(
            database=self.database,
            exchange=self.exchange,
            sealer=self.sealer,
            settings=self._settings,
            readiness=self.readiness,
            lockout=self.lockout,
            clock=self._clock,
            stages=self._outcomes.stages,
        )

    @classmethod
    async def build(
        cls,
        settings: Settings,
        data_dir: Path,
        stack: AsyncExitStack,
        *,
        clock: Callable[[], datetime] = _CLOCK,
        supervisor: Supervisor | None = None,
        sockets: Sequence[InheritedSocket] = (),
    ) -> Daemon:
        """Open everything in order; the stack closes it in reverse. Raises OperatorError."""
        check_settings(settings, _addresses(settings, sockets))
        prepare_data_dir(data_dir)
        stack.enter_context(DaemonLock(data_dir))
        vault = await asyncio.to_thread(open_vault, settings.vault, data_dir, settings.mode, ask=_ask_on_terminal())
        sealer = Sealer(await asyncio.to_thread(master_key, vault))
        database = await asyncio.to_thread(Database.open, data_dir)
        stack.push_async_callback(database.close)
        paper = await _start_paper(settings, data_dir, stack)
        certificate = _auto_certificate(settings, data_dir, database, clock)
        if certificate is not None:
            await certificate.ensure()
        exchange = exchange_client(settings, vault, paper.base_url if paper else None, clock)
        stack.push_async_callback(exchange.close)
        return cls(
            settings=settings,
            data_dir=data_dir,
            vault=vault,
            sealer=sealer,
            database=database,
            paper=paper,
            exchange=exchange,
            certificate=certificate,
            clock=clock,
            supervisor=supervisor or Supervisor(None),
            sockets=sockets,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the door, work in the background, and drain at the end: door, lanes, jobs, answers still being written down."""
        await self.exchange.start()
        self.started = await self._open_door()
        await self._remember_exchange()
        await self._open_admin()
        self.jobs.start()
        async with asyncio.TaskGroup() as group:
            trading = group.create_task(self._trade())
            background = [
                group.create_task(self.follower.run()),
                group.create_task(self.refusals.run()),
                group.create_task(self.attacks.run()),
                group.create_task(self._supervisor.run(self._is_alive, self._describe)),
                group.create_task(self.key_use.run()),
                group.create_task(self._notify()),
                *([group.create_task(self._certificate.run())] if self._certificate else []),
                group.create_task(self._when_recovered(self.guard.run)),
                group.create_task(self._when_recovered(self.take_profits.run)),
                group.create_task(self._when_recovered(self.leftovers.run)),
                group.create_task(self._when_recovered(self._resolve_orphans)),
                group.create_task(self._when_recovered(self.canceller.run)),
            ]
            try:
                yield
            finally:
                await asyncio.shield(self._drain(trading))
                for task in (*background, trading):
                    task.cancel()

    async def _remember_exchange(self) -> None:
        """For commands that must reach the exchange without this process: the embedded one may have had to take another port."""
        address = self._paper_url or self._settings.exchange.base_url
        try:
            await self.database.write(store_settings.set_value, _EXCHANGE_ADDRESS, address, now=self._clock())
        except StoreUnavailable as error:
            log.warning("exchange_address_not_noted", error=error.message)

    async def _open_admin(self) -> None:
        """Listen for the operator, and note where for the commands beside this process."""
        if self.admin is not None:
            url = await self.admin.start()
            log.info("admin_listening", url=url)
            try:
                await self.database.write(store_settings.set_value, _ADMIN_ADDRESS, url, now=self._clock())
            except StoreUnavailable as error:
                log.warning("admin_address_not_noted", error=error.message)

    async def _open_door(self) -> Started:
        """Listen, and say where."""
        host, port = await self.listener.start([given.socket for given in self._sockets] or None)
        url = f"{'https' if self._tls.cert else 'http'}://{host}:{port}"
        domain = self._settings.tls.domain
        public_url = self._settings.server.public_url.rstrip("/") or (domain_url(domain, port) if domain else url)
        # Everything that lives as long as the daemon is allocated now: keep it out of every later collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        return Started(
            mode=self._settings.mode,
            url=url,
            webhook_url=public_url + WEBHOOK_PATH,
            vault=self._vault.description,
            data_dir=self._data_dir,
            paper_url=self._paper_url,
        )

    async def check_venue(self, longest_s: float) -> tuple[Check, ...]:
        """What a trader should know of the key and the venue before trusting them; the paper account has nothing to check.

        Empty when the venue does not answer in time: /readyz and `kekbridge doctor` say more, and the start must not wait for it.
        """
        if self._settings.mode is Mode.PAPER:
            return ()
        try:
            async with asyncio.timeout(longest_s):
                return await self.exchange.checks()
        except TimeoutError:
            log.warning("venue_not_checked", detail="the exchange did not answer in time; see `kekbridge doctor`")
            return ()

    async def wait_until_recovered(self, longest_s: float) -> None:
        """Give the first reconciliation a moment: whoever reads "Ready" may send an entry at once, which not_ready would refuse."""
        try:
            async with asyncio.timeout(longest_s):
                await self._recovered.wait()
        except TimeoutError:
            log.warning(
                "announced_unreconciled", detail="the exchange does not answer; entries are refused until it does"
            )

    async def _drain(self, trading: asyncio.Task[None]) -> None:
        """Stop in order, within `server.shutdown_timeout_s` for the orders under way."""
        log.info("stopping")
        self.jobs.stop()
        if self.admin is not None:
            await self.admin.close()
        await self.listener.stop_accepting()
        self._outcomes.stop_waiting()  # what waits in the backlog of a handed-over socket must not wait for this too
        await self.listener.close()  # requests under way get their answer: their alerts are stored
        self.worker.stop()
        _, late = await asyncio.wait({trading}, timeout=self._settings.server.shutdown_timeout_s)
        if late:
            log.warning("lanes_cut", detail="orders under way are looked up at the next start")
        await self.pipeline.drain()
        await self.refusals.flush()
        await self.attacks.flush()
        await self.key_use.flush()

    async def _notify(self) -> None:
        """Tell the channels that the vault names, if any; nothing waits for them."""
        try:
            channels = channels_of(await asyncio.to_thread(self._vault.get, NOTIFY_URLS))
        except KekbridgeError as error:
            log.error("no_notifications", error=error.message)
            return
        wanted = self._settings.notify
        await Notifier(
            self.database,
            channels,
            clock=self._clock,
            mute=wanted.mute,
            least=wanted.least,
            digest_s=wanted.digest_s,
            templates=wanted.templates,
        ).run()

    async def _resolve_orphans(self) -> None:
        await self.recovery.run(lambda name: name in self.pipeline.being_sent or name in self.worker.under_way)

    def _look_after_positions(self) -> None:
        """An entry executed, or an exit of one changed: are its stop and its take-profits there?"""
        self.guard.wake()
        self.take_profits.wake()

    async def _when_recovered(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._recovered.wait()
        await work()

    async def _trade(self) -> None:
        """Nothing trades before the bridge's view equals the exchange's."""
        while not self.worker.is_stopping:
            try:
                await self.recovery.recover()
                break
            except* KekbridgeError as errors:
                log.warning("not_reconciled", error=str(errors.exceptions[0]))
            await self.worker.sleep_unless_stopping(_RECOVERY_PAUSE_S)
        if self.worker.is_stopping:
            return
        self._recovered.set()
        self._look_after_positions()
        self.jobs.start_trading()
        await self.worker.run(self.pipeline)

    def _is_alive(self) -> bool:
        """For the watchdog: the event loop asks, so it runs; once trading has begun the worker must have moved, too."""
        limit_s = self._supervisor.watchdog_s or 0.0
        return not self._recovered.is_set() or self.worker.is_stopping or self.worker.idle_for_s() < limit_s

    def _describe(self) -> str:
        """One line for the supervisor."""
        seen = self.readiness()
        if seen.is_ready:
            return f"{self._settings.mode.value}: trading, {self.worker.orders_under_way} orders under way"
        return f"{self._settings.mode.value}: not ready: {seen.detail['detail'] or 'reconciling with the exchange'}"

    def readiness(self) -> Readiness:
        """For /readyz: reconciled with the exchange, and the exchange reachable."""
        health = self.exchange.health
        is_ready = self._recovered.is_set() and health.is_reachable and not health.is_maintenance
        return Readiness(
            is_ready=is_ready,
            detail={
                "ready": is_ready,
                "mode": self._settings.mode.value,
                "reconciled": self._recovered.is_set(),
                "exchangeReachable": health.is_reachable,
                "exchangeMaintenance": health.is_maintenance,
                "streamLive": health.stream_is_live,
                "entriesHeld": self.worker.breaker.is_open,
                "detail": health.detail,
            },
        )


def _addresses(settings: Settings, sockets: Sequence[InheritedSocket]) -> tuple[Server, ...]:
    """Where it will listen: as the settings say, or wherever the sockets that were handed over do."""
    if not sockets:
        return (settings.server,)
    return tuple(settings.server.model_copy(update={"host": str(given.socket.getsockname()[0])}) for given in sockets)


def prepare_data_dir(data_dir: Path) -> None:
    """Create the data directory for its owner only; raises ConfigError when that is not possible."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"data directory {data_dir} cannot be used: {error.strerror}; name another with --data-dir"
        ) from None


async def _start_paper(settings: Settings, data_dir: Path, stack: AsyncExitStack) -> PaperExchange | None:
    """The embedded paper exchange, unless the mode or an own base_url says otherwise; a taken port falls back to a free one."""
    if settings.mode is not Mode.PAPER or settings.exchange.base_url:
        return None
    paper = PaperExchange(
        data_dir / "paper",
        settings=PaperSettings(
            prices=settings.paper.prices, balance=settings.paper.balance, rate_limits=settings.paper.rate_limits
        ),
    )
    try:
        await paper.start(port=settings.paper.port)
    except OSError:
        url = await paper.start(port=0)
        log.warning("paper_port_taken", wanted=settings.paper.port, url=url)
    stack.push_async_callback(paper.close)
    return paper


def _admin(settings: Settings, data_dir: Path, desk: Desk) -> AdminServer:
    return AdminServer(desk, make_token(data_dir), host=settings.admin.host, port=settings.admin.port)


def admin_address(connection: sqlite3.Connection) -> str | None:
    """Where the daemon that last ran took the operator's requests; None before the first."""
    known = store_settings.get_value(connection, _ADMIN_ADDRESS)
    return None if known is None else str(known)


def exchange_address(connection: sqlite3.Connection, settings: Settings) -> str | None:
    """Where the daemon that last ran in paper mode found its exchange, for commands beside it; None when the settings say it.

    Raises ConfigError when there is no way to know.
    """
    if settings.mode is not Mode.PAPER or settings.exchange.base_url:
        return None
    known = store_settings.get_value(connection, _EXCHANGE_ADDRESS)
    if known is None:
        raise ConfigError("no paper exchange has run on this data directory yet; `kekbridge serve` starts one")
    return str(known)


def exchange_client(
    settings: Settings, vault: OpenVault, paper_url: str | None, clock: Callable[[], datetime]
) -> OrderlyExchange:
    """The one client, pointed at the venue of the mode."""
    wanted = settings.exchange
    if settings.mode is Mode.PAPER:
        signer = Signer(wanted.account_id or PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET)
        return OrderlyExchange("paper", wanted.base_url or paper_url or "", signer, wanted, clock=clock)
    if not wanted.account_id:
        raise ConfigError(
            f"mode {settings.mode.value} needs exchange.account_id; set it in the config file or KEKBRIDGE_EXCHANGE_ACCOUNT_ID"
        )
    secret = vault.get(orderly_secret(wanted.account_id))
    if secret is None:
        raise ConfigError(
            f"no Orderly key for account {wanted.account_id} in the vault; add it with `kekbridge keys add`"
        )
    return OrderlyExchange(
        settings.mode.value,
        wanted.base_url,  # empty: the published address of the mode; the streams follow it unless they are named
        Signer(wanted.account_id, secret.decode()),
        wanted,
        ws_public_url=wanted.ws_public_url,
        ws_private_url=wanted.ws_private_url,
        clock=clock,
    )


def _auto_certificate(
    settings: Settings, data_dir: Path, database: Database, clock: Callable[[], datetime]
) -> AutoCertificate | None:
    """What keeps the certificate of tls.domain; its news go into the history."""
    if not settings.tls.domain:
        return None

    async def report(kind: str, details: dict[str, str]) -> None:
        await database.write(note_renewal, kind, details, now=clock())

    return AutoCertificate(settings.tls, data_dir, host=settings.server.host, clock=clock, report=report)


def _ask_on_terminal() -> Callable[[str], str] | None:
    """How to ask for the vault's passphrase: hidden, and only where somebody can answer."""
    return getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None


def _keep_own_prices(symbol: str, price: Decimal) -> bool:
    """A real venue has its own marks, whatever an alert says."""
    return False


def _terms(settings: Settings) -> Terms:
    return Terms(
        account_limits=account_limits(**settings.risk.limits()),
        max_snapshot_age_s=settings.exchange.max_snapshot_age_s,
        max_mark_age_s=settings.exchange.max_mark_age_s,
        max_waiting=settings.queue.max_waiting,
    )
