"""The one seam to the exchange: what the worker and the jobs may ask, and the answers they must handle.

Three venues (live, testnet, paper) are one implementation with other addresses. Placing an order ends in one of four values, never in
an exception: an answer that proves nothing is `Unknown`, and only `Refused` and `Deferred` prove that nothing was placed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from kekbridge.errors import RequestRefused
from kekbridge.model import AccountSnapshot, Fill, Flow, Instrument, Order, OrderIntent, Side
from kekbridge.model.check import Check
from kekbridge.model.orders import OrderStatusReport


@dataclass(frozen=True, slots=True)
class Accepted:
    """The exchange took the order and named it. Not a fill, not even surely resting. `sent_at`: when it was signed and left."""

    order_id: str
    sent_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """The exchange said no, for good: `code` like `orderly:-1102`. Proof that no order exists."""

    code: str
    message: str
    is_key_rejected: bool = False


@dataclass(frozen=True, slots=True)
class Retryable:
    """Proven not accepted, but may be sent again: rate limit, maintenance, connection refused before the request was written."""

    code: str
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request may have reached the exchange and nothing proves either case. Ask by client order id; never send again blindly.

    `sent_at` is when it left, after any wait for the rate window: from then on the exchange may still accept it for the receive window.
    """

    reason: str
    sent_at: datetime | None = None


SubmitResult = Accepted | Rejected | Retryable | Unknown


class Permit(Protocol):
    """One slot of the exchange's rate-limit window."""

    def release(self) -> None:
        """Give the slot back unused; no effect once a request was sent with it."""


@dataclass(frozen=True, slots=True)
class RequestDescription:
    """The one request that creates an order, as it would be signed and sent."""

    #: Path of the exchange's API, such as `/v1/order`.
    path: str
    #: The exact body text.
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the exchange looks from here, for /readyz and the start screen."""

    is_reachable: bool
    is_maintenance: bool
    stream_is_live: bool
    clock_offset_ms: int | None
    last_heard_at: datetime | None
    detail: str = ""


class Exchange(Protocol):
    """A venue. Methods that read raise ExchangeUnavailable when no usable answer came."""

    @property
    def name(self) -> str:
        """`paper`, `testnet` or `live`."""

    @property
    def snapshot(self) -> AccountSnapshot | None:
        """The latest picture of the account and markets; None before the first refresh."""

    @property
    def health(self) -> Health: ...

    @property
    def stream_is_live(self) -> bool:
        """As in `health`, for those who ask nothing else."""

    async def start(self) -> None:
        """Connect, load rules and account, start keeping the snapshot fresh. Returns at once if the venue is down: health says so."""

    async def close(self) -> None: ...

    async def refresh(self) -> AccountSnapshot:
        """Ask for account, positions and marks now; returns the new snapshot."""

    def leverage_of(self, symbol: str) -> Decimal | None:
        """The symbol's cross leverage as last heard; None while it is not known. Any thread."""

    async def acquire_permit(self, order: Order) -> Permit:
        """Wait for a place in the rate window of the order's create request; exits go first.

        Taken before the order is committed as being sent: what is cut off while it waits was never on its way. Whoever does not
        send gives it back.
        """

    def try_acquire_permit(self, order: Order) -> Permit | None:
        """The same when a place is free this instant, else None. Any thread."""

    async def submit(self, order: Order, turn: Permit | None = None) -> SubmitResult:
        """Send exactly one create request for a stored order, in its turn; without one that is still held it waits for it."""

    def describe_request(self, intent: OrderIntent, client_order_id: str) -> RequestDescription:
        """The request that would create this order. Any thread. Raises errors.Refused if no single request can express the intent."""

    def exits_after_fill(
        self, intent: OrderIntent, executed: Decimal, instrument: Instrument
    ) -> tuple[OrderIntent, ...]:
        """The take-profits to place once an entry has executed `executed` base units, nearest first: those its own request cannot carry."""

    def carries_all_exits(self, intent: OrderIntent) -> bool:
        """True if the request that creates the order carries all its exits, so that `exits_after_fill` is empty. Any thread."""

    async def find(self, order: Order) -> OrderStatusReport | None:
        """Ask for an order by its client order id. None only when the exchange says that it does not exist."""

    async def fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        """All executions of an order, oldest first; those of a bracket's entry, not of its exits."""

    async def exit_fills(self, report: OrderStatusReport) -> tuple[Fill, ...]:
        """The executions of a bracket's own stop loss and take-profit, oldest first."""

    async def trades_since(self, since: datetime) -> tuple[Fill, ...]:
        """All executions of the account since a time, oldest first."""

    async def live_stops(self, symbol: str, side: Side | None = None) -> tuple[OrderStatusReport, ...]:
        """The stop losses that wait in a market, of one closing side or of both."""

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        """Deposits and withdrawals that settled since a time."""

    async def funding_payments(self, since: datetime) -> tuple[FundingPayment, ...]:
        """The account's funding payments since a time."""

    async def own_key(self) -> KeyInfo | None:
        """The key that signs our requests, as registered at the exchange; None if the exchange does not know it."""

    async def checks(self) -> tuple[Check, ...]:
        """Key, scopes, expiry, addresses, clock, maintenance, markets: what `serve` and `doctor` show."""

    async def open_orders(self) -> tuple[OrderStatusReport, ...]:
        """Every open plain and algo order of the account, ours and others'."""

    async def cancel(self, report: OrderStatusReport) -> SubmitResult:
        """Ask for a cancel of one order; Accepted means the request was passed on."""

    async def cancel_all(self, symbol: str | None = None) -> SubmitResult:
        """Cancel every plain order and every algo order of every type, of one symbol or of all."""

    async def set_leverage(self, symbol: str, leverage: Decimal) -> SubmitResult: ...

    def listen_reports(self, callback: Callable[[OrderStatusReport], None]) -> None:
        """Call back for every order report that the stream (or its polling stand-in) brings, on the event loop."""

    def listen_account(self, callback: Callable[[AccountSnapshot], None]) -> None:
        """Call back whenever a position, a balance or the leverage of the account changed."""

    def listen_gaps(self, callback: Callable[[], None]) -> None:
        """Call back when reports may have been missed: whatever is unfinished must be asked for."""


def request_text(exchange: Exchange, order: Order) -> str | None:
    """The exact body text that `submit` will send for an order, for the record; None if it cannot be expressed, which `submit` rejects."""
    try:
        return exchange.describe_request(order.intent, order.client_order_id).body
    except RequestRefused:
        return None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One registered key: scopes as the exchange writes them (`read,trading`), `ip_rule` ALLOW_ALL_IPS and the like."""

    orderly_key: str
    scopes: frozenset[str]
    expires_at: datetime | None
    tag: str
    status: str = ""
    ip_rule: str = ""
    ip_list: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """A deposit or withdrawal that moves the account's value; `flow` in USDC, withdrawals negative."""

    id: str
    flow: Flow


@dataclass(frozen=True, slots=True)
class FundingPayment:
    """One funding payment; `fee` positive = paid."""

    symbol: str
    fee: Decimal
    rate: Decimal | None
    mark_price: Decimal | None
    status: str
    created_at: datetime | None
