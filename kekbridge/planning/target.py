"""Decide the signed change of position that an alert asks for, from the real position and never from a counter.

Combines the trader's action (buy, sell, close, flip) with a strategy's own position (docs/internals/tradingview.md section 2.1). What a
strategy states is about its webhook's part of the position (`MarketView.seen_as`): what others hold there stays open. Sizes are not
rounded yet; build_orders.py creates the orders.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from kekbridge.alerts.signal import Action, QuantityType, Signal, TargetPosition
from kekbridge.errors import Refused
from kekbridge.model import ZERO, PositionPart, Side, StrategyStep, WebhookSettings
from kekbridge.planning.market_view import MarketView
from kekbridge.planning.prices import prices_for, stop_price
from kekbridge.planning.sizing import ROUND_DOWN_CONTEXT, format_12dp, to_base_units

NOTHING_TO_CLOSE = "nothing_to_close"
ALREADY_IN_POSITION = "already_in_position"
OUT_OF_DATE = "out_of_date"
_ONE = Decimal(1)
_PERCENT = Decimal(100)
_TRADES = (Action.BUY, Action.SELL)


class PositionChange(Struct, frozen=True, kw_only=True):
    """A change of position, not rounded."""

    #: Signed change in base units of the market.
    delta: Decimal = ZERO
    #: Fraction of the position that an exit closes, if its size must follow the real position until it is sent.
    close_fraction: Decimal | None = None
    #: Signed position wanted in the end, if that counts rather than the change.
    target: Decimal | None = None
    #: The part of the account's position that the change and the target are of.
    part: PositionPart = PositionPart.WHOLE
    #: Why there is nothing to do.
    ignored_code: str | None = None
    #: Remarks for the trader, such as drift.
    warnings: tuple[str, ...] = ()


def position_change(
    signal: Signal,
    *,
    settings: WebhookSettings,
    market: MarketView,
    newer: StrategyStep | None = None,
    last: Decimal | None = None,
) -> PositionChange:
    """The change that a buy, sell, add, close or flip makes to `market.projected`. Raises Refused.

    `newer`: a step of the strategy that fired after this one and was processed already; `last`: the strategy's signed position before
    this step, in its contracts, as far as its earlier messages tell (strategy_position.py).
    """
    target = signal.target
    is_following = settings.follow == "position"
    if target is not None and newer is not None:
        return _catch_up(signal, target, newer, settings, market)
    match signal.action:
        case Action.CLOSE if target is not None and target.size == 0:
            # The strategy is flat: close all that the webhook holds, whatever size the strategy held.
            return _close(replace(signal, quantity=None), market)
        case Action.CLOSE if target is None or signal.quantity is not None:
            return _close(signal, market)
        case Action.FLIP:
            return _flip(signal, market)
        case _ if target is not None and signal.is_wanted_position:
            return _to_wanted_position(signal, target, settings, market, last)
        case _ if target is not None:
            return _follow(signal, target, settings, market) if is_following else _apply_step(signal, target, market)
        case _ if is_following and not signal.reduce_only:
            raise Refused(
                "position_missing",
                "marketPosition: missing, but this webhook follows the strategy's position; add marketPosition and "
                "marketPositionSize, or set the webhook to follow signals",
                field="marketPosition",
            )
        case Action.ADD:
            return _add(signal, market)
        case _:
            return _trade(signal, settings, market)


def side_of(signed: Decimal) -> Side:
    return Side.BUY if signed > 0 else Side.SELL


# ------------------------------------------------------------------------------------------------- the trader's own action


def _trade(signal: Signal, settings: WebhookSettings, market: MarketView) -> PositionChange:
    """Buy or sell: change the position by the quantity; with reduceOnly a close that trades only on its side."""
    side = Side.BUY if signal.action is Action.BUY else Side.SELL
    if signal.states_position and (signal.reduce_only or signal.is_reversal):
        market = market.seen_as(PositionPart.OWN)
    projected = market.projected
    if signal.reduce_only:
        if projected * side.sign >= 0:
            return _nothing_to_close(market, _held_elsewhere(market))
        return _reduce(signal, market, whole_target=None)
    is_against = projected * side.sign < 0
    if is_against and signal.exits_opposite:
        return PositionChange(delta=-projected, close_fraction=_ONE)
    if signal.quantity is None:
        raise Refused(
            "quantity_missing",
            "quantity: missing, an order that opens needs one; add quantity, or give the webhook a default quantity",
            field="quantity",
        )
    if signal.is_reversal or (is_against and settings.reverse):
        # The position ends at the trader's own size on this side, even if the old one was closed already.
        wanted = side.sign * _size(signal, side, market, is_entry=True)
        is_reached = projected * wanted > 0 and abs(projected) >= abs(wanted)
        return PositionChange(ignored_code=ALREADY_IN_POSITION) if is_reached else _change_to(wanted, market)
    return PositionChange(delta=side.sign * _size(signal, side, market, is_entry=projected * side.sign >= 0))


def _add(signal: Signal, market: MarketView) -> PositionChange:
    """Enlarge the open position by the quantity, on whichever side it is."""
    if market.projected == 0:
        raise Refused(
            "no_position",
            f"action: found add, but there is no position in {market.symbol}; use buy or sell",
            field="action",
        )
    side = side_of(market.projected)
    return PositionChange(delta=side.sign * _size(signal, side, market, is_entry=True))


def _close(signal: Signal, market: MarketView) -> PositionChange:
    """Close everything, a quantity or a share; of what the webhook holds if the message states its strategy's position.

    A whole close ends flat, whichever side is open when it is sent.
    """
    if signal.states_position or signal.target is not None:
        market = market.seen_as(PositionPart.OWN)
    if market.projected == 0:
        return _nothing_to_close(market, _held_elsewhere(market))
    return _reduce(signal, market, whole_target=ZERO)


def _reduce(signal: Signal, market: MarketView, *, whole_target: Decimal | None) -> PositionChange:
    """Reduce the open position by the signal's quantity, at most to flat; without a quantity close all of it."""
    projected = market.projected
    whole = PositionChange(delta=-projected, close_fraction=_ONE, target=whole_target, part=market.part)
    if signal.quantity is None:
        return whole
    if _kind_of(signal) is QuantityType.PERCENT_POSITION:
        if signal.quantity.value >= _PERCENT:
            return whole
        fraction = ROUND_DOWN_CONTEXT.divide(signal.quantity.value, _PERCENT)
        delta = ROUND_DOWN_CONTEXT.multiply(-projected, fraction)
        return PositionChange(delta=delta, close_fraction=fraction, part=market.part)
    size = min(_size(signal, side_of(-projected), market, is_entry=False), abs(projected))
    return PositionChange(delta=size if projected < 0 else -size, part=market.part)


def _flip(signal: Signal, market: MarketView) -> PositionChange:
    """Close the position and open the same size, or the given quantity, on the other side; of what the webhook holds if the message states
    its strategy's position.
    """
    if signal.states_position or signal.target is not None:
        market = market.seen_as(PositionPart.OWN)
    projected = market.projected
    if signal.target is not None and signal.target.size != 0 and signal.quantity is None:
        return _change_to(_units(signal.target.signed, market), market)
    if projected == 0:
        return _nothing_to_close(market, _held_elsewhere(market) or "there is no position to flip")
    side = side_of(-projected)
    size = abs(projected) if signal.quantity is None else _size(signal, side, market, is_entry=True)
    return _change_to(side.sign * size, market)


# ------------------------------------------------------------------------------------------------ the strategy's position


def _apply_step(signal: Signal, target: TargetPosition, market: MarketView) -> PositionChange:
    """Signal mode: apply the strategy's own step; an earlier difference is reported. What other webhooks hold is none."""
    change = _own_step(signal, target, market)
    if target.size != 0:
        remark = "only the strategy's own step counts on this webhook"
    elif change.delta and abs(change.delta) >= abs(market.projected):
        remark = "the whole position is closed"
    else:
        remark = "only what this webhook holds is closed"
    drift = _drift_warnings(target, market.seen_as(PositionPart.OWN), remark)
    return replace(change, warnings=drift + change.warnings)


def _follow(signal: Signal, target: TargetPosition, settings: WebhookSettings, market: MarketView) -> PositionChange:
    """Position mode: move to the strategy's position. An earlier difference is corrected with `resync`, else only reported.

    What was opened by hand is such a difference; what other webhooks hold is none.
    """
    view = market.seen_as(PositionPart.OWN)
    remark = "it is corrected" if settings.resync else "resync is off: only the step counts"
    drift = _drift_warnings(target, view, remark)
    if drift and not settings.resync:
        change = _own_step(signal, target, market)
        if _has_overtaken_its_close(target, view):
            change = replace(change, delta=change.delta - view.projected, part=view.part)
    else:
        now = _units(target.signed, market)
        change = _change_in_direction(now, view, _direction(signal, now, _before(target, market)))
    return replace(change, warnings=drift + change.warnings)


def _to_wanted_position(
    signal: Signal, target: TargetPosition, settings: WebhookSettings, market: MarketView, last: Decimal | None
) -> PositionChange:
    """Move to the position that the message names, whatever its action and quantity say (OpenAlgo's smart orders).

    Zero while nothing is open means an ordinary order there. It is one here only in signal mode, and only if the strategy did not hold
    anything by its own messages: the exit of a position that its stop has closed must not open the other side.
    """
    account, market = market, market.seen_as(PositionPart.OWN)
    now = _units(target.signed, market)
    is_plain_order = now == 0 and market.projected == 0 and signal.quantity is not None and not last
    if is_plain_order and settings.follow != "position":
        return _trade(replace(signal, target=None, states_position=False), settings, account)
    return _change_to(now, market)


def _catch_up(
    signal: Signal, target: TargetPosition, newer: StrategyStep, settings: WebhookSettings, market: MarketView
) -> PositionChange:
    """Position mode, a step that a newer one has overtaken: its position is out of date, only the newer one counts.

    Its own change is made up for as far as it leads to the newer position. With `resync` the whole difference to that position is
    traded, unless it would open something against the step's own direction.
    """
    market = market.seen_as(PositionPart.OWN)
    newest = _units(newer.now, market)
    now, before = _units(target.signed, market), _before(target, market)
    direction = 0 if before is None and signal.action not in _TRADES else _direction(signal, now, before)
    gap = ROUND_DOWN_CONTEXT.subtract(newest, market.projected)
    if settings.resync:
        change = _change_in_direction(newest, market, direction)
    elif before is None or not _is_sized_in_contracts(signal) or gap * direction < market.instrument.base_tick:
        change = PositionChange(ignored_code=OUT_OF_DATE)
    else:
        change = PositionChange(delta=direction * min(abs(now - before), abs(gap)), part=market.part)
    warnings: tuple[str, ...] = (
        f"out of date: this step led to {format_12dp(now)} {market.instrument.base}, a newer one fired at "
        f"{newer.fired_at:%H:%M:%S} and led to {format_12dp(newest)}",
    )
    if abs(gap) > market.instrument.base_tick:
        warnings += (
            f"drift: the strategy holds {format_12dp(newest)} {market.instrument.base}, the account {format_12dp(market.projected)}",
        )
    return replace(change, ignored_code=OUT_OF_DATE if change.ignored_code else None, warnings=warnings)


def _is_sized_in_contracts(signal: Signal) -> bool:
    """Return whether the order's size is the strategy's own step, not a percent or USD amount chosen by the trader."""
    return signal.quantity is None or _kind_of(signal) is QuantityType.BASE


def is_without_its_start(target: TargetPosition, market: MarketView) -> bool:
    """Return whether the webhook's part of the position shows no trace of that which a strategy's step starts from.

    It holds the other side of what the step opens, or nothing of what it changes: the alert before it may still be on its way.
    """
    before = None if market.is_inverse else _before(target, market)
    if before is None:
        return False
    return _has_overtaken_its_close(target, market) if before == 0 else market.projected * before <= 0


def _has_overtaken_its_close(target: TargetPosition, market: MarketView) -> bool:
    """Return whether a strategy that was flat opens one side while the webhook still holds the other.

    Close and open of one bar can arrive swapped (docs/internals/tradingview.md section 2.2). The open then includes the close, and the
    late close finds nothing on its side.
    """
    return _before(target, market) == 0 and market.projected * target.signed < 0


def _own_step(signal: Signal, target: TargetPosition, market: MarketView) -> PositionChange:
    """Apply the strategy's step, from its previous to its new position: a step that only enlarges it to the account's position, any other
    to what the webhook holds of that.
    """
    now, before = _units(target.signed, market), _before(target, market)
    direction = _direction(signal, now, before)
    own = market.seen_as(PositionPart.OWN)
    held = own.projected
    if now == 0:
        return _full_close(own, direction)
    if before is None:
        return _change_in_direction(now, own, direction)
    if before * now < 0:
        # Reversal: close what is really open and no more. The strategy's doubled quantity says nothing about our position.
        if held * now > 0 and abs(held) >= abs(now):
            return PositionChange(ignored_code=ALREADY_IN_POSITION)
        return _change_to(now, own)
    if abs(now) < abs(before):
        if held * direction >= 0:
            return _nothing_to_close(own, _held_elsewhere(own))
        return PositionChange(delta=direction * min(abs(before) - abs(now), abs(held)), part=own.part)
    is_entry = market.projected * direction >= 0
    size = abs(now - before)
    if signal.quantity is not None:
        size = _size(signal, side_of(Decimal(direction)), market, is_entry=is_entry)
    return PositionChange(delta=direction * size)


def _full_close(market: MarketView, direction: int) -> PositionChange:
    """The strategy is flat: close what is really open on its side. A position on the other side is not this strategy's."""
    projected = market.projected
    if projected == 0:
        return _nothing_to_close(market, _held_elsewhere(market))
    if projected * direction > 0:
        held = "long" if projected > 0 else "short"
        return _nothing_to_close(
            market, f"the account is {held} {format_12dp(abs(projected))}, the opposite side of the strategy"
        )
    return PositionChange(delta=-projected, close_fraction=_ONE, part=market.part)


def _held_elsewhere(market: MarketView) -> str | None:
    """Why a view of the webhook's part is empty; None if other webhooks hold none of the position."""
    if market.part is PositionPart.WHOLE or market.projected != 0:
        return None
    others = abs(market.others)
    return f"other webhooks hold all of the {format_12dp(others)} {market.instrument.base}" if others else None


def _change_in_direction(target: Decimal, market: MarketView, direction: int) -> PositionChange:
    """Move to `target` without opening anything against the direction of the strategy's own step.

    Two fills of one second may arrive swapped: the late one then names a position that the strategy has left, and going back to it
    would re-open what is closed. Reducing is always allowed.
    """
    projected = market.projected
    change = _change_to(target, market)
    if change.ignored_code or change.delta * direction > 0:
        return change
    if projected * target > 0 and abs(target) < abs(projected):
        return change
    if projected * target <= 0 and projected != 0:
        return PositionChange(delta=-projected, close_fraction=_ONE, target=ZERO, part=market.part)
    code = NOTHING_TO_CLOSE if projected == 0 else ALREADY_IN_POSITION
    holder = "account" if market.part is PositionPart.WHOLE else "webhook"
    text = f"the {holder} holds {format_12dp(projected)}, the alert's step leads away from {format_12dp(target)}: nothing was re-opened"
    return PositionChange(ignored_code=code, warnings=(text,))


def _change_to(target: Decimal, market: MarketView) -> PositionChange:
    delta = ROUND_DOWN_CONTEXT.subtract(target, market.projected)
    if delta == 0 or (market.projected != 0 and abs(delta) < market.instrument.base_tick):
        if target != 0:
            return PositionChange(ignored_code=ALREADY_IN_POSITION)
        return _nothing_to_close(market, _held_elsewhere(market))
    return PositionChange(delta=delta, close_fraction=_ONE if target == 0 else None, target=target, part=market.part)


# ---------------------------------------------------------------------------------------------------------------- helpers


def _size(signal: Signal, side: Side, market: MarketView, *, is_entry: bool) -> Decimal:
    """The signal's quantity in base units for an order on `side`; zero without a quantity."""
    if signal.quantity is None:
        return ZERO
    kind = _kind_of(signal)
    if kind is QuantityType.BASE:
        return market.base_units(signal.quantity.value)
    prices = prices_for(signal, side, market, is_entry=is_entry)
    stop = stop_price(signal, side, prices, market) if kind.is_risk else None
    return to_base_units(
        signal.quantity.value,
        kind,
        price=prices.reference,
        account_value=market.account_value,
        position=market.projected,
        stop_price=stop,
    )


def _kind_of(signal: Signal) -> QuantityType:
    """The unit of the quantity. A percent without a type is a share of the position on exits and refused on entries."""
    kind = signal.quantity_type
    is_percent = signal.quantity is not None and signal.quantity.is_percent
    if not is_percent or kind not in (None, QuantityType.BASE, QuantityType.USD):
        return kind or QuantityType.BASE
    if kind is None and (signal.reduce_only or signal.action is Action.CLOSE):
        return QuantityType.PERCENT_POSITION
    if kind is None:
        raise Refused(
            "quantity_type_missing",
            "quantity: found a percent without quantityType on an entry, expected a type; "
            'add "quantityType":"percent_equity", or another one',
            field="quantity",
        )
    raise Refused(
        "quantity_type_unsupported",
        f"quantityType: found {kind} for a quantity with a percent sign, expected a percent type; leave % or the type out",
        field="quantityType",
    )


def _units(contracts: Decimal, market: MarketView) -> Decimal:
    return ZERO if contracts == 0 else market.base_units(contracts)


def _direction(signal: Signal, now: Decimal, before: Decimal | None) -> int:
    """+1 if the strategy's own step buys, -1 if it sells. Raises Refused(inconsistent_position) if its fields disagree."""
    wanted = {Action.BUY: 1, Action.SELL: -1}.get(signal.action)
    if before is None:
        return wanted if wanted is not None else (-1 if now > 0 else 1)
    if now == before:
        raise _inconsistent(f"the position is {format_12dp(now)} before and after the fill")
    direction = 1 if now > before else -1
    if wanted is not None and wanted != direction:
        raise _inconsistent(f"a {signal.action} cannot lead from {format_12dp(before)} to {format_12dp(now)}")
    return direction


def _before(target: TargetPosition, market: MarketView) -> Decimal | None:
    return None if target.previous_signed is None else _units(target.previous_signed, market)


def has_drifted(signal: Signal, market: MarketView) -> bool:
    """Return whether the market's position differs from the strategy's position before its step. Raises Refused."""
    return signal.target is not None and bool(_drift_warnings(signal.target, market, ""))


def _drift_warnings(target: TargetPosition, market: MarketView, remark: str) -> tuple[str, ...]:
    """A warning if the account's position differs from the strategy's position before its step."""
    if market.is_inverse:
        return ()  # the strategy's sizes count USD: not comparable
    before = _before(target, market)
    if before is None or abs(market.projected - before) <= market.instrument.base_tick:
        return ()
    shared = market.part is not PositionPart.WHOLE and market.others
    beside = " beside what other webhooks hold" if shared else ""
    return (
        f"drift: the strategy held {format_12dp(before)} {market.instrument.base} before this alert, "
        f"the account {format_12dp(market.projected)}{beside}; {remark}",
    )


def _nothing_to_close(market: MarketView, why: str | None = None) -> PositionChange:
    found = ([f"{market.symbol}: {why}"] if why else []) + list(isolated_left(market.symbol, market.isolated))
    return PositionChange(ignored_code=NOTHING_TO_CLOSE, warnings=tuple(found))


def isolated_left(symbol: str, quantity: Decimal) -> tuple[str, ...]:
    """The remark that an isolated position stays open, which an alert's close does not touch; empty for zero."""
    if quantity == 0:
        return ()
    base = symbol.split("_")[1]
    return (
        f"{symbol}: an isolated position of {format_12dp(quantity)} stays open, alerts trade cross positions; close it with "
        f"`kekbridge close {base} --margin-mode isolated`",
    )


def _inconsistent(found: str) -> Refused:
    return Refused(
        "inconsistent_position",
        f"marketPosition: {found}; take action, quantity and the position fields all from the strategy.* placeholders",
        field="marketPosition",
    )
