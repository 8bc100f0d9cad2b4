"""Orderly client: implements `Exchange` for live, testnet and paper, which differ in their URLs only.

Owns the transport, the order line, the rate limiter, the streams and the tasks that keep the account state fresh. `requests.py`
decides what is sent, `classify.py` what a reply means. Never sends an order twice, never decides whether one may be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kekbridge import errors
from kekbridge.config import ExchangeSettings
from kekbridge.exchange.base import (
    Accepted,
    AccountEvent,
    ClosedPosition,
    FundingPayment,
    Health,
    KeyInfo,
    LiquidatedPart,
    Permit,
    RecordsChanged,
    Rejected,
    RequestDescription,
    Retryable,
    SubmitResult,
    TopicRefused,
    Transfer,
)
from kekbridge.exchange.orderly import parsing, requests
from kekbridge.exchange.orderly.account_api import AccountApi
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.exchange.orderly.endpoints import BaseUrls, resolve_urls
from kekbridge.exchange.orderly.order_line import OrderLine
from kekbridge.exchange.orderly.orders_api import OrdersApi, create_endpoint, worst
from kekbridge.exchange.orderly.rate_limiter import RateLimiter, WindowPermit, scaled
from kekbridge.exchange.orderly.requests import CreateRequest, OrderKind
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.exchange.orderly.stream_feed import ESSENTIAL_TOPICS, PRIVATE_TOPICS, PUBLIC_TOPICS, StreamFeed
from kekbridge.exchange.orderly.sync import AccountSync
from kekbridge.exchange.orderly.transport import Transport
from kekbridge.exchange.orderly.websocket import Stream, StreamTimings
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Fill, Instrument, MarginMode, Order, OrderIntent, Side
from kekbridge.model.orders import OrderStatusReport

if TYPE_CHECKING:
    from kekbridge.model.check import Check

log = get_logger("kekbridge.exchange")

_START_TIMEOUT_S: Final = 3.0
_RESTART_DELAY_S: Final = 1.0


def utc_now() -> datetime:
    return datetime.now(UTC)


class OrderlyExchange:
    """One account at one Orderly network. `start` inside a running event loop, `close` at the end, each once.

    Empty URLs are resolved from `name` and `base_url` (see `endpoints.py`). `orders_api` and `account_api` give the calls that the
    protocol does not name. Methods without a docstring do what `Exchange` documents.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        signer: Signer,
        settings: ExchangeSettings,
        *,
        ws_public_url: str = "",
        ws_private_url: str = "",
        clock: Callable[[], datetime] = utc_now,
        set_clock: Callable[[int], None] | None = None,
        ahead_of_wall_ms: Callable[[], int] = lambda: 0,
        rate_limiter: RateLimiter | None = None,
        stream_timings: StreamTimings | None = None,
    ) -> None:
        """`set_clock` sets `clock` forward by so many ms once the exchange's replies have proven it wrong; `ahead_of_wall_ms`: how far
        `clock` is ahead of the machine's."""
        self._name = name
        self._settings = settings
        self._clock = clock
        urls = resolve_urls(
            name, base_url, ws_public_url or settings.ws_public_url, ws_private_url or settings.ws_private_url
        )
        self._rate_limiter = rate_limiter or RateLimiter(scaled(settings.rate_factor))
        self._transport = Transport(urls.rest, signer, timeout_s=settings.request_timeout_s, clock_ms=self._clock_ms)
        self._transport.offset.set_clock = set_clock
        self._ahead_of_wall_ms = ahead_of_wall_ms
        self._order_line = OrderLine(
            urls.rest,
            signer,
            self._transport.offset,
            timeout_s=settings.request_timeout_s,
            recv_window_ms=settings.recv_window_ms,
            clock=clock,
        )
        self.orders_api = OrdersApi(
            self._transport,
            self._order_line,
            self._rate_limiter,
            on_result=lambda result: self._sync.record_result(result),
        )
        self.account_api = AccountApi(self.orders_api)
        self._account_state = AccountState(clock)
        self._sync = AccountSync(
            self.account_api, self.orders_api, self._account_state, clock=clock, refresh_s=settings.refresh_s
        )
        self._sync.on_report = self._notify_report
        self._sync.on_account = self._notify_account
        self._sync.on_gap = self._notify_gap
        self._feed = StreamFeed(
            self._account_state,
            clock=clock,
            on_report=self._notify_report,
            on_account=self._on_account_changed,
            on_leg=self._notify_gap,
            on_system=self._sync.on_system_status,
            on_leverage=self._sync.on_leverage,
            on_records=lambda: self._notify_event(RecordsChanged()),
        )
        self._sync.on_event = self._notify_event
        self._private_stream, self._public_stream = self._make_streams(urls, stream_timings or StreamTimings())
        self._sync.has_marks = lambda: self._public_stream.is_live and "markprices" not in self._public_stream.refused
        self._sync.hears_leverage = lambda: (
            self._private_stream.is_live and "account" not in self._private_stream.refused
        )
        self._refused_topics: dict[str, str] = {}  # reported since the start
        self._tasks: list[asyncio.Task[None]] = []
        self._report_listeners: list[Callable[[OrderStatusReport], None]] = []
        self._account_listeners: list[Callable[[AccountSnapshot], None]] = []
        self._gap_listeners: list[Callable[[], None]] = []
        self._event_listeners: list[Callable[[AccountEvent], None]] = []

    def _make_streams(self, urls: BaseUrls, timings: StreamTimings) -> tuple[Stream, Stream]:
        private = Stream(
            "private",
            f"{urls.ws_private}/{self.signer.account_id}",
            PRIVATE_TOPICS,
            session=lambda: self._transport.session,
            login=self._login,
            on_message=self._feed.handle,
            on_live=self._sync.on_stream_connected,
            on_lost=self._sync.on_stream_lost,
            on_refused=self._on_topic_refused,
            on_frame=self._on_frame,
            timings=timings,
        )
        public = Stream(
            "public",
            f"{urls.ws_public}/{self.signer.account_id}",
            PUBLIC_TOPICS,
            session=lambda: self._transport.session,
            on_message=self._feed.handle,
            on_refused=self._on_topic_refused,
            timings=timings,
        )
        return private, public

    # -------------------------------------------------------------------------------------------------------- start, stop, health

    @property
    def name(self) -> str:
        return self._name

    @property
    def snapshot(self) -> AccountSnapshot | None:
        return self._account_state.snapshot

    @property
    def signer(self) -> Signer:
        return self._transport.signer

    @property
    def health(self) -> Health:
        offset_ms = self._transport.offset.ms
        return Health(
            is_reachable=self._sync.is_reachable,
            is_maintenance=self._sync.is_maintenance,
            stream_is_live=self.stream_is_live,
            clock_offset_ms=None if offset_ms is None else offset_ms + self._ahead_of_wall_ms(),
            last_heard_at=self._account_state.confirmed_at,
            detail=self._sync.detail or self._refused_detail(),
        )

    @property
    def stream_is_live(self) -> bool:
        return self._private_stream.is_live and not ESSENTIAL_TOPICS & self._private_stream.refused.keys()

    def now(self) -> datetime:
        return self._clock() + timedelta(milliseconds=self._transport.offset.ms or 0)

    def _on_frame(self) -> None:
        if self.stream_is_live:  # else its silence confirms nothing
            self._sync.on_stream_frame()

    def _refused_detail(self) -> str:
        refused = sorted({**self._private_stream.refused, **self._public_stream.refused})
        return f"the exchange refuses the stream topic {', '.join(refused)}" if refused else ""

    async def start(self) -> None:
        """Connect and keep the snapshot fresh. Return after the first attempt, at most after 3 s; attempts continue."""
        await self._open()
        self._order_line.keep_warm()
        for loop in (self._sync.run, self._private_stream.run, self._public_stream.run):
            self._tasks.append(asyncio.create_task(self._keep_running(loop)))
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._sync.first_attempt.wait()
        except TimeoutError:
            log.warning("exchange_not_reached_at_start", exchange=self._name)

    async def _open(self) -> None:
        await self._transport.open()
        self._order_line.open()

    async def _keep_running(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Restart a loop that raised: network errors are handled inside, and a defect must not stop the updates for good."""
        while True:
            try:
                await loop()
            except Exception:
                log.exception("exchange_loop_failed", exchange=self._name, loop=loop.__qualname__)
            await asyncio.sleep(_RESTART_DELAY_S)

    async def close(self) -> None:
        """Cancel the tasks, then close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._rate_limiter.close()
        await self._order_line.close()
        await self._transport.close()

    async def checks(self) -> tuple[Check, ...]:
        from kekbridge.exchange.orderly.checks import CheckTarget, run_checks  # only serve and doctor need them

        await self._open()
        target = CheckTarget(
            name=self._name,
            base_url=self._transport.base_url,
            account_api=self.account_api,
            signer=self.signer,
            broker_id=self._settings.broker_id,
            clock=self._clock,
            clock_offset_ms=lambda: self._transport.offset.ms,
        )
        return await run_checks(target)

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        return await self.account_api.transfers(since)

    async def funding_payments(self, since: datetime) -> tuple[FundingPayment, ...]:
        return await self.account_api.funding_payments(since)

    async def liquidations(self, since: datetime) -> tuple[LiquidatedPart, ...]:
        return await self.account_api.liquidations(since)

    async def closed_positions(self, since: datetime) -> tuple[ClosedPosition, ...]:
        return await self.account_api.closed_positions(since)

    async def refresh_rules(self) -> None:
        """Read the trading rules of every market now. Raises ExchangeUnavailable."""
        await self._sync.read_rules()

    async def own_key(self) -> KeyInfo | None:
        return await self.account_api.key(self.signer.account_id, self.signer.orderly_key)

    async def refresh(self) -> AccountSnapshot:
        return await self._sync.refresh()

    # -------------------------------------------------------------------------------------------------------------- orders

    async def acquire_permit(self, order: Order) -> WindowPermit:
        kind = requests.order_kind(order.intent)
        return await self._rate_limiter.acquire(
            create_endpoint(kind), is_urgent=not order.is_entry, is_stop=kind is OrderKind.STOP and not order.is_entry
        )

    def try_acquire_permit(self, order: Order) -> WindowPermit | None:
        return self._rate_limiter.try_acquire(
            create_endpoint(requests.order_kind(order.intent)), is_urgent=not order.is_entry
        )

    def describe_request(self, intent: OrderIntent, client_order_id: str) -> RequestDescription:
        request = requests.request_for(intent, client_order_id)
        return RequestDescription(request.path, request.text)

    def exits_after_fill(
        self, intent: OrderIntent, executed: Decimal, instrument: Instrument
    ) -> tuple[OrderIntent, ...]:
        return requests.later_exits(intent, executed, instrument)

    def exits_close_position(self, intent: OrderIntent) -> bool:
        return requests.has_positional_exits(intent)

    def carries_all_exits(self, intent: OrderIntent) -> bool:
        return not requests.has_later_exits(intent)

    async def submit(self, order: Order, permit: Permit | None = None) -> SubmitResult:
        if not isinstance(permit, WindowPermit) or not permit.is_held:
            request = self._request_for(order)
            if not isinstance(request, CreateRequest):
                return request
            permit = await self.acquire_permit(order)
        return await self.submit_now(order, permit)

    def submit_now(self, order: Order, permit: Permit) -> asyncio.Future[SubmitResult]:
        if not isinstance(permit, WindowPermit) or not permit.is_held:
            raise ValueError("submit_now takes a permit of this exchange that is still held")
        request = self._request_for(order)
        if isinstance(request, CreateRequest):
            return self.orders_api.create(request, permit, expires_at=order.expires_at, is_urgent=not order.is_entry)
        permit.release()
        unsent: asyncio.Future[SubmitResult] = asyncio.get_running_loop().create_future()
        unsent.set_result(request)
        return unsent

    def _request_for(self, order: Order) -> CreateRequest | Rejected | Retryable:
        """The request to send now, or why nothing may be sent."""
        try:
            request = requests.create_request(order)
        except errors.Refused as refused:
            return Rejected(refused.code, refused.message)
        if order.is_entry and self._sync.is_maintenance:
            return Retryable(
                "exchange_busy", self._sync.detail or "the exchange is in maintenance", self._settings.refresh_s
            )
        if self._clock() > order.expires_at:
            return Retryable("alert_expired", "the order was let through only after its allowed age")
        return request

    async def find(self, order: Order, *, is_urgent: bool = False) -> OrderStatusReport | None:
        is_urgent = is_urgent or not order.is_entry
        if requests.order_kind(order.intent) is OrderKind.PLAIN:
            report = await self.orders_api.order_by_client_id(order.client_order_id, is_urgent=is_urgent)
        else:
            report = await self.orders_api.algo_by_client_id(order.client_order_id, is_urgent=is_urgent)
        if report is None:
            return None
        if report.client_order_id not in (None, order.client_order_id):
            raise errors.ExchangeUnavailable(
                "exchange_unreachable", f"queried {order.client_order_id}, the exchange returned another order"
            )
        return await self._complete_algo_report(report, order) if report.is_algo else report

    async def _complete_algo_report(self, report: OrderStatusReport, order: Order) -> OrderStatusReport:
        """Add what an algo report lacks: the average price (from the fills), and the state of a bracket's stop that became independent."""
        if report.executed_quantity > 0 and report.average_price is None:
            executions = await self.fills(report)
            quantity = sum((fill.quantity for fill in executions), Decimal(0))
            if quantity:
                value = sum((fill.price * fill.quantity for fill in executions), Decimal(0))
                fee = sum((fill.fee for fill in executions), Decimal(0))
                report = replace(report, average_price=value / quantity, fee=report.fee or fee)
        if order.intent.stop_loss is not None and report.executed_quantity > 0 and report.stop_is_live is None:
            # A POSITIONAL_TP_SL leaves its bracket with the first fill and is independent then (docs/internals/orderly.md section 7).
            is_live = any(
                root.venue_type == "POSITIONAL_TP_SL" and root.stop_is_live and root.side is order.intent.side.opposite
                for root in await self.orders_api.algos(symbol=report.symbol)
            )
            report = replace(report, stop_is_live=is_live)
        return report

    def streamed_fills(self, report: OrderStatusReport) -> tuple[Fill, ...] | None:
        streamed = None if report.is_algo else self._feed.pop_opening_fill(report.order_id, report.executed_quantity)
        return None if streamed is None else (parsing.with_client_order_id(report, streamed),)

    async def fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        streamed = self.streamed_fills(report)
        if streamed is not None:
            return streamed
        if report.is_algo:
            executions = await self.orders_api.algo_trades(report.order_id)
            if report.venue_type == "BRACKET":
                executions = tuple(fill for fill in executions if fill.side is report.side)
        else:
            executions = await self.orders_api.order_trades(report.order_id)
        for fill in executions:
            # Own fills show in the snapshot at once; the next account report of the exchange replaces them.
            if self._account_state.apply_fill(fill):
                self._on_account_changed()
        return tuple(parsing.with_client_order_id(report, fill) for fill in executions)

    async def exit_fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        if report.venue_type != "BRACKET":
            return ()
        executions = await self.orders_api.algo_trades(report.order_id)
        return tuple(fill for fill in executions if fill.side is not report.side)

    async def trades_since(self, since: datetime) -> tuple[Fill, ...]:
        return await self.orders_api.trades(since)

    async def open_orders(self) -> tuple[OrderStatusReport, ...]:
        plain, algos = await asyncio.gather(self.orders_api.orders(), self.orders_api.algos())
        return plain + algos

    async def orders_since(self, since: datetime) -> tuple[OrderStatusReport, ...]:
        plain, algos = await asyncio.gather(self.orders_api.orders(since), self.orders_api.algos(since=since))
        return plain + algos

    async def live_stops(self, symbol: str, side: Side | None = None) -> tuple[OrderStatusReport, ...]:
        """As in `Exchange`: STOP, TRAILING_STOP and stop-loss legs. A leg of a POSITIONAL_TP_SL has quantity 0: it closes the position."""
        found: list[OrderStatusReport] = []
        pending = list(await self.orders_api.algos(symbol=symbol))
        while pending:
            report = pending.pop()
            pending.extend(report.children)
            is_cross = report.margin_mode is not MarginMode.ISOLATED
            if report.stop_is_live and is_cross and not report.children and side in (None, report.side):
                found.append(report)
        return tuple(found)

    async def cancel(self, target: OrderStatusReport | Order) -> SubmitResult:
        if isinstance(target, Order):
            symbol, is_algo = target.intent.symbol, requests.order_kind(target.intent).is_algo
        else:
            symbol, is_algo = target.symbol, target.is_algo
        if target.order_id is None:
            raise ValueError(
                f"order {target.client_order_id} cannot be cancelled: the exchange's id of it is not known"
            )
        if is_algo:
            return await self.orders_api.cancel_algo(symbol, target.order_id)
        return await self.orders_api.cancel_order(symbol, target.order_id)

    async def cancel_exits(self, report: OrderStatusReport) -> SubmitResult:
        """As in `Exchange`: the pairs below the root of a bracket, one request each."""
        pairs = [pair for pair in report.children if any(not leg.status.is_final for leg in pair.exits)]
        return worst(
            list(await asyncio.gather(*(self.orders_api.cancel_algo(report.symbol, pair.order_id) for pair in pairs)))
        )

    async def cancel_all(self, symbol: str | None = None) -> SubmitResult:
        """As in `Exchange`: six requests, one for plain orders and one per algo type."""
        calls = [self.orders_api.cancel_orders(symbol)]
        calls += [self.orders_api.cancel_algos(algo_type, symbol) for algo_type in requests.ALGO_TYPES]
        return worst(list(await asyncio.gather(*calls)))

    async def cancel_entries(self, symbol: str | None = None) -> SubmitResult:
        """As in `Exchange`: one request for plain orders, and one for each algo order that may open something."""
        calls = [self.orders_api.cancel_orders(symbol)]
        calls += [
            self.orders_api.cancel_algo(root.symbol, root.order_id)
            for root in await self.orders_api.algos(symbol=symbol)
            if root.may_open
        ]
        return worst(list(await asyncio.gather(*calls)))

    def leverage_of(self, symbol: str) -> Decimal | None:
        """As in `Exchange`: None also if it may have been changed elsewhere since it was read."""
        return self._account_state.leverage_of(symbol) if self._sync.knows_leverage else None

    async def set_leverage(self, symbol: str, leverage: Decimal) -> SubmitResult:
        """As in `Exchange`: a whole number from 1 to 100."""
        if leverage != leverage.to_integral_value() or not 1 <= leverage <= 100:
            return Rejected("leverage_invalid", f"leverage {leverage} is not a whole number from 1 to 100")
        if not self._sync.knows_leverage:
            try:
                await self._sync.learn_leverages()
            except errors.ExchangeUnavailable as error:
                return Retryable(error.code, f"the leverage in force could not be read: {error.message}")
        if self._account_state.leverage_of(symbol) == leverage:
            return Accepted("")  # 5 changes a minute are allowed
        self._sync.begin_setting(symbol, MarginMode.CROSS, leverage)
        is_set = False
        try:
            result = await self.account_api.set_leverage(symbol, int(leverage))
            is_set = isinstance(result, Accepted)
        finally:
            self._sync.end_setting(symbol, MarginMode.CROSS, leverage if is_set else None)
        if is_set:
            self._account_state.apply_leverage(symbol, leverage)
            self._on_account_changed()
        return result

    # ----------------------------------------------------------------------------------------------------------- listeners

    def listen_reports(self, callback: Callable[[OrderStatusReport], None]) -> None:
        self._report_listeners.append(callback)

    def listen_account(self, callback: Callable[[AccountSnapshot], None]) -> None:
        self._account_listeners.append(callback)

    def listen_gaps(self, callback: Callable[[], None]) -> None:
        self._gap_listeners.append(callback)

    def listen_events(self, callback: Callable[[AccountEvent], None]) -> None:
        self._event_listeners.append(callback)

    def _notify_event(self, event: AccountEvent) -> None:
        for callback in self._event_listeners:
            callback(event)

    def _on_topic_refused(self, topic: str, reason: str) -> None:
        """Publish a refused topic once, however often the stream reconnects."""
        if self._refused_topics.get(topic) != reason:
            self._refused_topics[topic] = reason
            self._notify_event(TopicRefused(topic, reason))

    def _notify_report(self, report: OrderStatusReport) -> None:
        for callback in self._report_listeners:
            callback(report)

    def _notify_account(self) -> None:
        snapshot = self._account_state.snapshot
        if snapshot is not None:
            for callback in self._account_listeners:
                callback(snapshot)

    def _notify_gap(self) -> None:
        for callback in self._gap_listeners:
            callback()

    def _on_account_changed(self) -> None:
        """Notify listeners, and refresh the totals that the change did not include."""
        self._sync.request_refresh()
        self._notify_account()

    # ------------------------------------------------------------------------------------------------------------- private

    def _clock_ms(self) -> int:
        return parsing.milliseconds(self._clock())

    def _login(self) -> dict[str, object]:
        timestamp_ms = self._transport.signing_time_ms()
        return {
            "orderly_key": self.signer.orderly_key,
            "sign": self.signer.sign_login(timestamp_ms),
            "timestamp": timestamp_ms,
        }
