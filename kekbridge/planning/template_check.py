"""Check a template against the webhook that it is for: which of its alerts would be refused, before it is pasted. Pure.

Only what the message itself says is judged. Sizes and prices that TradingView fills in are judged by the rules when the alert comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal

from msgspec import Struct, field

from kekbridge.alerts import symbols
from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.message_check import fill_samples
from kekbridge.alerts.signal import Action, QuantityType, Signal
from kekbridge.errors import RequestRefused
from kekbridge.formatting import format_decimal, market
from kekbridge.model import Limits, WebhookSettings
from kekbridge.planning.prices import is_near
from kekbridge.risk.limits import percent, usdc

_ENTRIES = frozenset({Action.BUY, Action.SELL, Action.ADD, Action.FLIP})
# Other values of the placeholders that stand for a market, a size or a price than `fill_samples` takes by itself.
_OTHER_VALUES = {
    "ticker": "ETHUSDT.P",
    "strategy.order.contracts": "0.02",
    "strategy.market_position_size": "0.02",
    "strategy.position_size": "0.02",
    **dict.fromkeys(("open", "high", "low", "close", "strategy.order.price"), "66000"),
}
_COMPARED = ("symbol", "quantity", "stop_loss", "take_profits")


class TemplateTarget(Struct, frozen=True, kw_only=True):
    """What a template is checked against."""

    #: Settings of the webhook.
    settings: WebhookSettings
    #: Limits in force: the tighter ones of webhook and account.
    limits: Limits
    #: Symbols that the exchange lists; empty if they are not known.
    markets: Collection[str] = ()
    #: Mark prices by symbol; empty if they are not known.
    marks: Mapping[str, Decimal] = field(default_factory=dict)


def find_problems(message: str, target: TemplateTarget, *, kind: str) -> tuple[str, ...]:
    """What would refuse alerts of this message, one sentence each with its fix. `kind`: of `alerts.template`; not `pine`."""
    refusal = find_refusal(message, target.settings)
    if refusal is not None:
        return (f"its alerts would be refused: {refusal.message}",)
    steps, others = (_steps(message, target.settings, values) for values in ({}, _OTHER_VALUES))
    found: list[str] = []
    for step, other in zip(steps, others, strict=True):
        # A field that changes with the values of placeholders is not the message's own.
        free = {name for name in _COMPARED if getattr(step, name) != getattr(other, name)}
        found += _problems_of(step, target, kind, free)
    return tuple(dict.fromkeys(found))


def find_refusal(message: str, settings: WebhookSettings) -> RequestRefused | None:
    """Why no alert of this message could be read, with the field that is wrong; None if they can."""
    try:
        for values in ({}, _OTHER_VALUES):
            _steps(message, settings, values)
    except RequestRefused as refusal:
        return refusal
    return None


def _steps(message: str, settings: WebhookSettings, values: Mapping[str, str]) -> tuple[Signal, ...]:
    return interpret(read_message(fill_samples(message, values).encode()), settings).steps


def _problems_of(step: Signal, target: TemplateTarget, kind: str, free: Collection[str]) -> Iterator[str]:
    yield from _symbol_problems(step, target, free)
    if step.action not in _ENTRIES:
        return
    yield from _stop_problems(step, target.limits)
    yield from _price_problems(step, target, free)
    if "quantity" not in free:
        yield from _size_problems(step, target.limits)
    if step.leverage is not None and target.limits.max_leverage is not None:
        most = target.limits.max_leverage
        if step.leverage > most and target.limits.leverage_policy == "refuse":
            yield f"leverage {_number(step.leverage)} is above the limit {_number(most)}; use --leverage {_number(most)}"
    if kind == "position" and target.settings.follow != "position":
        yield "the webhook takes each alert as an order; use `kekbridge webhook edit NAME --follow position` with this message"


def _symbol_problems(step: Signal, target: TemplateTarget, free: Collection[str]) -> Iterator[str]:
    """Markets that the message names and that no alert could trade."""
    allowed = target.limits.allowed_symbols
    listed = frozenset(target.markets or allowed or ())
    named = [(text, "--symbols") for text in step.symbols]
    if step.symbol is not None and "symbol" not in free:
        named.append((step.symbol, "--symbol"))
    for text, option in named:
        if not listed:
            return  # neither a list of markets nor of allowed ones to compare with
        try:
            found = symbols.resolve(
                text,
                exchange=None,
                listed=listed,
                aliases=target.settings.aliases,
                rescale_units=target.settings.rescale_units,
            )
        except RequestRefused as refusal:
            words = refusal.message.removeprefix("symbol: ")
            yield f"{option}: {words}" if target.markets else _not_allowed(option, text, listed)
            continue
        if allowed is not None and found.symbol not in allowed:
            yield _not_allowed(option, market(found.symbol), allowed)


def _not_allowed(option: str, name: str, allowed: Collection[str]) -> str:
    names = ", ".join(map(market, allowed)) or "none"
    return f"{option}: {name} is not among the allowed symbols ({names}); use one of them, or extend --allowed-symbols"


def _stop_problems(step: Signal, limits: Limits) -> Iterator[str]:
    stop, farthest = step.stop_loss, limits.farthest_stop
    if stop is None:
        if limits.require_stop_loss:
            example = "2%" if farthest is None or farthest >= Decimal("0.02") else percent(farthest).replace(" ", "")
            yield f"every entry would be denied: a stop loss is required and the message has none; add --stop-loss {example}"
        return
    if stop.is_percent and farthest is not None and stop.value / 100 > farthest:
        most = percent(farthest)
        yield f"every entry would be denied: the stop loss is {_number(stop.value)} % away, the limit is {most};" + (
            f" use --stop-loss {most.replace(' ', '')}"
        )


def _price_problems(step: Signal, target: TemplateTarget, free: Collection[str]) -> Iterator[str]:
    """Stops and targets that are no prices of the market that the message names."""
    if step.symbol is None or "symbol" in free or not target.marks:
        return
    try:
        found = symbols.resolve(
            step.symbol,
            exchange=None,
            listed=frozenset(target.marks),
            aliases=target.settings.aliases,
            rescale_units=target.settings.rescale_units,
        )
    except RequestRefused:
        return  # reported as a market that is not listed
    levels = [("--stop-loss", step.stop_loss)] if "stop_loss" not in free else []
    levels += [("--take-profit", each.level) for each in step.take_profits] if "take_profits" not in free else []
    mark = target.marks[found.symbol]
    for option, level in levels:
        if level is None or level.is_percent or is_near(level.value * found.unit_factor, mark):
            continue
        fix = f"{option} {_number(level.value)}%" if level.value <= 50 else "a percent such as 2%"
        yield (
            f"every entry would be refused: {option} {_number(level.value)} is read as a price, and {market(found.symbol)} is at"
            f" {_number(mark)}; use {fix} for a distance"
        )


def _size_problems(step: Signal, limits: Limits) -> Iterator[str]:
    if step.quantity is None or step.quantity.is_percent:
        return
    size, unit = step.quantity.value, step.quantity_type or QuantityType.BASE
    if unit is QuantityType.BASE:
        for limit, is_broken, name in (
            (limits.max_order_size, limits.max_order_size is not None and size > limits.max_order_size, "largest"),
            (limits.min_order_size, limits.min_order_size is not None and size < limits.min_order_size, "smallest"),
        ):
            if is_broken and limit is not None:
                yield (
                    f"every entry would be denied: quantity {_number(size)}, the {name} order is {_number(limit)} coins;"
                    f" use --quantity {_number(limit)}"
                )
    if unit is QuantityType.USD and limits.max_notional is not None and size > limits.max_notional:
        most = limits.max_notional
        yield (
            f"every entry would be denied: {usdc(size)}, the largest order value is {usdc(most)}; use --quantity {_number(most)}"
        )
    if step.max_quantity is not None and unit is QuantityType.BASE and size > step.max_quantity:
        yield f"every entry would be refused: quantity {_number(size)} is above the message's own --max-quantity"


def _number(value: Decimal) -> str:
    return format_decimal(value)
