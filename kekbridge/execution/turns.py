"""An order's turn: its lane, its leverage and its place in the exchange's rate window, all of them before it is claimed.

Whoever is stopped or killed while waiting here finds the order queued, not perhaps sent. It stores nothing and sends no order; which orders
are under way is the worker's knowledge, which may be sent is decided where they are claimed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from kekbridge.exchange.base import Accepted, Deferred, Exchange, Submission, Unknown
from kekbridge.exchange.orderly.rate_limiter import Ticket
from kekbridge.model import Order
from kekbridge.store.admissions import Admission
from kekbridge.store.order_queue import NOT_TO_BE_SENT


class Departures(Protocol):
    """The worker, as the request sees it."""

    @property
    def is_trading(self) -> bool:
        """Orders may leave: the bridge's view has equalled the exchange's, and nobody stops."""

    @property
    def passable(self) -> frozenset[str]:
        """Client order ids under way that another order may stand behind. Any thread."""

    def enter(self, order: Order) -> bool:
        """Put an order that is being claimed under way, if it may leave at once or in line. Any thread."""

    def leave(self, order: Order) -> None:
        """It does not leave after all. Any thread."""

    def take(self, admitted: Admission) -> None:
        """Orders or cancels were stored: send those already claimed, look at the queue for the others."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an order has when it may leave: its place in the rate window (None: it is only to be finished), or why it cannot be sent."""

    ticket: Ticket | None = None
    trouble: Submission | None = None


@dataclass(frozen=True, slots=True)
class _Leave:
    """An order's permission to leave at once, given in the transaction that claims it."""

    order: Order
    ticket: Ticket


class Turns:
    """The turns of one daemon's orders."""

    def __init__(self, exchange: Exchange, departures: Departures) -> None:
        self._exchange = exchange
        self._departures = departures
        self._leaves: dict[str, _Leave] = {}  # of orders claimed to leave at once

    def may_leave_now(self, order: Order) -> bool:
        """Asked on the writer thread: with a free lane and a place in the rate window an order is claimed.

        One that has to change its leverage first does not leave at once: only what does may be claimed.
        """
        if self._lacks_leverage(order) or not self._departures.enter(order):
            return False
        ticket = self._exchange.take_turn(order)
        if ticket is None:
            self._departures.leave(order)
            return False
        self._leaves[order.client_order_id] = _Leave(order, ticket)
        return True

    def take_back(self, name: str) -> None:
        """An order does not leave after all: its lane and its place in the rate window are free again."""
        leave = self._leaves.pop(name, None)
        if leave is not None:
            leave.ticket.give_back()
            self._departures.leave(leave.order)

    async def wait(self, order: Order, may_be_claimed: Callable[[Order], Awaitable[bool]]) -> Turn:
        """Its leverage, then its place in the rate window, or what it was given with its claim.

        `may_be_claimed` is asked before a leverage is changed: what may not be sent changes nothing.
        """
        leave = self._leaves.pop(order.client_order_id, None)
        if leave is not None:
            return Turn(leave.ticket)
        if order.code in NOT_TO_BE_SENT:
            return Turn()
        trouble = await self._set_leverage(order, may_be_claimed)
        return Turn(trouble=trouble) if trouble is not None else Turn(await self._exchange.wait_turn(order))

    def _lacks_leverage(self, order: Order) -> bool:
        """True for an entry whose symbol is not at the leverage that it asks for. Any thread."""
        wanted = order.intent.leverage
        return wanted is not None and order.is_entry and self._exchange.leverage_of(order.intent.symbol) != wanted

    async def _set_leverage(
        self, order: Order, may_be_claimed: Callable[[Order], Awaitable[bool]]
    ) -> Submission | None:
        """Bring the symbol to the leverage that the entry asks for; None when it is there, else why nothing is sent.

        Only a few changes a minute are allowed: it may take long, and what may not be sent by now (its claim will say why) changes nothing.
        """
        wanted = order.intent.leverage
        if wanted is None or not self._lacks_leverage(order):
            return None
        if not await may_be_claimed(order):
            return None
        answer = await self._exchange.set_leverage(order.intent.symbol, wanted)
        match answer:
            case Accepted():
                return None
            case Unknown(reason=reason):
                # The order itself was not sent, and setting a leverage twice does no harm: try again.
                return Deferred("leverage_not_set", f"leverage {wanted} could not be confirmed: {reason}")
            case _:
                return replace(answer, message=f"leverage {wanted} could not be set: {answer.message}")
