"""The one Orderly client behind the Exchange protocol: paper, testnet and live are this class with other addresses.

It owns the connection, the rate windows, the streams and the tasks that keep the account's picture fresh. What an answer means is
decided in classify.py, what is sent in bodies.py; nothing here sends an order twice or decides whether one may be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from kekbridge import errors
from kekbridge.config import ExchangeSettings
from kekbridge.exchange.base import (
    Accepted,
    FundingPayment,
    Health,
    KeyInfo,
    Permit,
    Rejected,
    RequestDescription,
    Retryable,
    SubmitResult,
    Transfer,
    Unknown,
)
from kekbridge.exchange.orderly import parsing, requests
from kekbridge.exchange.orderly.account_api import AccountApi
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.exchange.orderly.endpoints import ADDRESSES as ADDRESSES
from kekbridge.exchange.orderly.endpoints import Addresses, addresses_of
from kekbridge.exchange.orderly.orders_api import OrdersApi, worst
from kekbridge.exchange.orderly.rate_limiter import Endpoint, RateLimiter, WindowPermit, scaled
from kekbridge.exchange.orderly.requests import OrderKind
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.exchange.orderly.stream_feed import PRIVATE_TOPICS, PUBLIC_TOPICS, StreamFeed
from kekbridge.exchange.orderly.sync import AccountSync
from kekbridge.exchange.orderly.transport import Transport
from kekbridge.exchange.orderly.websocket import Stream, StreamTimings
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Fill, Instrument, Order, OrderIntent, Side
from kekbridge.model.orders import OrderStatusReport

if TYPE_CHECKING:
    from kekbridge.model.check import Check

log = get_logger("kekbridge.exchange")

_START_WAIT_S: Final = 3.0
_AFTER_DEFECT_S: Final = 1.0


def utc_now() -> datetime:
    return datetime.now(UTC)


class OrderlyExchange:
    """A venue. `start` it inside a running loop, `close` it at the end; both may be called once.

    `base_url` empty means the published address of `name`; stream addresses empty are derived from it. The further methods (`rest`,
    `market`) reach every call that the protocol does not name.
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
        pacer: RateLimiter | None = None,
        stream_timings: StreamTimings | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        addresses = addresses_of(
            name, base_url, ws_public_url or settings.ws_public_url, ws_private_url or settings.ws_private_url
        )
        self._rate_limiter = pacer or RateLimiter(scaled(settings.rate_factor))
        self._transport = Transport(
            addresses.rest, signer, timeout_s=settings.request_timeout_s, clock_ms=self._clock_ms
        )
        self.orders_api = OrdersApi(
            self._transport,
            self._rate_limiter,
            recv_window_ms=settings.recv_window_ms,
            on_outcome=lambda outcome: self._sync.record_outcome(outcome),
        )
        self.account_api = AccountApi(self.orders_api)
        self._account = AccountState(clock)
        self._sync = AccountSync(
            self.account_api, self.orders_api, self._account, clock=clock, refresh_s=settings.refresh_s
        )
        self._sync.on_report = self._notify_report
        self._sync.on_account = self._notify_account
        self._sync.on_gap = self._notify_gap
        self._feed = StreamFeed(
            self._account,
            clock=clock,
            on_report=self._notify_report,
            on_account=self._on_account_changed,
            on_leg=self._notify_gap,
            on_system=self._sync.on_system_status,
        )
        self._private, self._public = self._make_streams(addresses, stream_timings or StreamTimings())
        self._sync.has_marks = lambda: self._public.is_live
        self._tasks: list[asyncio.Task[None]] = []
        self._report_listeners: list[Callable[[OrderStatusReport], None]] = []
        self._account_listeners: list[Callable[[AccountSnapshot], None]] = []
        self._gap_listeners: list[Callable[[], None]] = []

    def _make_streams(self, addresses: Addresses, timings: StreamTimings) -> tuple[Stream, Stream]:
        """The private and the public stream, each telling what it hears."""
        private = Stream(
            "private",
            f"{addresses.ws_private}/{self.signer.account_id}",
            PRIVATE_TOPICS,
            session=lambda: self._transport.session,
            login=self._login,
            on_message=self._feed.handle,
            on_live=self._sync.on_stream_connected,
            on_lost=self._sync.on_stream_lost,
            on_sign_of_life=self._sync.on_stream_frame,
            timings=timings,
        )
        public = Stream(
            "public",
            f"{addresses.ws_public}/{self.signer.account_id}",
            PUBLIC_TOPICS,
            session=lambda: self._transport.session,
            on_message=self._feed.handle,
            timings=timings,
        )
        return private, public

    # -------------------------------------------------------------------------------------------------------- life, health

    @property
    def name(self) -> str:
        return self._name

    @property
    def snapshot(self) -> AccountSnapshot | None:
        return self._account.snapshot

    @property
    def signer(self) -> Signer:
        return self._transport.signer

    @property
    def health(self) -> Health:
        return Health(
            is_reachable=self._sync.is_reachable,
            is_maintenance=self._sync.is_maintenance,
            stream_is_live=self.stream_is_live,
            clock_offset_ms=self._transport.offset.ms,
            last_heard_at=self._account.heard_at,
            detail=self._sync.detail,
        )

    @property
    def stream_is_live(self) -> bool:
        return self._private.is_live

    async def start(self) -> None:
        """Connect and begin to keep the picture fresh. Returns after the first try, or after 3 s at most; it goes on trying."""
        await self._transport.open()
        for loop in (self._sync.run, self._private.run, self._public.run):
            self._tasks.append(asyncio.create_task(self._keep(loop)))
        try:
            async with asyncio.timeout(_START_WAIT_S):
                await self._sync.first_attempt.wait()
        except TimeoutError:
            log.warning("exchange_not_reached_at_start", exchange=self._name)

    async def _keep(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run one of the loops for ever. They handle what the network does; a defect in one must not leave the bridge blind."""
        while True:
            try:
                await loop()
            except Exception:
                log.exception("exchange_loop_failed", exchange=self._name, loop=loop.__qualname__)
            await asyncio.sleep(_AFTER_DEFECT_S)

    async def close(self) -> None:
        """Stop the tasks, then the connection. An order being sent meanwhile ends as its caller sees it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._rate_limiter.close()
        await self._transport.close()

    async def checks(self) -> tuple[Check, ...]:
        """Key, scopes, expiry, addresses, clock, broker, maintenance, markets: one screen for `serve` and `doctor`."""
        from kekbridge.exchange.orderly.checks import VenueUnderCheck, run_checks  # imported here: no order needs them

        await self._transport.open()
        venue = VenueUnderCheck(
            name=self._name,
            base_url=self._transport.base_url,
            account_api=self.account_api,
            signer=self.signer,
            broker_id=self._settings.broker_id,
            clock=self._clock,
            clock_offset_ms=lambda: self._transport.offset.ms,
        )
        return await run_checks(venue)

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        """As in `Exchange`."""
        return await self.account_api.transfers(since)

    async def funding_payments(self, since: datetime) -> tuple[FundingPayment, ...]:
        """As in `Exchange`."""
        return await self.account_api.funding_payments(since)

    async def own_key(self) -> KeyInfo | None:
        """As in `Exchange`."""
        return await self.account_api.key(self.signer.account_id, self.signer.orderly_key)

    async def refresh(self) -> AccountSnapshot:
        """Ask for account, positions and marks now. Raises ExchangeUnavailable when any of them gave no usable answer."""
        return await self._sync.refresh()

    # -------------------------------------------------------------------------------------------------------------- orders

    async def acquire_permit(self, order: Order) -> WindowPermit:
        """Wait for a place in the rate window of the order's create; exits overtake entries. Give it back when nothing is sent."""
        return await self._rate_limiter.acquire(_create_endpoint(order), is_urgent=not order.is_entry)

    def try_acquire_permit(self, order: Order) -> WindowPermit | None:
        """A place that is free this instant, else None. Any thread."""
        return self._rate_limiter.try_acquire(_create_endpoint(order))

    def describe_request(self, intent: OrderIntent, client_order_id: str) -> RequestDescription:
        """As in `Exchange`."""
        request = requests.request_for(intent, client_order_id)
        return RequestDescription(request.path, request.text)

    def exits_after_fill(
        self, intent: OrderIntent, executed: Decimal, instrument: Instrument
    ) -> tuple[OrderIntent, ...]:
        """As in `Exchange`."""
        return requests.later_exits(intent, executed, instrument)

    def carries_all_exits(self, intent: OrderIntent) -> bool:
        """As in `Exchange`."""
        return not requests.has_later_exits(intent)

    async def submit(self, order: Order, permit: Permit | None = None) -> SubmitResult:
        """Send exactly one create for a stored order, in its turn; without one that is still held it waits for it.

        Deferred also when the turn came only after `expires_at`: too old to trade, and nothing was sent.
        """
        try:
            request = requests.create_request(order)
        except errors.Refused as refused:
            return Rejected(refused.code, refused.message)
        if order.is_entry and self._sync.is_maintenance:
            return Retryable(
                "exchange_busy", self._sync.detail or "the exchange is in maintenance", self._settings.refresh_s
            )
        held = permit if isinstance(permit, WindowPermit) and permit.is_held else await self.acquire_permit(order)
        now = self._clock()
        if now > order.expires_at:
            held.release()
            return Retryable(
                "alert_expired", "the order's turn in the exchange's rate window came after its allowed age"
            )
        match await self.orders_api.create(request, held):
            case Accepted(order_id):
                return Accepted(order_id, sent_at=now)
            case Unknown(reason):
                return Unknown(reason, sent_at=now)
            case answer:
                return answer

    async def find(self, order: Order) -> OrderStatusReport | None:
        """Ask for an order by its client order id. None only when the exchange says that it does not exist.

        For a BRACKET the report is the entry's: quantity, price and fee of what it executed, FILLED although the exits still wait.
        """
        is_urgent = not order.is_entry
        if requests.order_kind(order.intent) is OrderKind.PLAIN:
            report = await self.orders_api.order_by_client_id(order.client_order_id, is_urgent=is_urgent)
        else:
            report = await self.orders_api.algo_by_client_id(order.client_order_id, is_urgent=is_urgent)
        if report is None:
            return None
        if report.client_order_id not in (None, order.client_order_id):
            raise errors.ExchangeUnavailable(
                "exchange_unreachable", f"asked for {order.client_order_id}, the exchange answered with another order"
            )
        return await self._completed(report, order) if report.is_algo else report

    async def _completed(self, report: OrderStatusReport, order: Order) -> OrderStatusReport:
        """What an algo object does not say: the average price (from the trades), and the stop of a bracket that became independent."""
        if report.executed_quantity > 0 and report.average_price is None:
            executions = await self.fills(report)
            quantity = sum((fill.quantity for fill in executions), Decimal(0))
            if quantity:
                value = sum((fill.price * fill.quantity for fill in executions), Decimal(0))
                fee = sum((fill.fee for fill in executions), Decimal(0))
                report = replace(report, average_price=value / quantity, fee=report.fee or fee)
        if order.intent.stop_loss is not None and report.executed_quantity > 0 and report.stop_is_live is None:
            # A POSITIONAL_TP_SL leaves its bracket with the first fill and stands by itself then (docs/internals/orderly.md section 7).
            is_live = any(
                root.venue_type == "POSITIONAL_TP_SL" and root.stop_is_live and root.side is order.intent.side.opposite
                for root in await self.orders_api.algos(symbol=report.symbol)
            )
            report = replace(report, stop_is_live=is_live)
        return report

    async def fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        """All executions of an order, oldest first; those of a bracket's entry, not of its exits."""
        told = None if report.is_algo else self._feed.opening_fill(report.order_id, report.executed_quantity)
        if told is not None:
            return (parsing.named(report, told),)
        if report.is_algo:
            executions = await self.orders_api.algo_trades(report.order_id)
            if report.venue_type == "BRACKET":
                executions = tuple(fill for fill in executions if fill.side is report.side)
        else:
            executions = await self.orders_api.order_trades(report.order_id)
        for fill in executions:
            # What we know of our own orders shows in the snapshot at once; the next word of the exchange replaces it.
            if self._account.apply_fill(fill):
                self._on_account_changed()
        return tuple(parsing.named(report, fill) for fill in executions)

    async def exit_fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        """The executions of a bracket's own stop loss and take-profit, oldest first; they carry no client order id of ours."""
        if report.venue_type != "BRACKET":
            return ()
        executions = await self.orders_api.algo_trades(report.order_id)
        return tuple(fill for fill in executions if fill.side is not report.side)

    async def trades_since(self, since: datetime) -> tuple[Fill, ...]:
        """All executions of the account since a time, oldest first (whosever orders they were; they carry no client order id)."""
        return await self.orders_api.trades(since)

    async def open_orders(self) -> tuple[OrderStatusReport, ...]:
        """Every open plain and algo order of the account, ours and others'."""
        plain, algos = await asyncio.gather(self.orders_api.orders(), self.orders_api.algos())
        return plain + algos

    async def live_stops(self, symbol: str, side: Side | None = None) -> tuple[OrderStatusReport, ...]:
        """The stops of a symbol that are active and untriggered (of one closing side): STOP, TRAILING_STOP and stop-loss legs.

        A leg of a POSITIONAL_TP_SL has quantity 0: it closes whatever the position is then.
        """
        found: list[OrderStatusReport] = []
        waiting = list(await self.orders_api.algos(symbol=symbol))
        while waiting:
            report = waiting.pop()
            waiting.extend(report.children)
            if report.stop_is_live and not report.children and side in (None, report.side):
                found.append(report)
        return tuple(found)

    async def cancel(self, report: OrderStatusReport) -> SubmitResult:
        """Ask for a cancel of one order; Accepted means the request was passed on. A finished order is Refused (-1006)."""
        if report.is_algo:
            return await self.orders_api.cancel_algo(report.symbol, report.order_id)
        return await self.orders_api.cancel_order(report.symbol, report.order_id)

    async def cancel_all(self, symbol: str | None = None) -> SubmitResult:
        """Every plain order and every algo order of every type; the worst of the six answers is the answer."""
        calls = [self.orders_api.cancel_orders(symbol)]
        calls += [self.orders_api.cancel_algos(algo_type, symbol) for algo_type in requests.ALGO_TYPES]
        return worst(list(await asyncio.gather(*calls)))

    def leverage_of(self, symbol: str) -> Decimal | None:
        """The symbol's cross leverage as last heard; None while it is not known. Any thread."""
        return self._account.leverage_of(symbol)

    async def set_leverage(self, symbol: str, leverage: Decimal) -> SubmitResult:
        """Set the cross leverage of one symbol (a whole number, 1 to 100); asks nothing when it is known to be that already."""
        if leverage != leverage.to_integral_value() or not 1 <= leverage <= 100:
            return Rejected("leverage_invalid", f"leverage {leverage} is not a whole number from 1 to 100")
        if self.leverage_of(symbol) == leverage:
            return Accepted("")  # 5 changes a minute are allowed: none is spent on nothing
        answer = await self.account_api.set_leverage(symbol, int(leverage))
        if isinstance(answer, Accepted):
            self._account.apply_leverage(symbol, leverage)
            self._on_account_changed()
        return answer

    # ----------------------------------------------------------------------------------------------------------- listeners

    def listen_reports(self, callback: Callable[[OrderStatusReport], None]) -> None:
        self._report_listeners.append(callback)

    def listen_account(self, callback: Callable[[AccountSnapshot], None]) -> None:
        self._account_listeners.append(callback)

    def listen_gaps(self, callback: Callable[[], None]) -> None:
        """Call back when reports may have been missed (the stream came back): ask for every unfinished order by its id."""
        self._gap_listeners.append(callback)

    def _notify_report(self, report: OrderStatusReport) -> None:
        for callback in self._report_listeners:
            callback(report)

    def _notify_account(self) -> None:
        snapshot = self._account.snapshot
        if snapshot is not None:
            for callback in self._account_listeners:
                callback(snapshot)

    def _notify_gap(self) -> None:
        for callback in self._gap_listeners:
            callback()

    def _on_account_changed(self) -> None:
        """Something of the account changed: tell it, and ask for the totals that the change did not carry."""
        self._sync.request_refresh()
        self._notify_account()

    # ------------------------------------------------------------------------------------------------------------- private

    def _clock_ms(self) -> int:
        return parsing.milliseconds(self._clock())

    def _login(self) -> dict[str, object]:
        stamp = self._transport.signing_time_ms()
        return {"orderly_key": self.signer.orderly_key, "sign": self.signer.sign_login(stamp), "timestamp": stamp}


def _create_endpoint(order: Order) -> Endpoint:
    is_algo = requests.order_kind(order.intent).is_algo
    return Endpoint.ALGO_CREATE if is_algo else Endpoint.ORDER_CREATE
