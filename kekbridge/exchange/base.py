"""The exchange protocol: what execution and jobs may call, and every result they must handle.

Names no venue. A second venue implements `Exchange` in a package of its own; nothing else may need to change.
Creating an order never raises: the result is one of four values, and only `Rejected` and `Retryable` prove that no order exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from msgspec import Struct

from kekbridge.errors import RequestRefused, StoreUnavailable
from kekbridge.model import AccountSnapshot, Fill, Flow, Instrument, MarginMode, Order, OrderIntent, Side
from kekbridge.model.check import Check
from kekbridge.model.orders import OrderStatusReport

# --------------------------------------------------------------------------------------------------------- submit results


class Accepted(Struct, frozen=True):
    """The exchange created the order, or passed a command on. It may be filled, resting or canceled by now."""

    #: The exchange's id of the order; empty for commands that concern no single order.
    order_id: str
    #: When a create was signed (UTC); None for commands.
    sent_at: datetime | None = None


class Rejected(Struct, frozen=True):
    """Final no: proof that no order exists. Sending the same request again would not help."""

    #: `venue:code` of the exchange, such as `orderly:-1102`, or a code of `codes.py`.
    code: str
    #: The exchange's explanation, printable, on one line.
    message: str
    #: True if the exchange rejected the API key: every further order would be rejected, too.
    is_key_rejected: bool = False
    #: True if size or price do not fit the market's rules, which may have changed: read them (`Exchange.refresh_rules`).
    breaks_rules: bool = False


class Retryable(Struct, frozen=True):
    """Proof that no order exists, and the request may be sent again: rate limit, maintenance, connection never opened."""

    #: As in `Rejected`.
    code: str
    #: What prevented it, on one line.
    message: str
    #: Seconds to wait at least before the next attempt; None leaves it to the caller's schedule.
    retry_after_s: float | None = None


class Unknown(Struct, frozen=True):
    """The request may have reached the exchange and nothing proves either case. Query by client order id; never send it again."""

    #: What happened instead of a usable answer, on one line.
    reason: str
    #: When the request was signed (UTC); from then on the exchange may still accept it for the acceptance window.
    sent_at: datetime | None = None


SubmitResult = Accepted | Rejected | Retryable | Unknown


class Permit(Protocol):
    """One slot of a rate-limit window of the exchange."""

    def release(self) -> None:
        """Return the slot unused. No effect once a request was sent with it."""


class RequestDescription(Struct, frozen=True):
    """The one request that creates an order, exactly as it would be signed and sent."""

    #: Path of the exchange's API, such as `/v1/order`.
    path: str
    #: The exact body text.
    body: str


# --------------------------------------------------------------------------------------------------------------- reports


class Health(Struct, frozen=True, kw_only=True):
    """Connection to the exchange, for /readyz and the start screen."""

    #: The exchange answered lately and the last request did not fail.
    is_reachable: bool
    #: The exchange announced maintenance that has begun.
    is_maintenance: bool
    #: The private stream is logged in and subscribed.
    stream_is_live: bool
    #: Exchange clock minus this machine's in ms; None before the first answer.
    clock_offset_ms: int | None
    #: When the exchange last confirmed the account's state (UTC); None before the first time.
    last_heard_at: datetime | None
    #: What is wrong, on one line; empty if nothing is.
    detail: str = ""


class KeyInfo(Struct, frozen=True):
    """One API key as registered at the exchange."""

    #: Public key with its algorithm, `ed25519:` and base58.
    orderly_key: str
    #: Permissions: `read`, `trading`, `asset` (may move funds).
    scopes: frozenset[str]
    #: When the exchange stops accepting it (UTC); None if it does not report that.
    expires_at: datetime | None
    #: Name given at registration; may be empty.
    tag: str
    #: The exchange's own word for the key's state; empty if it does not report one.
    status: str = ""
    #: `ALLOW_ALL_IPS`, `ALLOW_RESTRICTION_LIST` or `DISALLOW_ALL_IPS`; empty if not reported.
    ip_rule: str = ""
    #: Addresses and networks the key works from, if `ip_rule` restricts it.
    ip_list: tuple[str, ...] = ()


class Transfer(Struct, frozen=True):
    """A deposit or withdrawal that changes the account value."""

    #: The exchange's id, unique per transfer.
    id: str
    #: Time and value in USDC; withdrawals are negative.
    flow: Flow


class FundingPayment(Struct, frozen=True):
    """One funding payment of a position."""

    symbol: str
    #: USDC, positive = paid, negative = received.
    fee: Decimal
    #: Funding rate as a fraction of notional; None if not reported.
    rate: Decimal | None
    #: Mark price in USDC at the payment; None if not reported.
    mark_price: Decimal | None
    #: The exchange's own word, shown only.
    status: str
    #: When it was charged (UTC); None if not reported.
    created_at: datetime | None
    #: Of the position that paid.
    margin_mode: MarginMode = MarginMode.CROSS


class LiquidatedPart(Struct, frozen=True):
    """A part of one position that a liquidation took over; the exchange makes no trade of it."""

    #: The exchange's id of the liquidation, which may take over several positions.
    id: str
    symbol: str
    #: What was taken over, in base units: positive of a long, negative of a short.
    quantity: Decimal
    #: USDC per base unit.
    price: Decimal
    #: Liquidation fees, in USDC.
    fee: Decimal
    #: When (UTC, the exchange's clock).
    at: datetime


class ClosedPosition(Struct, frozen=True, kw_only=True):
    """A line of the history of positions: what has been closed of a position since it was opened, in every way."""

    #: The exchange's id of the line.
    id: str
    #: `normal`, `liquidated` or `adl`: how it was closed last.
    kind: str
    symbol: str
    margin_mode: MarginMode
    is_long: bool
    #: Closed so far, in base units.
    quantity: Decimal
    #: Average price at which it was closed, in USDC.
    average_close: Decimal
    #: Realized P&L before fees and funding, in USDC.
    realized_pnl: Decimal
    #: When the position was opened, and closed last (UTC, the exchange's clock).
    opened_at: datetime
    closed_at: datetime


# --------------------------------------------------------------------------------------------------- account events


class LeverageChanged(Struct, frozen=True):
    """The leverage of a market was changed elsewhere, such as in the front end."""

    symbol: str
    margin_mode: MarginMode
    #: None: not known before.
    before: Decimal | None
    after: Decimal


class MarginModeChanged(Struct, frozen=True):
    """The default margin mode of a market was changed elsewhere."""

    symbol: str
    #: The mode that new orders without one use.
    before: MarginMode
    after: MarginMode


class MarketChanged(Struct, frozen=True):
    """A market's status changed; one that the exchange lists no more is `DELISTED`."""

    symbol: str
    #: The exchange's words; None: not known, it changed while no daemon ran.
    before: str | None
    after: str


class RulesChanged(Struct, frozen=True):
    """Rules changed by which a market takes orders, or the margin that they need."""

    symbol: str
    #: By name of the rule (a field of Instrument): before and after.
    rules: Mapping[str, tuple[Decimal, Decimal]]


class TopicRefused(Struct, frozen=True):
    """The exchange refused one topic of a stream; the others are in use."""

    #: Its name at the exchange.
    topic: str
    #: The exchange's words, on one line.
    reason: str


class RecordsChanged(Struct, frozen=True):
    """The stream hints at new liquidations or transfers: read the account's records."""


AccountEvent = LeverageChanged | MarginModeChanged | MarketChanged | RulesChanged | TopicRefused | RecordsChanged


# -------------------------------------------------------------------------------------------------------------- protocol


class Exchange(Protocol):
    """One account at one venue.

    Everything runs on the event loop that called `start`, except the methods marked "Any thread", which neither block nor await.
    Async methods that return anything but `SubmitResult` or checks raise errors.ExchangeUnavailable if no usable answer came:
    an empty result or None is always the exchange's own answer. No method repeats a request that may have been carried out.
    """

    @property
    def name(self) -> str:
        """`paper`, `testnet` or `live`."""

    @property
    def snapshot(self) -> AccountSnapshot | None:
        """The account and its markets as last known; None before the first complete refresh. Immutable."""

    @property
    def health(self) -> Health:
        """The connection now. Never raises."""

    @property
    def stream_is_live(self) -> bool:
        """As in `health`, without building the rest."""

    def now(self) -> datetime:
        """The time (UTC) by the exchange's clock, as its last replies showed it; by ours before the first."""

    # ---------------------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Connect and keep the snapshot fresh in the background. Return within seconds also if the venue is down, without raising."""

    async def close(self) -> None:
        """End the background tasks and connections. A request still in flight ends as `Unknown`."""

    async def refresh(self) -> AccountSnapshot:
        """Query account, positions and marks now; return the new snapshot."""

    # -------------------------------------------------------------------------------------------------------- orders

    async def acquire_permit(self, order: Order) -> Permit:
        """Wait for a slot of the rate-limit window that the order's create request needs; exits overtake entries.

        Called before the order is committed as `submitting`, so that a process that dies while it waits has sent nothing. The
        caller passes the permit to `submit` or releases it.
        """

    def try_acquire_permit(self, order: Order) -> Permit | None:
        """A permit that is free now and for which no other order waits, else None. Any thread."""

    async def submit(self, order: Order, permit: Permit | None = None) -> SubmitResult:
        """Send exactly one create request for a stored order, with its `client_order_id`. Never raises for the network or the exchange.

        Without a permit, or with one that is used up, acquire one first. Send nothing and return Retryable with code
        `alert_expired` if the order's `expires_at` has passed by then, and `exchange_busy` for an entry during maintenance. Return
        Rejected if no single request can express the intent.
        """

    def submit_now(self, order: Order, permit: Permit) -> asyncio.Future[SubmitResult]:
        """As `submit`, with a permit that is still held (else ValueError) and without a turn of the event loop.

        If a connection is free, the request is written before this returns. The future gets the result; cancelling it withdraws a
        request that is not written yet, and only that. The permit is used or released.
        """

    def describe_request(self, intent: OrderIntent, client_order_id: str) -> RequestDescription:
        """The request that would create this order. Any thread. Raises errors.Refused if no single request can express the intent."""

    def exits_after_fill(
        self, intent: OrderIntent, executed: Decimal, instrument: Instrument
    ) -> tuple[OrderIntent, ...]:
        """The take-profits that the entry's own request cannot carry, for `executed` base units of it, nearest first.

        Each is an order of its own, to be placed once the entry has executed.
        """

    def carries_all_exits(self, intent: OrderIntent) -> bool:
        """True if the request that creates the order carries all its exits, so that `exits_after_fill` is empty. Any thread."""

    def exits_close_position(self, intent: OrderIntent) -> bool:
        """True if the exits that the order's request carries close the whole position, no matter who opened it. Any thread."""

    async def cancel(self, target: OrderStatusReport | Order) -> SubmitResult:
        """Request the cancel of one order, of ours by the exchange's id that is stored, else as reported.

        Accepted = passed on, not yet canceled; a finished order is Rejected. ValueError for an order of ours whose id is not known.
        """

    async def cancel_exits(self, report: OrderStatusReport) -> SubmitResult:
        """Request the cancel of the open exits that an entry's own request carried; the entry itself has ended."""

    async def cancel_all(self, symbol: str | None = None) -> SubmitResult:
        """Request the cancel of every order of the account, stops and exits included, of one symbol or of all.

        Where that takes several requests, return the worst result: Unknown, then Retryable, Rejected, Accepted.
        """

    async def cancel_entries(self, symbol: str | None = None) -> SubmitResult:
        """Request the cancel of everything that may open or enlarge a position, and of resting plain orders, of one symbol or of all.

        Stops and take-profits of open positions stay. The result is as in `cancel_all`. Raises ExchangeUnavailable.
        """

    def leverage_of(self, symbol: str) -> Decimal | None:
        """The symbol's cross leverage as last known; None if unknown. Any thread."""

    async def set_leverage(self, symbol: str, leverage: Decimal) -> SubmitResult:
        """Set the cross leverage of one symbol; send nothing if it is known to be set. Rejected if the venue does not offer the value."""

    # ------------------------------------------------------------------------------------------------------- queries

    async def find(self, order: Order, *, is_urgent: bool = False) -> OrderStatusReport | None:
        """Query an order by its `client_order_id`. None only if the exchange states that it does not exist.

        `is_urgent`: before the queries for entries, also if it is one.

        For an entry with exits the report describes the entry: FILLED once it has executed, although its exits still wait.
        """

    def streamed_fills(self, report: OrderStatusReport) -> tuple[Fill, ...] | None:
        """The executions of an order as far as the stream has brought all of them, once; None if they must be queried with `fills`."""

    async def fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        """All executions of an order, oldest first, with the report's client order id; for an entry with exits those of the entry only."""

    async def exit_fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        """The executions of the exits that an entry's own request carried, oldest first, without a client order id; else empty."""

    async def trades_since(self, since: datetime) -> tuple[Fill, ...]:
        """All executions of the account since a time, oldest first, including orders placed elsewhere; without client order ids."""

    async def open_orders(self) -> tuple[OrderStatusReport, ...]:
        """Every open order of the account, including those placed elsewhere."""

    async def orders_since(self, since: datetime) -> tuple[OrderStatusReport, ...]:
        """Every order of the account made since a time, open or not, including those placed elsewhere."""

    async def live_stops(self, symbol: str, side: Side | None = None) -> tuple[OrderStatusReport, ...]:
        """The stop losses of a symbol's cross position that are active and untriggered, on one closing side or on both. Quantity 0 =
        whole position."""

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        """Deposits and withdrawals since a time, each counted from when it changes the account value, oldest first.

        A withdrawal that failed after it was debited has a value of zero.
        """

    async def funding_payments(self, since: datetime) -> tuple[FundingPayment, ...]:
        """The account's funding payments since a time, in the exchange's order."""

    async def liquidations(self, since: datetime) -> tuple[LiquidatedPart, ...]:
        """What liquidations took over since a time, oldest first."""

    async def closed_positions(self, since: datetime) -> tuple[ClosedPosition, ...]:
        """The lines of the history of positions that changed since a time, oldest first; as far back as the exchange gives them."""

    async def refresh_rules(self) -> None:
        """Read the trading rules of every market now. Raises ExchangeUnavailable."""

    async def own_key(self) -> KeyInfo | None:
        """The key that signs the requests, as registered; None if the exchange does not know it."""

    async def checks(self) -> tuple[Check, ...]:
        """Key, scopes, expiry, addresses, clock, maintenance, markets: what `serve` and `doctor` show. May be called without `start`.

        Never raises: what cannot be checked is a check that failed.
        """

    # ------------------------------------------------------------------------------------------------------ listeners
    # Callbacks run on the event loop, must not block, and cannot be removed.

    def listen_reports(self, callback: Callable[[OrderStatusReport], None]) -> None:
        """Call back with every new order report of the stream or of a resync, for all orders of the account."""

    def listen_account(self, callback: Callable[[AccountSnapshot], None]) -> None:
        """Call back with the new snapshot when a position, a balance or a leverage has changed; not for every mark price."""

    def listen_events(self, callback: Callable[[AccountEvent], None]) -> None:
        """Call back with what happened to the account and its markets without a request of ours."""

    def listen_gaps(self, callback: Callable[[], None]) -> None:
        """Call back when reports may have been missed: every unfinished order must be queried."""


def known_snapshot(exchange: Exchange) -> AccountSnapshot:
    """The latest snapshot. Raises StoreUnavailable before the first: nothing is stored, and TradingView resends after 5 s."""
    snapshot = exchange.snapshot
    if snapshot is None:
        raise StoreUnavailable("not_ready", "the exchange has not been reached since the start; send again")
    return snapshot


def request_text(exchange: Exchange, order: Order) -> str | None:
    """The exact body that `submit` will send for an order, for the record; None if no request can express it (`submit` rejects it)."""
    try:
        return exchange.describe_request(order.intent, order.client_order_id).body
    except RequestRefused:
        return None
