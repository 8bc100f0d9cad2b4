"""What one step of an alert means for the account: the third step of receive(), from words to orders that can be judged and sent.

Pure: everything it knows of account and market is in the snapshot. Whether the orders may be sent is decided in risk/; how much
and at which prices in sizing.py and levels.py, what the position should become in moves.py, the orders themselves in legs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from kekbridge.alerts.signal import Action, Signal
from kekbridge.errors import Refused
from kekbridge.model import (
    AccountSnapshot,
    CancelRequest,
    OrderIntent,
    Purpose,
    StrategyHistory,
    StrategyStep,
    WebhookSettings,
)
from kekbridge.planning.build_orders import build_orders
from kekbridge.planning.market_view import MarketView, read_market, resolve
from kekbridge.planning.sizing import DOWNWARDS
from kekbridge.planning.strategy_position import add_step
from kekbridge.planning.target import position_change


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one step comes to: orders, a cancel, or nothing.

    `ignored_code` says why there is nothing: nothing_to_close, already_in_position, out_of_date, pong.
    `is_exit`: nothing in it opens or enlarges a position. `warnings` are for the trader's eyes now, `notes` for `explain`.
    `course`: what the strategy told so far, this step included, where its order counts.
    """

    symbol: str | None
    intents: tuple[OrderIntent, ...] = ()
    is_exit: bool = False
    ignored_code: str | None = None
    cancel: CancelRequest | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strategy_history: StrategyHistory | None = None


@dataclass(frozen=True, slots=True)
class KnownHistory:
    """When the message fired (None: unknown, or it does not count) and what its strategy told before it, by symbol."""

    fired_at: datetime | None = None
    strategy_histories: Mapping[str, StrategyHistory] = field(default_factory=dict)


_UNKNOWN = KnownHistory()


def translate(
    signal: Signal,
    *,
    settings: WebhookSettings,
    snapshot: AccountSnapshot,
    pending: Mapping[str, Decimal],
    first_leg: int = 0,
    history: KnownHistory = _UNKNOWN,
) -> Plan:
    """Plan one step of an alert on what the account holds and has on its way.

    `pending`: signed quantity per symbol of our own orders that will surely trade. `first_leg`: number of the step's first order
    within its alert. Raises errors.Refused with a code, one line and the field at fault.
    """
    if signal.action is Action.PING:
        return Plan(symbol=None, ignored_code="pong")
    if signal.action is Action.CANCEL:
        return _plan_cancel(signal, settings=settings, snapshot=snapshot)
    market = read_market(signal, settings=settings, snapshot=snapshot, pending=pending)
    course, newer = locate_step(signal, settings, market, history)
    move = position_change(signal, settings=settings, market=market, newer=newer)
    warnings = market.warnings + move.warnings
    if move.ignored_code is not None:
        return Plan(
            symbol=market.symbol,
            is_exit=True,
            ignored_code=move.ignored_code,
            warnings=warnings,
            strategy_history=course,
        )
    legs = build_orders(move, signal, settings=settings, market=market, first_leg=first_leg)
    return Plan(
        symbol=market.symbol,
        intents=legs.intents,
        is_exit=all(intent.purpose is not Purpose.ENTRY for intent in legs.intents),
        warnings=warnings + legs.warnings,
        notes=legs.notes,
        strategy_history=course,
    )


def locate_step(
    signal: Signal, settings: WebhookSettings, market: MarketView, history: KnownHistory
) -> tuple[StrategyHistory | None, StrategyStep | None]:
    """The strategy's course with this step, and the newer step that has overtaken it; nothing without position mode or timestamp."""
    if settings.follow != "position" or signal.target is None or history.fired_at is None:
        return None, None
    held = DOWNWARDS.multiply(market.projected, market.unit_factor)
    return add_step(history.strategy_histories.get(market.symbol), signal.target, fired_at=history.fired_at, held=held)


def _plan_cancel(signal: Signal, *, settings: WebhookSettings, snapshot: AccountSnapshot) -> Plan:
    """Cancel the open orders of a symbol, those with a comment, or with cancel_all and no symbol everything; algo orders too."""
    comment = None if signal.cancel_all else signal.comment
    if signal.symbol is None:
        if not signal.cancel_all and comment is None:
            raise Refused(
                "symbol_missing",
                'symbol: missing, a cancel needs one; add "symbol":"{{ticker}}", or use cancel_all',
                field="symbol",
            )
        return Plan(symbol=None, is_exit=True, cancel=CancelRequest(symbol=None, comment=comment))
    match = resolve(signal, settings=settings, snapshot=snapshot)
    wish = CancelRequest(symbol=match.symbol, comment=comment)
    return Plan(symbol=match.symbol, is_exit=True, cancel=wish, warnings=match.warnings)
