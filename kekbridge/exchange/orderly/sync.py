"""Keeps the account's picture fresh and knows how fresh it is: polls, refetches after a stream came back, notices maintenance.

One loop, woken by its timer or by `want()`. It reads only; orders are none of its business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Final

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.orderly.account_api import AccountApi, SystemInfo
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.exchange.orderly.orders_api import OrdersApi
from kekbridge.exchange.orderly.replies import HttpReply, TransportResult
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot
from kekbridge.model.orders import OrderStatusReport

log = get_logger("kekbridge.exchange.orderly.sync")

_RULES_EVERY: Final = timedelta(hours=1)
_INFO_EVERY: Final = timedelta(seconds=60)  # client/info may be asked 10 times a minute
_SYSTEM_EVERY: Final = timedelta(seconds=10)
# Wishes that come together (the fills of one order) are met by one refresh; positions may be asked 3 times a second on average.
_GATHER_S: Final = 0.15
_SPACING_S: Final = 0.5
_FIRST_RETRY_S: Final = 0.5


class AccountSync:
    """The loop and its knowledge. The owner sets the callbacks before `run`."""

    def __init__(
        self,
        market: AccountApi,
        rest: OrdersApi,
        account: AccountState,
        *,
        clock: Callable[[], datetime],
        refresh_s: float,
    ) -> None:
        self._market = market
        self._rest = rest
        self._account = account
        self._clock = clock
        self._refresh_s = refresh_s
        self._one_at_a_time = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._is_resync_due = False
        self._is_synced = False
        self._read_at: dict[str, datetime] = {}
        self._answered_at: datetime | None = None
        self._failure = ""
        self._system: SystemInfo | None = None
        self._system_at: datetime | None = None
        self.first_attempt = asyncio.Event()
        self.has_marks: Callable[[], bool] = lambda: False
        self.on_report: Callable[[OrderStatusReport], None] = lambda report: None
        self.on_account: Callable[[], None] = lambda: None
        self.on_gap: Callable[[], None] = lambda: None

    # -------------------------------------------------------------------------------------------------------- what is known

    @property
    def is_reachable(self) -> bool:
        """An answer of the exchange itself came within the last three refreshes, and the last try did not fail."""
        answered = self._answered_at
        return answered is not None and not self._failure and self._clock() - answered < 3 * self._every

    @property
    def is_maintenance(self) -> bool:
        """The exchange said so, and not longer than three looks ago: an old word must not keep trading shut."""
        if self._system is None or self._system_at is None or not self._system.is_maintenance:
            return False
        return self._clock() - self._system_at < 3 * max(self._every, _SYSTEM_EVERY)

    @property
    def detail(self) -> str:
        """One line about what is wrong; empty when nothing is."""
        if self.is_maintenance and self._system is not None:
            until = f", until {self._system.ends_at:%Y-%m-%d %H:%M} UTC" if self._system.ends_at else ""
            return f"the exchange is in maintenance{until}"
        return self._failure

    @property
    def _every(self) -> timedelta:
        return timedelta(seconds=self._refresh_s)

    # ------------------------------------------------------------------------------------------------------- what is heard

    def record_outcome(self, outcome: TransportResult) -> None:
        """Every answer and every failure of any call, orders included."""
        if isinstance(outcome, HttpReply):
            if outcome.is_json and outcome.status < 500:
                self._answered_at = self._clock()
                self._failure = ""
            else:
                self._failed(outcome.described)
        else:
            self._failed(outcome.reason)

    def _failed(self, reason: str) -> None:
        self._failure = reason
        if not self._one_at_a_time.locked():
            self._wanted.set()  # an order met it: look now whether the exchange is there, not at the next tick

    def on_system_status(self, system: SystemInfo) -> None:
        was = self.is_maintenance
        self._system, self._system_at = system, self._clock()
        if was != system.is_maintenance:
            log.warning("exchange_maintenance", is_maintenance=system.is_maintenance, message=system.message)

    def on_stream_connected(self) -> None:
        """Logged in and subscribed: what happened meanwhile was missed and is fetched now (docs/internals/orderly.md section 12)."""
        self._is_resync_due = True
        self._is_synced = False
        self._wanted.set()

    def on_stream_lost(self, reason: str) -> None:
        self._is_synced = False

    def on_stream_frame(self) -> None:
        """Any frame of the private stream: what it did not report has not changed, once we have caught up with it."""
        if self._is_synced:
            self._account.mark_alive()

    def request_refresh(self) -> None:
        """Refresh soon."""
        self._wanted.set()

    # ------------------------------------------------------------------------------------------------------------- the loop

    async def run(self) -> None:
        """For ever: refresh on the timer, on a wish, and after the stream came back."""
        failures = 0
        while True:
            self._wanted.clear()
            try:
                await self.refresh()
                if self._is_resync_due:
                    await self._resync()
                failures = 0
            except ExchangeUnavailable as error:
                failures += 1
                self._failure = error.message
                log.warning("exchange_not_readable", code=error.code, error=error.message, failures=failures)
            self.first_attempt.set()
            await asyncio.sleep(_SPACING_S)
            retry_s = min(_FIRST_RETRY_S * 2 ** min(failures, 10), self._refresh_s)
            await self._wait_for_request(retry_s if failures else max(self._refresh_s - _SPACING_S, 0.0))

    async def _wait_for_request(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
            await asyncio.sleep(_GATHER_S)
        except TimeoutError:
            pass  # the timer

    async def refresh(self) -> AccountSnapshot:
        """Read everything that is due; raises ExchangeUnavailable when any of it gave no usable answer."""
        async with self._one_at_a_time:
            before = self._picture()
            steps: list[Coroutine[Any, Any, None]] = [self._read_positions()]
            if self._is_due("system", _SYSTEM_EVERY):
                steps.append(self._read_system())
            if self._is_due("rules", _RULES_EVERY):
                steps.append(self._read_rules())
            if self._is_due("info", _INFO_EVERY):
                steps.append(self._read_info())
            if not self.has_marks():
                steps.append(self._read_marks())
            for result in await asyncio.gather(*steps, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
            snapshot = self._account.snapshot
            if snapshot is None:
                raise ExchangeUnavailable("exchange_unreachable", "the exchange lists no market that can be traded")
        if before != self._picture():
            self.on_account()
        return snapshot

    async def _resync(self) -> None:
        """After a (re)connect: the open orders as they are now, then the word that everybody should look for his own."""
        self._is_resync_due = False
        try:
            for reports in (await self._rest.orders(), await self._rest.algos()):
                for report in reports:
                    self.on_report(report)
        except ExchangeUnavailable:
            self._is_resync_due = True
            raise
        self._is_synced = not self._is_resync_due  # it may have gone and come again while we read
        self.on_gap()

    # --------------------------------------------------------------------------------------------------------------- reads

    def _is_due(self, what: str, every: timedelta) -> bool:
        read_at = self._read_at.get(what)
        return read_at is None or self._clock() - read_at >= every

    async def _read_positions(self) -> None:
        found = await self._market.positions()
        answered_ms = found.timestamp_ms
        if answered_ms is None:
            raise ExchangeUnavailable(
                "exchange_unreachable", "the exchange's list of positions does not say when it was made"
            )
        self._account.apply_account(found.data, answered_ms=answered_ms)

    async def _read_rules(self) -> None:
        if self._account.apply_instruments(await self._market.rules()):
            self._read_at["rules"] = self._clock()

    async def _read_info(self) -> None:
        try:
            self._account.apply_info(await self._market.client_info())
            for symbol, leverage in (await self._market.leverages()).items():
                self._account.apply_leverage(symbol, leverage)
        except ExchangeUnavailable as error:
            if "info" not in self._read_at:
                raise  # without fees and leverage nothing can be judged
            log.warning("account_settings_not_readable", code=error.code, error=error.message)
        self._read_at["info"] = self._clock()

    async def _read_marks(self) -> None:
        self._account.apply_marks(await self._market.marks(), self._clock())

    async def _read_system(self) -> None:
        """Best effort: an exchange in trouble shows it in the answers that matter; this one has 1 call a second per address."""
        self._read_at["system"] = self._clock()
        try:
            self.on_system_status(await self._market.system_info())
        except ExchangeUnavailable as error:
            log.warning("system_info_not_readable", code=error.code, error=error.message)

    def _picture(self) -> object:
        """What listeners want to hear of: positions, leverage and room, not every tick of a mark."""
        snapshot = self._account.snapshot
        if snapshot is None:
            return None
        held = {symbol: position.quantity for symbol, position in snapshot.positions.items()}
        return held, dict(snapshot.leverage), snapshot.free_collateral
