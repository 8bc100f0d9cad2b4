"""Which earlier entries of a webhook a step of an alert ends: those that would open what its strategy has left or does not want. Pure.

Orders in flight that are certain to trade are counted with the position (market_view.py), and exits are sized with them. An entry that may
rest is not: it ends here (core rule: what an exit of the whole position, or a new target, overtakes).
"""

from __future__ import annotations

from kekbridge.alerts.signal import Action, QuantityType, Signal
from kekbridge.model import OvertakenEntries, PositionPart, Side, WebhookSettings
from kekbridge.planning.market_view import MarketView
from kekbridge.planning.target import PositionChange, has_drifted, side_of

_PERCENT = 100


def overtaken_entries(
    signal: Signal, change: PositionChange, *, settings: WebhookSettings, market: MarketView, is_newest: bool
) -> tuple[OvertakenEntries, ...]:
    """What a step ends among the entries that were admitted before it, also if there is nothing to close.

    `is_newest`: False for a step of the strategy that a newer one has overtaken: it ends nothing.
    """
    target = signal.target
    if target is None or (signal.action is Action.CLOSE and target.size != 0):
        return _of_own_action(signal, change, settings, market)
    if not is_newest:
        return ()
    symbol = market.symbol
    if target.size == 0:
        if change.delta and change.close_fraction is None and change.target is None and signal.is_wanted_position:
            return ()  # an ordinary order of a service that says zero while nothing is open
        return (OvertakenEntries(symbol=symbol, side=_side_left(signal)),)
    against = OvertakenEntries(symbol=symbol, side=side_of(-target.signed))
    return (against, OvertakenEntries(symbol=symbol)) if _is_absolute(signal, settings, market) else (against,)


def _side_left(signal: Signal) -> Side | None:
    """The side on which the strategy was, where a flat step says so; None: any. Close and open of one bar may arrive swapped."""
    assert signal.target is not None  # noqa: S101 - only asked about steps
    before = signal.target.previous_signed
    if signal.action is Action.CLOSE or not before:
        return None
    return side_of(before)


def _is_absolute(signal: Signal, settings: WebhookSettings, market: MarketView) -> bool:
    """True if the account moves to the step's position, whatever came before; False if only the step's own change counts."""
    if signal.is_wanted_position:
        return True
    return settings.follow == "position" and (
        settings.resync or not has_drifted(signal, market.seen_as(PositionPart.OWN))
    )


def _of_own_action(
    signal: Signal, change: PositionChange, settings: WebhookSettings, market: MarketView
) -> tuple[OvertakenEntries, ...]:
    """The trader's own action: an exit of the whole position, or a reversal, that is carried out at once."""
    if not signal.order_type.is_immediate:
        return ()
    symbol, side = market.symbol, Side.BUY if signal.action is Action.BUY else Side.SELL
    if signal.action is Action.CLOSE:
        return (OvertakenEntries(symbol=symbol),) if _is_whole(signal) else ()
    if signal.action is Action.FLIP:
        return (OvertakenEntries(symbol=symbol, side=side_of(-change.delta)),) if change.delta else ()
    if signal.action not in (Action.BUY, Action.SELL):
        return ()
    is_against = market.projected * side.sign < 0
    ends_other_side = (
        (signal.reduce_only and _is_whole(signal))
        or (is_against and not signal.reduce_only and (signal.exits_opposite or settings.reverse))
        or signal.is_reversal
    )
    return (OvertakenEntries(symbol=symbol, side=side.opposite),) if ends_other_side else ()


def _is_whole(signal: Signal) -> bool:
    """True for an exit of everything that is open."""
    if signal.quantity is None:
        return True
    is_share = signal.quantity.is_percent or signal.quantity_type is QuantityType.PERCENT_POSITION
    return is_share and signal.quantity.value >= _PERCENT
