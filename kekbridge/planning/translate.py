"""Translate one step of an alert into a plan: orders that can be judged and sent, a cancel, or nothing.

Pure: account and market come from the snapshot. target.py decides the change of position, build_orders.py creates the orders with
sizes and prices from sizing.py and prices.py; risk/ decides whether they may be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal

from msgspec import Struct, field
from msgspec.structs import replace

from kekbridge.alerts.signal import Action, Signal
from kekbridge.errors import Refused, RequestRefused
from kekbridge.model import (
    AccountSnapshot,
    CancelRequest,
    OrderIntent,
    OvertakenEntries,
    PositionPart,
    Purpose,
    StrategyHistory,
    StrategyStep,
    WebhookSettings,
)
from kekbridge.planning.bounds import check_size, check_symbol
from kekbridge.planning.build_orders import build_orders
from kekbridge.planning.market_view import MarketView, no_orders, no_others, read_market, resolve_symbol
from kekbridge.planning.overtaken import overtaken_entries
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT
from kekbridge.planning.strategy_position import add_step, last_position
from kekbridge.planning.target import PositionChange, position_change


class Plan(Struct, frozen=True, kw_only=True):
    """The result of one step: orders, a cancel, or nothing."""

    #: The exchange's symbol; None for a ping and for a cancel of all symbols.
    symbol: str | None
    #: Orders in the order in which they must be sent.
    intents: tuple[OrderIntent, ...] = ()
    #: No order opens or enlarges a position.
    is_exit: bool = False
    #: Why there is nothing to do: nothing_to_close, already_in_position, out_of_date or pong.
    ignored_code: str | None = None
    #: Why only the closing part of the step is planned; None if all of it is.
    refusal: RequestRefused | None = None
    #: Open orders to cancel.
    cancel: CancelRequest | None = None
    #: Earlier entries of the webhook to cancel.
    overtaken: tuple[OvertakenEntries, ...] = ()
    #: Unusual facts the trader should see, such as drift.
    warnings: tuple[str, ...] = ()
    #: What was rounded or left out, shown by `explain`.
    notes: tuple[str, ...] = ()
    #: The strategy's steps so far, this one included; only for target positions with a timestamp.
    strategy_history: StrategyHistory | None = None


class KnownHistory(Struct, frozen=True):
    """The message's time and the earlier steps of its strategy."""

    #: When the message fired; None if unknown or if its age does not count.
    fired_at: datetime | None = None
    #: Earlier steps by symbol.
    strategy_histories: Mapping[str, StrategyHistory] = field(default_factory=dict)


_UNKNOWN = KnownHistory()
# The market takes no entry now, whatever the message says: like a limit, that must not keep the closing part back.
_STATES_OF_MARKET = frozenset({"no_mark_price", "market_closed"})


def translate(
    signal: Signal,
    *,
    settings: WebhookSettings,
    snapshot: AccountSnapshot,
    pending: Callable[[str], Decimal] = no_orders,
    others: Callable[[str, Decimal], Decimal] = no_others,
    first_leg: int = 0,
    history: KnownHistory = _UNKNOWN,
) -> Plan:
    """Plan one step of an alert, given the account's positions and orders in flight.

    `pending`: signed quantity of our own orders in a symbol that are certain to trade; `others`: what other webhooks hold of a symbol's
    signed position. `first_leg`: number of the step's first order within its alert. Raises Refused with code, message and field.
    """
    if signal.action is Action.PING:
        return Plan(symbol=None, is_exit=True, ignored_code="pong")
    if signal.action is Action.CANCEL:
        return _plan_cancel(signal, settings=settings, snapshot=snapshot)
    market = read_market(signal, settings=settings, snapshot=snapshot, pending=pending, others=others)
    check_symbol(signal, market.symbol, settings=settings, snapshot=snapshot)
    strategy_history, newer = locate_step(signal, settings, market, history)
    last = last_position(history.strategy_histories.get(market.symbol))
    change = position_change(signal, settings=settings, market=market, newer=newer, last=last)
    warnings = market.warnings + change.warnings
    overtaken = overtaken_entries(signal, change, settings=settings, market=market, is_newest=newer is None)
    if change.ignored_code is not None:
        return Plan(
            symbol=market.symbol,
            is_exit=True,
            ignored_code=change.ignored_code,
            overtaken=overtaken,
            warnings=warnings,
            strategy_history=strategy_history,
        )
    refusal: RequestRefused | None = None
    try:
        planned = build_orders(change, signal, settings=settings, market=market, first_leg=first_leg)
    except Refused as refused:
        closing = _closing_part(change, market)
        if refused.code not in _STATES_OF_MARKET or closing is None:
            raise
        planned, refusal = build_orders(closing, signal, settings=settings, market=market, first_leg=first_leg), refused
    check_size(signal, planned.intents, market)
    return Plan(
        symbol=market.symbol,
        intents=planned.intents,
        is_exit=all(intent.purpose is not Purpose.ENTRY for intent in planned.intents),
        overtaken=overtaken,
        warnings=warnings,
        notes=planned.notes,
        refusal=refusal,
        strategy_history=strategy_history,
    )


def _closing_part(change: PositionChange, market: MarketView) -> PositionChange | None:
    """Of a change that closes the open position and opens the other side, the close; None for any other."""
    projected = market.projected
    if change.delta * projected >= 0 or abs(change.delta) <= abs(projected):
        return None
    return replace(change, delta=-projected, close_fraction=Decimal(1), target=None)


def locate_step(
    signal: Signal, settings: WebhookSettings, market: MarketView, history: KnownHistory
) -> tuple[StrategyHistory | None, StrategyStep | None]:
    """The strategy's history with this step, and the newer step that has overtaken it.

    (None, None) without a timestamp, and for orders that are no target position.
    """
    follows = settings.follow == "position" or signal.is_wanted_position
    if not follows or signal.target is None or history.fired_at is None:
        return None, None
    held = ROUND_DOWN_CONTEXT.multiply(market.seen_as(PositionPart.OWN).projected, market.unit_factor)
    return add_step(history.strategy_histories.get(market.symbol), signal.target, fired_at=history.fired_at, held=held)


def _plan_cancel(signal: Signal, *, settings: WebhookSettings, snapshot: AccountSnapshot) -> Plan:
    """Cancel the open orders of a symbol, those with a comment, or all with cancel_all and no symbol; algo orders too."""
    comment = None if signal.cancel_all else signal.comment
    if signal.symbol is None:
        if not signal.cancel_all and comment is None:
            raise Refused(
                "symbol_missing",
                'symbol: missing, a cancel needs one; add "symbol":"{{ticker}}", or use cancel_all',
                field="symbol",
            )
        return Plan(symbol=None, is_exit=True, cancel=CancelRequest(symbol=None, comment=comment))
    match = resolve_symbol(signal, settings=settings, snapshot=snapshot)
    check_symbol(signal, match.symbol, settings=settings, snapshot=snapshot)
    cancel = CancelRequest(symbol=match.symbol, comment=comment)
    return Plan(symbol=match.symbol, is_exit=True, cancel=cancel, warnings=match.warnings)
