"""Keep the account state in sync with the exchange: poll, resync after the stream reconnected, track maintenance.

One loop, woken by its timer or by `request_refresh`. Reads only; sends no orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import AccountEvent, LeverageChanged, MarginModeChanged, MarketChanged, RulesChanged
from kekbridge.exchange.orderly.account_api import AccountApi, SystemInfo
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.exchange.orderly.orders_api import OrdersApi
from kekbridge.exchange.orderly.replies import HttpReply, TransportResult
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Instrument, MarginMode
from kekbridge.model.orders import OrderStatusReport

log = get_logger("kekbridge.exchange.orderly.sync")

_RULES_INTERVAL: Final = timedelta(minutes=5)  # a market that is delisted, or whose steps change, is noticed within it
_INFO_INTERVAL: Final = timedelta(seconds=60)  # client/info: at most 10 calls a minute
_SYSTEM_INTERVAL: Final = timedelta(seconds=10)
# Requests that come together (the fills of one order) share one refresh; positions: 3 calls a second on average.
_COALESCE_S: Final = 0.15
_MIN_INTERVAL_S: Final = 0.5
# How long a read of the leverages is believed without the stream's reports: about one order's way.
_LEVERAGE_FRESH_S: Final = 1.0
_FIRST_RETRY_S: Final = 0.5
# What decides whether an order of a size and price is taken, and what margin it needs; the other rules move with the market.
_RULES_OF_ORDERS: Final = ("quote_tick", "base_tick", "base_min", "min_notional", "base_imr")


class AccountSync:
    """The sync loop and the state of the connection. The owner sets the callbacks before `run`."""

    def __init__(
        self,
        account_api: AccountApi,
        orders_api: OrdersApi,
        account_state: AccountState,
        *,
        clock: Callable[[], datetime],
        refresh_s: float,
    ) -> None:
        self._account_api = account_api
        self._orders_api = orders_api
        self._account_state = account_state
        self._clock = clock
        self._refresh_s = refresh_s
        self._refresh_lock = asyncio.Lock()
        self._refresh_requested = asyncio.Event()
        self._is_resync_due = False
        self._is_stream_synced = False
        self._last_read_at: dict[str, datetime] = {}
        self._last_reply_at: datetime | None = None
        self._failure = ""
        self._system: SystemInfo | None = None
        self._system_at: datetime | None = None
        self.first_attempt = asyncio.Event()
        self.has_marks: Callable[[], bool] = lambda: False
        self.on_report: Callable[[OrderStatusReport], None] = lambda report: None
        self.on_account: Callable[[], None] = lambda: None
        self.on_gap: Callable[[], None] = lambda: None
        self.on_event: Callable[[AccountEvent], None] = lambda event: None
        #: True while the stream reports every leverage that is set.
        self.hears_leverage: Callable[[], bool] = lambda: False
        self._is_leverage_synced = False  # the leverages were read after the stream began to report them
        self._leverage_read_at: float | None = None
        self._leverage_lock = asyncio.Lock()
        self._margin_modes: dict[str, MarginMode] = {}
        self._leverages: dict[tuple[str, MarginMode], Decimal] = {}  # as last read, reported or set
        self._setting: dict[tuple[str, MarginMode], Decimal] = {}  # leverages that we are setting
        self._asked: dict[
            tuple[str, MarginMode], Decimal
        ] = {}  # that we have asked for last: a report of one is no news
        self._settings_begun = 0

    # -------------------------------------------------------------------------------------------------------- status

    @property
    def is_reachable(self) -> bool:
        """The exchange itself replied within the last three refreshes, and the last request did not fail."""
        last_reply_at = self._last_reply_at
        return last_reply_at is not None and not self._failure and self._clock() - last_reply_at < 3 * self._interval

    @property
    def is_maintenance(self) -> bool:
        """True if the exchange reported maintenance within the last three polls; older reports must not stop trading."""
        if self._system is None or self._system_at is None or not self._system.is_maintenance:
            return False
        return self._clock() - self._system_at < 3 * max(self._interval, _SYSTEM_INTERVAL)

    @property
    def detail(self) -> str:
        """What is wrong, on one line; empty if nothing is."""
        if self.is_maintenance and self._system is not None:
            until = f", until {self._system.ends_at:%Y-%m-%d %H:%M} UTC" if self._system.ends_at else ""
            return f"the exchange is in maintenance{until}"
        return self._failure

    @property
    def _interval(self) -> timedelta:
        return timedelta(seconds=self._refresh_s)

    # ------------------------------------------------------------------------------------------------------- events

    def record_result(self, result: TransportResult) -> None:
        """Note the result of any request, orders included."""
        if isinstance(result, HttpReply):
            if result.is_json and result.status < 500:
                self._last_reply_at = self._clock()
                self._failure = ""
            else:
                self._record_failure(result.description)
        else:
            self._record_failure(result.reason)

    def _record_failure(self, reason: str) -> None:
        self._failure = reason
        if not self._refresh_lock.locked():
            self._refresh_requested.set()  # an order failed: check now whether the exchange is reachable, not at the next poll

    def on_system_status(self, system: SystemInfo) -> None:
        """Take the exchange's status, from a poll or from the stream."""
        was_maintenance = self.is_maintenance
        self._system, self._system_at = system, self._clock()
        if was_maintenance != system.is_maintenance:
            log.warning("exchange_maintenance", is_maintenance=system.is_maintenance, message=system.message)

    def on_stream_connected(self) -> None:
        """The stream is subscribed: fetch what happened while it was not (docs/internals/orderly.md section 12)."""
        self._is_resync_due = True
        self._is_stream_synced = self._is_leverage_synced = False
        self._last_read_at.pop("leverages", None)
        self._refresh_requested.set()

    def on_stream_lost(self, reason: str) -> None:
        """From now on silence of the stream confirms nothing."""
        self._is_stream_synced = self._is_leverage_synced = False

    def on_stream_frame(self) -> None:
        """A frame of the private stream: after the resync, what it does not report has not changed."""
        if self._is_stream_synced:
            self._account_state.mark_alive()

    def request_refresh(self) -> None:
        """Refresh soon; requests within 0.15 s share one refresh."""
        self._refresh_requested.set()

    # ----------------------------------------------------------------------------------------------------- leverage

    @property
    def knows_leverage(self) -> bool:
        """True while the leverages are known to be as the exchange has them: reported by the stream, or read just now."""
        if self._is_leverage_synced and self.hears_leverage():
            return True
        read_at = self._leverage_read_at
        return read_at is not None and asyncio.get_running_loop().time() - read_at < _LEVERAGE_FRESH_S

    def begin_setting(self, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
        """A leverage is being set by us: a report of it is no news, and what is read meanwhile is not believed."""
        self._setting[symbol, mode] = self._asked[symbol, mode] = leverage
        self._settings_begun += 1

    def end_setting(self, symbol: str, mode: MarginMode, leverage: Decimal | None) -> None:
        """The request has its answer, or none; `leverage`: what is set now, None if that is not known or it was not changed."""
        self._setting.pop((symbol, mode), None)
        if leverage is not None:
            self._leverages[symbol, mode] = leverage

    def on_leverage(self, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
        """Take the leverage of a market from the stream or a read; one that somebody else changed is an event."""
        before = self._leverages.get((symbol, mode))
        self._leverages[symbol, mode] = leverage
        if mode is MarginMode.CROSS:
            self._account_state.apply_leverage(symbol, leverage)
        if before is not None and before != leverage and self._asked.get((symbol, mode)) != leverage:
            if (symbol, mode) not in self._setting:
                self._asked.pop((symbol, mode), None)
            log.warning("leverage_changed", symbol=symbol, margin_mode=mode, before=before, after=leverage)
            self.on_event(LeverageChanged(symbol, mode, before, leverage))
            self.on_account()

    async def learn_leverages(self) -> None:
        """Return once a read of the leverages has ended; orders that wait for them share one. Raises ExchangeUnavailable."""
        async with self._leverage_lock:
            if not self.knows_leverage:
                await self._read_leverages()

    async def _read_leverages(self) -> None:
        was_heard, begun = self.hears_leverage(), self._settings_begun
        started_at = asyncio.get_running_loop().time()
        found = await self._account_api.leverages()
        if self._setting or begun != self._settings_begun:
            return  # perhaps older than what we have set meanwhile
        for (symbol, mode), leverage in found.items():
            self.on_leverage(symbol, mode, leverage)
        self._leverage_read_at = started_at
        self._is_leverage_synced = was_heard and self.hears_leverage()

    # ------------------------------------------------------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Refresh for ever: on the timer, on request, and after the stream reconnected."""
        failures = 0
        while True:
            self._refresh_requested.clear()
            try:
                await self.refresh()
                if self._is_resync_due:
                    await self._resync()
                if self._is_due("leverages", _INFO_INTERVAL):
                    await self._read_margin_settings()
                failures = 0
            except ExchangeUnavailable as error:
                failures += 1
                self._failure = error.message
                log.warning("exchange_not_readable", code=error.code, error=error.message, failures=failures)
            self.first_attempt.set()
            await asyncio.sleep(_MIN_INTERVAL_S)
            retry_s = min(_FIRST_RETRY_S * 2 ** min(failures, 10), self._refresh_s)
            await self._wait_for_request(retry_s if failures else max(self._refresh_s - _MIN_INTERVAL_S, 0.0))

    async def _wait_for_request(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._refresh_requested.wait()
            await asyncio.sleep(_COALESCE_S)
        except TimeoutError:
            pass  # the timer is due

    async def refresh(self) -> AccountSnapshot:
        """Read everything that is due. Raises ExchangeUnavailable if any of it gave no usable reply.

        Only `run` reads the leverages again, because of their limit of one read a second: at the start, what waits for the account would
        wait for the read that follows the stream's connection. Until that has its reply, `knows_leverage` is false.
        """
        async with self._refresh_lock:
            before = self._account_key()
            steps: list[Coroutine[Any, Any, None]] = [self._read_positions()]
            if self._is_due("system", _SYSTEM_INTERVAL):
                steps.append(self._read_system())
            if self._is_due("rules", _RULES_INTERVAL):
                steps.append(self._read_rules())
            if self._is_due("info", _INFO_INTERVAL):
                steps.append(self._read_info())
            if self._leverage_read_at is None:
                steps.append(self._read_margin_settings())
            if not self.has_marks():
                steps.append(self._read_marks())
            for result in await asyncio.gather(*steps, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
            snapshot = self._account_state.snapshot
            if snapshot is None:
                raise ExchangeUnavailable("exchange_unreachable", "the exchange lists no market that can be traded")
        if before != self._account_key():
            self.on_account()
        return snapshot

    async def _resync(self) -> None:
        """After a (re)connect: report the open orders as they are now, then announce the gap."""
        self._is_resync_due = False
        try:
            for reports in (await self._orders_api.orders(), await self._orders_api.algos()):
                for report in reports:
                    self.on_report(report)
        except ExchangeUnavailable:
            self._is_resync_due = True
            raise
        self._is_stream_synced = not self._is_resync_due  # false if the stream reconnected again meanwhile
        self.on_gap()

    # --------------------------------------------------------------------------------------------------------------- reads

    def _is_due(self, kind: str, interval: timedelta) -> bool:
        last_read_at = self._last_read_at.get(kind)
        return (
            last_read_at is None or abs(self._clock() - last_read_at) >= interval
        )  # also after a clock that was set back

    async def _read_positions(self) -> None:
        found = await self._account_api.positions()
        answered_ms = found.timestamp_ms
        if answered_ms is None:
            raise ExchangeUnavailable("exchange_unreachable", "the exchange's list of positions has no timestamp")
        self._account_state.apply_account(found.data, answered_ms=answered_ms)

    async def _read_rules(self) -> None:
        before = self._account_state.instruments
        if not self._account_state.apply_instruments(await self._account_api.rules()):
            return
        self._last_read_at["rules"] = self._clock()
        for symbol, instrument in self._account_state.instruments.items():
            self._compare_rules(before.get(symbol, instrument), instrument)
        try:
            self._account_state.apply_rwa_symbols(await self._account_api.rwa_symbols())
        except ExchangeUnavailable as error:
            log.warning("rwa_markets_not_readable", code=error.code, error=error.message)  # the known ones stay

    def _compare_rules(self, before: Instrument, after: Instrument) -> None:
        if before.status != after.status:
            log.warning("market_status", symbol=after.symbol, before=before.status, after=after.status)
            self.on_event(MarketChanged(after.symbol, before.status, after.status))
        pairs = {name: (getattr(before, name), getattr(after, name)) for name in _RULES_OF_ORDERS}
        changed = {name: (old, new) for name, (old, new) in pairs.items() if old != new}
        if changed:
            log.warning("market_rules", symbol=after.symbol, changed=", ".join(changed))
            self.on_event(RulesChanged(after.symbol, changed))

    async def read_rules(self) -> None:
        """Read the trading rules now. Raises ExchangeUnavailable."""
        await self._read_rules()

    async def _read_info(self) -> None:
        try:
            self._account_state.apply_info(await self._account_api.client_info())
        except ExchangeUnavailable as error:
            if "info" not in self._last_read_at:
                raise  # without fees no order can be checked
            log.warning("account_settings_not_readable", code=error.code, error=error.message)
        self._last_read_at["info"] = self._clock()

    async def _read_margin_settings(self) -> None:
        """Leverages and margin modes."""
        self._last_read_at["leverages"] = self._clock()  # if the stream connects before the reply, the next read is due
        try:
            async with self._leverage_lock:
                await self._read_leverages()
            await self._read_margin_modes()
        except ExchangeUnavailable as error:
            if self._leverage_read_at is None:
                raise  # without leverage no order can be checked
            log.warning("account_settings_not_readable", code=error.code, error=error.message)

    async def _read_margin_modes(self) -> None:
        modes = await self._account_api.margin_modes()
        for symbol, mode in modes.items():
            before = self._margin_modes.get(symbol, mode)
            if before is not mode:
                self.on_event(MarginModeChanged(symbol, before, mode))
        self._margin_modes = modes

    async def _read_marks(self) -> None:
        self._account_state.apply_marks(await self._account_api.marks(), self._clock())

    async def _read_system(self) -> None:
        """Best effort, at most 1 call a second per address: an exchange in trouble shows in the other replies as well."""
        self._last_read_at["system"] = self._clock()
        try:
            self.on_system_status(await self._account_api.system_info())
        except ExchangeUnavailable as error:
            log.warning("system_info_not_readable", code=error.code, error=error.message)

    def _account_key(self) -> object:
        """What listeners are notified of: positions, leverage and free collateral, not every mark price."""
        snapshot = self._account_state.snapshot
        if snapshot is None:
            return None
        held = {symbol: position.quantity for symbol, position in snapshot.positions.items()}
        return held, dict(snapshot.leverage), snapshot.free_collateral
