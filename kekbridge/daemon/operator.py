"""What the operator has beside the trading: the admin listener, the jobs that run by the clock, and the notifications.

No alert waits for any of it, so the daemon imports and starts this once it has tried to reconcile. Nothing here decides on an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from kekbridge.admin.auth import make_token
from kekbridge.admin.lazy_server import AdminListener, LazyAdminServer
from kekbridge.daemon.resources import Resources
from kekbridge.daemon.trading import TradingServices
from kekbridge.errors import KekbridgeError
from kekbridge.execution.latency import LatencyHistograms
from kekbridge.ingress.http import Readiness
from kekbridge.ingress.lockout import Lockout
from kekbridge.log import get_logger
from kekbridge.ops.equity import EquityWatch
from kekbridge.ops.jobs import Jobs
from kekbridge.ops.notifier import NOTIFY_URLS, Notifier, channels_of
from kekbridge.risk.limits import account_limits
from kekbridge.store import daemon_addresses

if TYPE_CHECKING:
    from kekbridge.admin.service import AdminService

log = get_logger("kekbridge.daemon.operator")


class OperatorServices:
    """One per daemon: `start` once, then `run` as a task, and `stop` before the door is closed."""

    def __init__(
        self,
        opened: Resources,
        engine: TradingServices,
        *,
        lockout: Lockout,
        readiness: Callable[[], Readiness],
        certificate_file: str,
    ) -> None:
        """`certificate_file`: what the listener serves, empty for plain HTTP. Raises ConfigError for an admin.host that is not loopback."""
        self._resources = opened
        self._trading = engine
        self.equity = EquityWatch(
            database=opened.database,
            exchange=opened.exchange,
            transfers=opened.exchange.transfers,
            funding=opened.exchange.funding_payments,
            account_limits=account_limits(**opened.settings.risk.limits()),
            clock=opened.clock,
        )
        self.jobs = Jobs(
            settings=opened.settings,
            data_dir=opened.data_dir,
            certificate_file=certificate_file,
            exchange=opened.exchange,
            tracker=engine.tracker,
            reconciler=engine.reconciler,
            stop_guard=engine.stop_guard,
            equity=self.equity,
            database=opened.database,
            clock=opened.clock,
        )
        self._lockout, self._readiness = lockout, readiness
        self._door = self._build_admin_server() if opened.settings.admin.enabled else None

    def _build_admin_server(self) -> LazyAdminServer:
        token = make_token(self._resources.data_dir)
        # Counts from now on: what happens before the first look is shown, too.
        durations = LatencyHistograms(self._trading.updates.latency)

        def load() -> Callable[[], AdminListener]:
            from kekbridge.admin.server import AdminServer  # late: most bridges are looked at seldom

            return lambda: AdminServer(self._build_admin_service(), token, durations)

        wanted = self._resources.settings.admin
        return LazyAdminServer(host=wanted.host, port=wanted.port, load=load)

    def _build_admin_service(self) -> AdminService:
        from kekbridge.admin.service import AdminService

        opened = self._resources
        return AdminService(
            database=opened.database,
            exchange=opened.exchange,
            sealer=opened.sealer,
            settings=opened.settings,
            readiness=self._readiness,
            lockout=self._lockout,
            clock=opened.clock,
            stages=self._trading.updates.latency,
        )

    async def start(self) -> None:
        """Open the operator's door, note where everything is, start the clockwork. Raises ConfigError when the door cannot be opened."""
        exchange_url = self._resources.paper_url or self._resources.settings.exchange.base_url
        await daemon_addresses.save_exchange_address(
            self._resources.database, exchange_url, now=self._resources.clock()
        )
        if self._door is not None:
            url = self._door.open()
            log.info("admin_listening", url=url)
            await daemon_addresses.save_admin_address(self._resources.database, url, now=self._resources.clock())
        self.jobs.start()

    async def run(self) -> None:
        """Until cancelled: the jobs of a bridge that trades, once it does, and the notifications."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notify())
            await self._trading.wait_recovered()
            self.jobs.start_trading()

    async def stop(self) -> None:
        """Cut the jobs and close the operator's door."""
        self.jobs.stop()
        if self._door is not None:
            await self._door.close()

    async def _notify(self) -> None:
        """Tell the channels that the vault names, if any; nothing waits for them."""
        opened, wanted = self._resources, self._resources.settings.notify
        try:
            channels = channels_of(await asyncio.to_thread(opened.vault.get, NOTIFY_URLS))
        except KekbridgeError as error:
            log.error("no_notifications", error=error.message)
            return
        await Notifier(
            opened.database,
            channels,
            clock=opened.clock,
            mute=wanted.mute,
            least=wanted.least,
            digest_s=wanted.digest_s,
            templates=wanted.templates,
        ).run()
