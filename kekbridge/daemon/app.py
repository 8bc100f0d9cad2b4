"""The composition root: what was opened (opening.py), the parts that trade (engine.py), the door, the operator's side (operations.py).

    vault -> store -> (paper exchange) -> exchange -> follower/recovery -> pipeline -> worker -> listener -> operations

Crash-only: the start is the recovery path. The listener answers as soon as the store is open (alerts are queued durably), the worker starts
only once the bridge's view equals the exchange's.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kekbridge.config import Server, Settings
from kekbridge.daemon import process
from kekbridge.daemon import process as coredumps
from kekbridge.daemon.preflight import check_settings
from kekbridge.daemon.resources import Resources, open_all
from kekbridge.daemon.systemd import InheritedSocket, Supervisor, inherited_sockets
from kekbridge.daemon.trading import TradingServices
from kekbridge.errors import KekbridgeError
from kekbridge.ingress.audit import LockoutLog, RejectedRequestLog
from kekbridge.ingress.http import Readiness
from kekbridge.ingress.listener import Listener
from kekbridge.ingress.lockout import Lockout
from kekbridge.ingress.tls.client_certificates import PinnedCertificates
from kekbridge.ingress.tls.context import serving_context
from kekbridge.log import get_logger
from kekbridge.model import Mode
from kekbridge.model.networks import AllowList
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.webhooks.registry import domain_url

if TYPE_CHECKING:
    from kekbridge.daemon.operator import OperatorServices
    from kekbridge.model.check import Check

log = get_logger("kekbridge.daemon.app")

_SETTLE_S = 2.0
_CLOCK: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: E731 - a clock is a function


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupInfo:
    """What a person or a script needs to know once everything listens."""

    mode: Mode
    url: str
    webhook_url: str
    vault: str
    data_dir: Path
    paper_url: str | None
    checks: tuple[Check, ...] = ()


def serve(settings: Settings, data_dir: Path, *, announce: Callable[[StartupInfo], None]) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns the exit code. A second signal forces.

    Raises OperatorError (one line) when it cannot start.
    """
    coredumps.disable_core_dumps()
    return asyncio.run(_serve(settings, data_dir, announce))


async def _serve(settings: Settings, data_dir: Path, announce: Callable[[StartupInfo], None]) -> int:
    stop = asyncio.Event()
    _install_signals(stop)
    supervisor = Supervisor.from_environment(os.environ)
    sockets = inherited_sockets(os.environ)
    async with AsyncExitStack() as stack:
        daemon = await Daemon.build(settings, data_dir, stack, supervisor=supervisor, sockets=sockets)
        async with daemon.running():
            await daemon.trading.wait_until_recovered(_SETTLE_S)
            announce(replace(daemon.info, checks=await daemon.check_exchange(_SETTLE_S)))
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

    info: StartupInfo
    operator_services: OperatorServices

    def __init__(self, opened: Resources, *, supervisor: Supervisor, sockets: Sequence[InheritedSocket]) -> None:
        settings, certificate = opened.settings, opened.certificate
        self._resources = opened
        self._settings = settings
        self._tls = certificate.tls if certificate else settings.tls
        self._supervisor = supervisor
        self._sockets = sockets
        self.sealer = opened.sealer
        self.database = opened.database
        self.exchange = opened.exchange
        self.trading = TradingServices(opened)
        self.lockout_log = LockoutLog(opened.database, clock=opened.clock)
        self.rejected_requests = RejectedRequestLog(opened.database)
        self.lockout = Lockout(
            failures=settings.auth.lockout_failures,
            window_s=settings.auth.lockout_window_s,
            lockout_s=settings.auth.lockout_s,
            told=self.lockout_log.record,
        )
        self.listener = self._listener()

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
        opened = await open_all(settings, data_dir, stack, clock=clock)
        return cls(opened, supervisor=supervisor or Supervisor(None), sockets=sockets)

    def _listener(self) -> Listener:
        auth = self._settings.auth
        return Listener(
            self.trading.receiver.receive,
            self.readiness,
            self._settings.server,
            clock=self._resources.clock,
            refused=self.rejected_requests.record,
            allowed=AllowList.parse(auth.allowed_addresses, "auth.allowed_addresses"),
            certificates=PinnedCertificates(auth.client_certificates),
            lockout=self.lockout,
            ssl_context=serving_context(self._tls),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the doors, work in the background, and drain at the end: doors, lanes, jobs, answers still being written down.

        Raises ConfigError when a door cannot be opened.
        """
        await self.exchange.start()
        self.info = await self._open_listener()
        try:
            async with asyncio.TaskGroup() as group:
                trading = group.create_task(self.trading.trade())
                background = [group.create_task(story) for story in self._background()]
                try:
                    async with self._operator_services():
                        background.append(group.create_task(self.operator_services.run()))
                        yield
                finally:
                    await asyncio.shield(self._drain(trading))
                    for task in (*background, trading):
                        task.cancel()
        except BaseExceptionGroup as errors:
            expected = errors.subgroup(KekbridgeError)
            if expected is None:
                raise
            raise expected.exceptions[0] from None  # one line for the person who started it, no group's traceback

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the trading from the first alert on."""
        certificate = self._resources.certificate
        return [
            *self.trading.background(),
            self.rejected_requests.run(),
            self.lockout_log.run(),
            self._supervisor.run(self._is_alive, self._describe),
            *([certificate.run()] if certificate else []),
        ]

    async def _open_listener(self) -> StartupInfo:
        """Listen, and say where."""
        host, port = await self.listener.start([given.socket for given in self._sockets] or None)
        url = f"{'https' if self._tls.cert else 'http'}://{host}:{port}"
        domain = self._settings.tls.domain
        public_url = self._settings.server.public_url.rstrip("/") or (domain_url(domain, port) if domain else url)
        process.freeze_startup_objects()
        return StartupInfo(
            mode=self._settings.mode,
            url=url,
            webhook_url=public_url + WEBHOOK_PATH,
            vault=self._resources.vault.description,
            data_dir=self._resources.data_dir,
            paper_url=self._resources.paper_url,
        )

    @asynccontextmanager
    async def _operator_services(self) -> AsyncIterator[None]:
        """Import and start what no alert waits for, after the first try to reconcile: it would be a third of the whole start.

        Imported by a thread: the loop goes on answering alerts. Raises ConfigError when the operator's door cannot be opened.
        """
        await self.trading.wait_for_first_attempt(_SETTLE_S)
        await asyncio.to_thread(import_module, "kekbridge.daemon.operator")
        from kekbridge.daemon.operator import OperatorServices

        self.operator_services = OperatorServices(
            self._resources,
            self.trading,
            lockout=self.lockout,
            readiness=self.readiness,
            certificate_file=self._tls.cert,
        )
        try:
            await self.operator_services.start()
            process.freeze_startup_objects()
            yield
        finally:
            await asyncio.shield(self.operator_services.stop())

    async def check_exchange(self, longest_s: float) -> tuple[Check, ...]:
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

    async def _drain(self, trading: asyncio.Task[None]) -> None:
        """Stop in order: nobody new, everybody inside answered, orders under way recorded."""
        log.info("stopping")
        await self.listener.stop_accepting()
        self.trading.updates.release_waiters()  # what waits in the backlog of a handed-over socket must not wait for this too
        await self.listener.close()  # requests under way get their answer: their alerts are stored
        await self.trading.finish(trading)
        await self.rejected_requests.flush()
        await self.lockout_log.flush()

    def _is_alive(self) -> bool:
        """For the watchdog: the event loop asks, so it runs."""
        return self.trading.is_moving(self._supervisor.watchdog_s or 0.0)

    def _describe(self) -> str:
        """One line for the supervisor."""
        seen, mode = self.readiness(), self._settings.mode.value
        if seen.is_ready:
            return f"{mode}: trading, {self.trading.dispatcher.in_flight_count} orders under way"
        return f"{mode}: not ready: {seen.detail['detail'] or 'reconciling with the exchange'}"

    def readiness(self) -> Readiness:
        """For /readyz: reconciled with the exchange, and the exchange reachable."""
        health = self.exchange.health
        is_ready = self.trading.is_recovered and health.is_reachable and not health.is_maintenance
        return Readiness(
            is_ready=is_ready,
            detail={
                "ready": is_ready,
                "mode": self._settings.mode.value,
                "reconciled": self.trading.is_recovered,
                "exchangeReachable": health.is_reachable,
                "exchangeMaintenance": health.is_maintenance,
                "streamLive": health.stream_is_live,
                "entriesHeld": self.trading.dispatcher.entries_are_held,
                "detail": health.detail,
            },
        )


def _addresses(settings: Settings, sockets: Sequence[InheritedSocket]) -> tuple[Server, ...]:
    """Where it will listen: as the settings say, or wherever the sockets that were handed over do."""
    if not sockets:
        return (settings.server,)
    return tuple(settings.server.model_copy(update={"host": str(given.socket.getsockname()[0])}) for given in sockets)
