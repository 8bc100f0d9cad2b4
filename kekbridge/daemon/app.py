"""The composition root: build the daemon from its resources and services, start them in order, and stop them in reverse.

    vault -> store -> (paper exchange) -> exchange -> listener -> reconciliation -> dispatcher -> control socket -> operator services

Crash-only: every start is the recovery path. The listener answers as soon as the store is open (alerts are queued durably); the dispatcher
starts only once the bridge's view equals the exchange's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kekbridge import __version__
from kekbridge.config import Server, Settings
from kekbridge.daemon import process
from kekbridge.daemon.preflight import check_settings, settings_changed_since_0_1
from kekbridge.daemon.resources import Resources, open_all
from kekbridge.daemon.steady_clock import SteadyClock
from kekbridge.daemon.systemd import Supervisor, inherited_sockets
from kekbridge.daemon.trading import TradingServices
from kekbridge.errors import ConfigError, KekbridgeError, StoreUnavailable
from kekbridge.ingress.audit import LockoutLog, RejectedRequestLog
from kekbridge.ingress.budget import RefusalBudget
from kekbridge.ingress.http import Readiness
from kekbridge.ingress.listener import Listener
from kekbridge.ingress.lockout import Lockout
from kekbridge.ingress.tls.client_certificates import PinnedCertificates
from kekbridge.ingress.tls.context import serving_context
from kekbridge.log import get_logger
from kekbridge.model import Mode, Webhook, WebhookSettings
from kekbridge.model.networks import AllowList
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.store import daemon_addresses, webhooks
from kekbridge.webhooks import registry
from kekbridge.webhooks.registry import Credentials, domain_url

if TYPE_CHECKING:
    from kekbridge.daemon.operator import OperatorServices
    from kekbridge.model.check import Check
    from kekbridge.ops.event_lines import EventLine
    from kekbridge.ops.operations import Operations

log = get_logger("kekbridge.daemon.app")

# How long the start waits for each step that needs the exchange.
_EXCHANGE_WAIT_S = 2.0
# The executable's loader passes on signals that its child gets as well: from a terminal (Ctrl-C), or from a supervisor that sends them to
# all processes of a service.
_SAME_SIGNAL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupInfo:
    """What a person or a script needs to know once everything listens."""

    mode: Mode
    #: Address of the listener.
    url: str
    #: Public address for TradingView's alerts.
    webhook_url: str
    #: Description of the vault in use.
    vault: str
    data_dir: Path
    #: Address of the embedded paper exchange, if there is one.
    paper_url: str | None
    #: Address of the web pages; None if they are off.
    pages_url: str | None = None
    #: Link that signs one browser in; None if the pages are off.
    sign_in_url: str | None = None
    #: What a trader should know of the key and the exchange before trusting them.
    checks: tuple[Check, ...] = ()
    #: The webhook to show: a new one after the first start, else the first enabled one.
    webhook: Webhook | None = None
    #: Its credentials, in paper mode only: they are worthless elsewhere.
    credentials: Credentials | None = None


def serve(
    settings: Settings,
    data_dir: Path,
    *,
    announce: Callable[[StartupInfo], None],
    show_events: Callable[[Sequence[EventLine]], None] | None = None,
) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns the exit code. A second signal kills it.

    `announce` is called once everything listens, `show_events` in a thread with what happens from then on (None: no terminal). Raises
    OperatorError (one line) if it cannot start.
    """
    process.disable_core_dumps()
    return asyncio.run(_serve(settings, data_dir, announce, show_events))


async def _serve(
    settings: Settings,
    data_dir: Path,
    announce: Callable[[StartupInfo], None],
    show_events: Callable[[Sequence[EventLine]], None] | None,
) -> int:
    stop = asyncio.Event()
    _install_signal_handlers(stop)
    supervisor = Supervisor.from_environment(os.environ)
    sockets = inherited_sockets(os.environ)
    async with AsyncExitStack() as stack:
        daemon = await Daemon.build(settings, data_dir, stack, supervisor=supervisor, sockets=sockets)
        async with daemon.running():
            await daemon.trading.wait_until_reconciled(_EXCHANGE_WAIT_S)
            webhook, credentials = await daemon.first_webhook()
            checks = await daemon.check_exchange(_EXCHANGE_WAIT_S)
            info = replace(daemon.info, checks=checks, webhook=webhook, credentials=credentials)
            announce(await daemon.with_web_pages(info))
            supervisor.ready()
            async with daemon.watched(show_events):
                await stop.wait()
            supervisor.stopping()
    return 0


def _install_signal_handlers(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    first_at = 0.0

    def on_signal() -> None:
        nonlocal first_at
        if not stop.is_set():
            first_at = loop.time()
            stop.set()
        elif not (process.has_loader() and loop.time() - first_at < _SAME_SIGNAL_S):
            log.warning("forced_stop")
            os._exit(130)  # the store is crash-safe: a forced stop is a crash, and the next start recovers

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


class Daemon:
    """All services of a running bridge. Tests build one in-process; `serve` runs one as the process."""

    info: StartupInfo
    #: Runs what the operator asks for, over the control socket and on the web pages.
    operations: Operations

    @classmethod
    async def build(
        cls,
        settings: Settings,
        data_dir: Path,
        stack: AsyncExitStack,
        *,
        clock: Callable[[], datetime] | None = None,
        supervisor: Supervisor | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> Daemon:
        """Open all resources in order; the stack closes them in reverse. `clock` None: a steady one. Raises OperatorError."""
        check_settings(settings, _listen_addresses(settings, sockets))
        for line in settings_changed_since_0_1(settings):
            log.warning("setting_changed", detail=line)
        resources = await open_all(settings, data_dir, stack, clock=clock or SteadyClock())
        return cls(resources, supervisor=supervisor or Supervisor(None), sockets=sockets)

    def __init__(self, resources: Resources, *, supervisor: Supervisor, sockets: Sequence[socket.socket]) -> None:
        settings, database = resources.settings, resources.database
        self._resources = resources
        self._started_at = resources.clock()
        self._settings = settings
        self._tls = resources.certificate.tls if resources.certificate else settings.tls
        self._supervisor = supervisor
        self._sockets = sockets
        self._operator_services: OperatorServices | None = None
        self.sealer = resources.sealer
        self.database = database
        self.exchange = resources.exchange
        self.trading = TradingServices(resources)
        self.book = self.trading.book
        self.manual_orders = self.trading.manual_orders
        self.lockout_log = LockoutLog(database, clock=resources.clock)
        self.rejected_requests = RejectedRequestLog(database)
        self.lockout = Lockout(
            failures=settings.auth.lockout_failures,
            window_s=settings.auth.lockout_window_s,
            lockout_s=settings.auth.lockout_s,
            on_lockout=self.lockout_log.record,
        )
        self.listener = Listener(
            self.trading.receiver.receive,
            self.readiness,
            settings.server,
            clock=resources.clock,
            on_refused=self.rejected_requests.record,
            allowed=AllowList.parse(settings.auth.allowed_addresses, "auth.allowed_addresses"),
            certificates=PinnedCertificates(settings.auth.client_certificates, settings.auth.client_certificate_header),
            lockout=self.lockout,
            budget=RefusalBudget(burst=settings.auth.refusal_burst, per_s=settings.auth.refusals_per_s),
            ssl_context=serving_context(self._tls),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start everything in order, run it in the background inside the block, and stop it in reverse order.

        Raises ConfigError if a listener cannot be opened.
        """
        await self.exchange.start()
        self.info = await self._start_listener()  # from here on alerts are stored
        try:
            async with asyncio.TaskGroup() as group:
                trading = group.create_task(self.trading.trade())
                background = [group.create_task(work) for work in self._background()]
                try:
                    # What no alert waits for comes after the first attempt to reconcile: it would be a third of the whole start.
                    await self.trading.wait_for_first_attempt(_EXCHANGE_WAIT_S)
                    async with self._serving_commands():
                        services = self._operator_services = await self._build_operator_services()
                        try:
                            await services.start()
                            await self._save_addresses()
                            process.freeze_startup_objects()
                            background.append(group.create_task(services.run()))
                            yield
                        finally:
                            await asyncio.shield(services.stop())
                finally:
                    await asyncio.shield(self._stop_serving(trading))
                    for task in (*background, trading):
                        task.cancel()
        except BaseExceptionGroup as errors:
            expected = errors.subgroup(KekbridgeError)
            if expected is None:
                raise
            raise expected.exceptions[0] from None  # one line for the operator, not the group's traceback

    async def _start_listener(self) -> StartupInfo:
        host, port = await self.listener.start(list(self._sockets) or None)
        process.freeze_startup_objects()
        settings = self._settings
        url = f"{'https' if self._tls.cert else 'http'}://{host}:{port}"
        domain = settings.tls.domain
        public_url = settings.server.public_url.rstrip("/") or (domain_url(domain, port) if domain else url)
        return StartupInfo(
            mode=settings.mode,
            url=url,
            webhook_url=public_url + WEBHOOK_PATH,
            vault=self._resources.vault.description,
            data_dir=self._resources.data_dir,
            paper_url=self._resources.paper_url,
        )

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the dispatcher from the first alert on."""
        certificate = self._resources.certificate
        return [
            *self.trading.background(),
            self.rejected_requests.run(),
            self.lockout_log.run(),
            self._supervisor.run(self._is_alive, self._describe),
            *([certificate.run()] if certificate else []),
        ]

    @asynccontextmanager
    async def _serving_commands(self) -> AsyncIterator[None]:
        """Answer commands at the control socket. Imported in a thread, so that the event loop goes on answering alerts."""
        await asyncio.to_thread(import_module, "kekbridge.daemon.control")
        from kekbridge.daemon.control import ControlServer, DaemonContext
        from kekbridge.ops.operations import Operations

        self.operations = Operations(DaemonContext(self._resources, self), on_operation=self._on_operation)
        resources = self._resources
        server = ControlServer(
            self.operations, resources.data_dir, os.environ, status=self._status, catch_up=resources.database.catch_up
        )
        await server.start()
        try:
            yield
        finally:
            await asyncio.shield(server.close())

    async def _on_operation(self, name: str) -> None:
        """Refresh what the operator services hold in memory after an operation that wrote, before its result is returned.

        What decisions look at (trading states, webhooks, limits) is in the book, or read again when a job has changed it.
        """
        if name in ("notify-set", "notify-change") and self._operator_services is not None:
            self._operator_services.reload_channels()

    async def examine(self) -> tuple[Check, ...]:
        """The checks of `kekbridge doctor`; imported and made in a thread, so that the event loop goes on answering alerts."""
        await asyncio.to_thread(import_module, "kekbridge.ops.doctor")
        from kekbridge.ops.doctor import examine

        resources = self._resources
        return await asyncio.to_thread(
            examine, resources.settings, resources.data_dir, clock=resources.clock, vault=resources.vault
        )

    def _status(self) -> dict[str, Any]:
        """For `GET /status` at the control socket."""
        return {
            "process": os.getpid(),
            "version": __version__,
            "mode": self._settings.mode,
            "dataDir": str(self._resources.data_dir),
            "startedAt": self._started_at,
            **({} if self._resources.replication is None else {"replica": self._resources.replication.status()}),
            **self.readiness().detail,
        }

    async def _build_operator_services(self) -> OperatorServices:
        """Import and build them; imported in a thread, so that the event loop goes on answering alerts."""
        await asyncio.to_thread(import_module, "kekbridge.daemon.operator")
        from kekbridge.daemon.operator import OperatorServices

        return OperatorServices(
            self._resources,
            self.trading,
            operations=self.operations,
            lockout=self.lockout,
            readiness=self.readiness,
            certificate_file=self._tls.cert,
        )

    async def _stop_serving(self, trading: asyncio.Task[None]) -> None:
        """Stop in order: accept no more, answer every accepted request, record the orders in flight, write what is buffered."""
        log.info("stopping")
        await self.listener.stop_accepting()
        self.trading.updates.release_waiters()  # connections in the backlog of an inherited socket must not wait for these responses
        await self.listener.close()  # requests under way are still answered: their alerts are stored
        await self.trading.finish(trading)
        await self.rejected_requests.flush()
        await self.lockout_log.flush()

    async def first_webhook(self) -> tuple[Webhook | None, Credentials | None]:
        """The webhook to show at the start: a new one named `default` if there is none, else the first enabled one.

        Credentials in paper mode only. Raises StoreUnavailable.
        """
        clock, mode = self._resources.clock, self._settings.mode
        credentials: Credentials | None = None
        found = await self.database.read(webhooks.list_all)
        webhook = next((one for one in found if one.enabled), None)
        if not found:
            webhook, credentials = await self.database.write(
                registry.create,
                self.sealer,
                name=registry.FIRST_NAME,
                settings=WebhookSettings(),
                mode=mode,
                now=clock(),
            )
        elif webhook is not None and mode is Mode.PAPER:
            credentials = await self.database.read(registry.credentials_of, self.sealer, webhook, now=clock())
        return webhook, credentials if mode is Mode.PAPER else None

    async def with_web_pages(self, info: StartupInfo) -> StartupInfo:
        """With address and sign-in link of the web pages; without them if they are off or their port is in use."""
        url = await self.database.read(daemon_addresses.admin_address) if self._settings.admin.enabled else None
        if url is None:
            return info
        from kekbridge.ops.web_token import MakeSignInLink

        link = await self.operations.run(MakeSignInLink())
        return replace(info, pages_url=url, sign_in_url=link["url"])

    @asynccontextmanager
    async def watched(self, show: Callable[[Sequence[EventLine]], None] | None) -> AsyncIterator[None]:
        """Inside, show what happens, one line per event; nothing if `show` is None."""
        if show is None:
            yield
            return
        from kekbridge.ops.event_lines import EventLines  # late: only for a bridge on a terminal

        watching = asyncio.create_task(EventLines(self.database, show, clock=self._resources.clock).run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _save_addresses(self) -> None:
        """Store the daemon's URLs and mode, and the exchange's markets, for commands that read."""
        info = self.info
        try:
            await self.database.write(
                registry.save_addresses, info.webhook_url, info.mode, local_url=info.url, now=self._resources.clock()
            )
            if (snapshot := self.exchange.snapshot) is not None:
                ticks = {symbol: one.quote_tick for symbol, one in snapshot.instruments.items()}
                await self.database.write(registry.save_markets, ticks, now=self._resources.clock())
        except StoreUnavailable as error:
            log.warning("address_not_noted", error=error.message)

    async def check_exchange(self, longest_s: float) -> tuple[Check, ...]:
        """Check the key and the exchange for what a trader should know; the paper account has nothing to check.

        Empty if the exchange does not answer within `longest_s` seconds: /readyz and `kekbridge doctor` report more, and the start must not
        wait for it.
        """
        if self._settings.mode is Mode.PAPER:
            return ()
        try:
            async with asyncio.timeout(longest_s):
                return await self.exchange.checks()
        except TimeoutError:
            log.warning("venue_not_checked", detail="the exchange did not answer in time; see `kekbridge doctor`")
            return ()

    @property
    def operator_services(self) -> OperatorServices:
        """Jobs, pages and notifications. Raises ConfigError during the start."""
        if self._operator_services is None:
            raise ConfigError("the bridge is still starting; run the command again in a moment")
        return self._operator_services

    async def state(self) -> dict[str, Any]:
        """The live state, as JSON. Raises ConfigError during the start."""
        return await self.operator_services.state()

    async def run_job(self, name: str) -> None:
        """Run a scheduled job now. Raises NotFound for an unknown one, ConfigError during the start."""
        await self.operator_services.run_job(name)

    def readiness(self) -> Readiness:
        """For /readyz: reconciled with the exchange, and the exchange reachable."""
        health, file_problem = self.exchange.health, self.database.file_problem()
        is_ready = (
            self.trading.is_reconciled and health.is_reachable and not health.is_maintenance and file_problem is None
        )
        return Readiness(
            is_ready=is_ready,
            detail={
                "ready": is_ready,
                "mode": self._settings.mode.value,
                "reconciled": self.trading.is_reconciled,
                "exchangeReachable": health.is_reachable,
                "exchangeMaintenance": health.is_maintenance,
                "streamLive": health.stream_is_live,
                "entriesHeld": self.trading.dispatcher.entries_are_held,
                "detail": file_problem or health.detail,
            },
        )

    def _is_alive(self) -> bool:
        """For the watchdog. Called on the event loop, so the loop runs; the dispatcher must be moving too."""
        return self.trading.is_moving(self._supervisor.watchdog_s or 0.0)

    def _describe(self) -> str:
        """The status line for the supervisor."""
        readiness, mode = self.readiness(), self._settings.mode.value
        if readiness.is_ready:
            return f"{mode}: trading, {self.trading.dispatcher.in_flight_count} orders in flight"
        return f"{mode}: not ready: {readiness.detail['detail'] or 'reconciling with the exchange'}"


def _listen_addresses(settings: Settings, sockets: Sequence[socket.socket]) -> tuple[Server, ...]:
    """Where it will listen: on the inherited sockets, else as the settings say."""
    if not sockets:
        return (settings.server,)
    return tuple(settings.server.model_copy(update={"host": str(each.getsockname()[0])}) for each in sockets)
