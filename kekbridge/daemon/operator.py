"""The operator services: admin listener, scheduled jobs, and notifications.

No alert waits for any of them, so the daemon imports and starts them after its first attempt to reconcile. Nothing here decides on orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kekbridge.admin.lazy_server import AdminListener, LazyAdminServer
from kekbridge.daemon.resources import Resources
from kekbridge.daemon.trading import TradingServices
from kekbridge.errors import KekbridgeError, StoreUnavailable
from kekbridge.execution.latency import LatencyHistograms
from kekbridge.ingress.http import Readiness
from kekbridge.ingress.lockout import Lockout
from kekbridge.log import get_logger
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.equity import EquityWatch
from kekbridge.ops.jobs import Jobs
from kekbridge.ops.notifier import NOTIFY_URLS, Notifier, channels_of
from kekbridge.ops.operations import Operations
from kekbridge.ops.watches import AdminPages
from kekbridge.ops.web_token import SignInCodes, WebToken
from kekbridge.risk.limits import account_limits
from kekbridge.store import daemon_addresses

if TYPE_CHECKING:
    from kekbridge.admin.service import AdminService

log = get_logger("kekbridge.daemon.operator")


class OperatorServices:
    """One per daemon: `start` once, then `run` as a task, and `stop` before the public listener is closed."""

    def __init__(
        self,
        resources: Resources,
        trading: TradingServices,
        *,
        operations: Operations,
        lockout: Lockout,
        readiness: Callable[[], Readiness],
        certificate_file: str,
    ) -> None:
        """`certificate_file`: what the listener serves, empty for plain HTTP. Raises ConfigError for an admin.host that is not loopback."""
        self._resources = resources
        self._trading = trading
        self.equity = EquityWatch(
            book=trading.book,
            database=resources.database,
            exchange=resources.exchange,
            records=trading.records,
            account_limits=account_limits(**resources.settings.risk.limits()),
            clock=resources.clock,
        )
        conditions = Conditions(resources.database, resources.clock)
        self._operations, self._lockout, self._readiness = operations, lockout, readiness
        self._admin_server = self._build_admin_server() if resources.settings.admin.enabled else None
        self._admin_pages = None
        if self._admin_server is not None:
            self._admin_pages = AdminPages(
                conditions,
                self._admin_server.open,
                port=resources.settings.admin.port,
                save_address=self._save_admin_address,
            )
        self.jobs = Jobs(
            settings=resources.settings,
            data_dir=resources.data_dir,
            certificate_file=certificate_file,
            exchange=resources.exchange,
            tracker=trading.tracker,
            reconciler=trading.reconciler,
            protection=trading.protection,
            book=trading.book,
            equity=self.equity,
            database=resources.database,
            clock=resources.clock,
            backup_key=resources.sealer.backup_key,
            conditions=conditions,
            admin_pages=self._admin_pages,
            replication=resources.replication,
            notify_now=self._notify_now,
        )
        self._notifier: Notifier | None = None
        self._channels_changed = asyncio.Event()

    def _build_admin_server(self) -> LazyAdminServer:
        token = WebToken(self._resources.data_dir)
        # Counts from now on, so that /metrics shows what happens before its first request too.
        durations = LatencyHistograms(self._trading.updates.latency)
        codes = SignInCodes(token, began_at=self._resources.clock())

        def load() -> Callable[[], AdminListener]:
            from kekbridge.admin.server import AdminServer  # imported late: most bridges are rarely looked at

            return lambda: AdminServer(self._admin_service(), token, durations, codes)

        admin = self._resources.settings.admin
        return LazyAdminServer(host=admin.host, port=admin.port, in_container=admin.in_container, load=load)

    def _admin_service(self) -> AdminService:
        from kekbridge.admin.service import AdminService  # late, as the server
        from kekbridge.store.database import ReadsForPeople

        resources = self._resources
        return AdminService(
            data_dir=resources.data_dir,
            database=ReadsForPeople(resources.database),
            exchange=resources.exchange,
            operations=self._operations,
            sealer=resources.sealer,
            settings=resources.settings,
            readiness=self._readiness,
            lockout=self._lockout,
            clock=resources.clock,
            stages=self._trading.updates.latency,
            replication=resources.replication,
        )

    async def state(self) -> dict[str, Any]:
        """The live state of the dashboard, as JSON."""
        return await self._admin_service().state()

    async def run_job(self, name: str) -> None:
        """Run a job now; its own errors are recorded, not raised. Raises NotFound for an unknown one."""
        await self.jobs.run_now(name)

    def reload_channels(self) -> None:
        """Send notifications to the channels that the vault names now."""
        self._channels_changed.set()

    async def start(self) -> None:
        """Open the admin listener, store the daemon's addresses, start the jobs. Raises ConfigError if admin.host cannot be used."""
        exchange_url = self._resources.paper_url or self._resources.settings.exchange.base_url
        await daemon_addresses.save_exchange_address(
            self._resources.database, exchange_url, now=self._resources.clock()
        )
        if self._admin_pages is not None:
            try:
                await self._admin_pages.run()
            except StoreUnavailable as error:
                log.warning("admin_port_not_noted", error=error.message)  # the job tries again
        self.jobs.start()

    async def _save_admin_address(self, url: str | None) -> None:
        if url is None:
            log.warning("admin_port_taken", wanted=self._resources.settings.admin.port)
        else:
            log.info("admin_listening", url=url)
        await daemon_addresses.save_admin_address(self._resources.database, url, now=self._resources.clock())

    async def run(self) -> None:
        """Until cancelled: send notifications, and start the jobs that need the exchange once it is reconciled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notify())
            if self._resources.replication is not None:
                group.create_task(self._resources.replication.run())
            await self._trading.wait_until_reconciled()
            self.jobs.start_trading()

    async def stop(self) -> None:
        """Stop the jobs and close the admin listener."""
        self.jobs.stop()
        if self._admin_server is not None:
            await self._admin_server.close()

    async def _notify(self) -> None:
        """Send notifications to the channels that the vault names, if any; begin again with others when they change."""
        while True:
            self._channels_changed.clear()
            notifier = self._notifier = await self._build_notifier()
            async with asyncio.TaskGroup() as group:
                delivery = None if notifier is None else group.create_task(notifier.run())
                await self._channels_changed.wait()
                if delivery is not None:
                    delivery.cancel()

    async def _notify_now(self, kind: str, facts: Mapping[str, object]) -> None:
        if self._notifier is not None:
            await self._notifier.send_now(kind, facts)

    async def _build_notifier(self) -> Notifier | None:
        resources = self._resources
        try:
            channels = channels_of(await asyncio.to_thread(resources.vault.get, NOTIFY_URLS))
        except KekbridgeError as error:
            log.error("no_notifications", error=error.message)
            return None
        return Notifier(
            resources.database,
            channels,
            mode=resources.settings.mode,
            notify=resources.settings.notify,
            clock=resources.clock,
        )
