"""Explain a pasted message of any service without sending it: its format, what each field means, what would be traded, what is missing.

Needs no account and no market: sizes in percent and target positions are described as such. Pure; `kekbridge webhook check` prints it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from kekbridge.alerts.field_names import CREDENTIAL_FIELDS, IDENTITY_FIELDS, ORDER_FIELDS, STEPS_FIELD, canonical_name
from kekbridge.alerts.message import Message, fired_at, interpret, read_message
from kekbridge.alerts.profile import PROTECTIVE, Profile
from kekbridge.alerts.profiles import PROFILES, find_profile
from kekbridge.alerts.redaction import redact, show
from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, Signal
from kekbridge.alerts.template import EXPLAINED, fill
from kekbridge.alerts.unknown_fields import UnreadField
from kekbridge.errors import RequestRefused
from kekbridge.formatting import format_decimal
from kekbridge.model import WebhookSettings

# What TradingView writes in place of its placeholders, for a message that is checked before it fired.
_SAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "ticker": "BTCUSDT.P",
        "exchange": "BYBIT",
        "interval": "15",
        "timenow": "2026-01-15T10:30:03Z",
        "time": "2026-01-15T10:15:00Z",
        **dict.fromkeys(("open", "high", "low", "close"), "65000"),
        "volume": "12.5",
        "strategy.order.action": "buy",
        "strategy.order.contracts": "0.01",
        "strategy.order.price": "65000",
        "strategy.order.id": "Long",
        "strategy.order.comment": "Long",
        "strategy.market_position": "long",
        "strategy.market_position_size": "0.01",
        "strategy.prev_market_position": "flat",
        "strategy.prev_market_position_size": "0",
        "strategy.position_size": "0.01",
    }
)
# What a message has beside a field that is read only then.
_BESIDE: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "quantityType": {"stopLoss": "2%"},
        "limitPrice": {"orderType": "limit"},
        "triggerPrice": {"orderType": "stop"},
    }
)
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
_UNITS: Mapping[QuantityType, str] = MappingProxyType(
    {
        QuantityType.BASE: "coins",
        QuantityType.USD: "USDC",
        QuantityType.PERCENT_EQUITY: "% of the account value",
        QuantityType.PERCENT_POSITION: "% of the position",
        QuantityType.RISK_PERCENT: "% of the account value at risk",
        QuantityType.RISK_USD: "USDC at risk",
    }
)


class FieldMeaning(Struct, frozen=True):
    """One field of a checked message."""

    #: Name, with the objects around it.
    path: str
    #: Value, with secrets shortened.
    value: str
    #: What it means, or that it is passed over.
    meaning: str
    #: It decides something.
    is_read: bool


class MessageCheck(Struct, frozen=True, kw_only=True):
    """What a message means on a webhook."""

    #: Format that the message was read in.
    profile: str
    #: Format that the message looks like.
    likely_profile: str
    #: Every field of every step.
    fields: tuple[FieldMeaning, ...] = ()
    #: What would be traded, one text per step.
    orders: tuple[str, ...] = ()
    #: Remarks of reading it.
    warnings: tuple[str, ...] = ()
    #: What the message lacks, and how to add it.
    missing: tuple[str, ...] = ()
    #: Placeholders that were filled with examples.
    filled: tuple[str, ...] = ()
    #: Code and text of the refusal; None if it would be taken.
    code: str | None = None
    error: str | None = None


def check_message(body: bytes, settings: WebhookSettings, *, profile: str | None = None) -> MessageCheck:
    """Explain `body` as a webhook with `settings` would read it; `profile`: read it in this format, None: in the likely one.

    TradingView's placeholders are filled with examples first. Never raises for a message, however damaged.
    """
    text = body.decode("utf-8", "replace")
    names = tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))
    filled = fill_samples(text)
    known = tuple(name for name in names if name in _SAMPLES)
    try:
        message = read_message(filled.encode() if names else body)
    except RequestRefused as refusal:
        chosen = profile or settings.profile
        return MessageCheck(
            profile=chosen, likely_profile=chosen, filled=known, code=refusal.code, error=refusal.message
        )
    likely = likely_profile(message)
    chosen = profile or likely
    settings = replace(settings, profile=chosen)
    shape = find_profile(chosen)
    fields = tuple(meaning for step in message.steps for meaning in _meanings(step, shape, message.api_key))
    orders: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code = error = None
    try:
        alert = interpret(message, settings)
        orders, warnings = tuple(describe(step) for step in alert.steps), alert.warnings
    except RequestRefused as refusal:
        code, error = refusal.code, refusal.message
    return MessageCheck(
        profile=chosen,
        likely_profile=likely,
        fields=fields,
        orders=orders,
        warnings=warnings,
        missing=tuple(_missing(message, settings)),
        filled=known,
        code=code,
        error=error,
    )


def fill_samples(text: str, values: Mapping[str, str] = MappingProxyType({})) -> str:
    """Replace placeholders by examples of what TradingView writes, and by `values` first; unknown ones are kept."""
    return fill(_PLACEHOLDER.sub(lambda match: "{{" + match.group(1) + "}}", text), {**_SAMPLES, **values})


def samples_of(text: str, *, ticker: str, price: str, size: str) -> dict[str, str]:
    """An example of each placeholder in a text but `timenow`, of a market with this ticker, price and order size; empty if unknown."""
    own = dict.fromkeys(("open", "high", "low", "close", "strategy.order.price"), price)
    own |= dict.fromkeys(("strategy.order.contracts", "strategy.market_position_size", "strategy.position_size"), size)
    known = {**_SAMPLES, **own, "ticker": ticker}
    return {name: known.get(name, "") for name in dict.fromkeys(_PLACEHOLDER.findall(text)) if name != "timenow"}


def read_value(name: str, value: str) -> Signal | None:
    """An entry in which one field has this value, as a message of kekbridge's own format; None if the rest of a message decides.

    Raises Refused if a message with this value would be refused for it. `name`: of an order's field, in any spelling.
    """
    field = canonical_name(name)
    beside = _BESIDE.get(field, {})
    if field == "quantity" and value.rstrip().endswith("%"):
        beside = {"quantityType": "percent_equity"}  # the message, or another default, says of what
    step = {
        "apiKey": "",
        "action": "buy",
        "symbol": "BTCUSDT.P",
        "quantity": "0.01",
        **beside,
        field: value,
    }
    try:
        return interpret(read_message(json.dumps(step).encode()), WebhookSettings(require_timestamp=False)).steps[0]
    except RequestRefused as refusal:
        if refusal.field is not None and canonical_name(refusal.field) == field:
            raise
        return None


def likely_profile(message: Message) -> str:
    """The format that fits a message best: of those that can read it, or of all, the one that it looks like most."""

    def fit(profile: Profile) -> tuple[bool, int]:
        try:
            interpret(message, WebhookSettings(profile=profile.name, require_timestamp=False))
        except RequestRefused:
            is_read = False
        else:
            is_read = True
        return is_read, sum(profile.likeness(step) for step in message.steps)

    return max(PROFILES.values(), key=fit).name  # of equal ones the first, kekbridge's own


def describe(step: Signal) -> str:
    """What one step would trade, in one line."""
    if step.action is Action.PING:
        return "a heartbeat: stored and answered, nothing is traded"
    market = step.symbol or "every market"
    if step.action is Action.CANCEL:
        return f"cancel the open orders of {market}" + (f" with the comment {step.comment}" if step.comment else "")
    parts = [_what(step, market)]
    if step.order_type.value != "market":
        parts.append(f"as a {step.order_type} order")
    parts += [f"{name} {format_decimal(price)}" for name, price in _prices(step) if price is not None]
    if step.stop_loss is not None:
        parts.append(f"stop loss {_level(step.stop_loss)}")
    if step.take_profits:
        parts.append("take profit " + ", ".join(_level(each.level) for each in step.take_profits))
    if step.trailing_stop is not None:
        parts.append(f"trailing stop {_level(step.trailing_stop)}")
    if step.leverage is not None:
        parts.append(f"leverage {step.leverage}")
    is_exit = step.reduce_only or step.action is Action.CLOSE or (step.exits_opposite and step.quantity is None)
    has_protection = step.stop_loss is not None or step.trailing_stop is not None
    return "; ".join(parts) + ("" if has_protection or is_exit else "; no stop")


def _what(step: Signal, market: str) -> str:
    target = step.target
    if target is not None and (step.is_wanted_position or target.side is PositionSide.FLAT):
        wanted = "flat" if target.side is PositionSide.FLAT else f"{target.side} {format_decimal(target.size)}"
        return f"make the position in {market} {wanted}"
    size = _size(step)
    match step.action:
        case Action.CLOSE:
            return f"close {size or 'all'} of {market}" if step.symbol else "close every open position"
        case Action.FLIP:
            return f"turn the position in {market} around" + (f", to {size}" if size else "")
        case Action.ADD:
            return f"add {size} to the position in {market}"
        case _ if step.reduce_only:
            side = "long" if step.action is Action.SELL else "short"
            return f"close {size or 'all'} of a {side} position in {market}"
        case _ if step.exits_opposite and not size:
            side = "long" if step.action is Action.SELL else "short"
            return f"close a {side} position in {market}; without one nothing, because there is no quantity"
        case _:
            return f"{step.action} {size or 'what is missing to the position'} of {market}".replace("  ", " ")


def _size(step: Signal) -> str:
    if step.quantity is None:
        return ""
    unit = _UNITS[step.quantity_type or QuantityType.BASE]
    return f"{format_decimal(step.quantity.value)}{'' if unit.startswith('%') else ' '}{unit}"


def _prices(step: Signal) -> tuple[tuple[str, Any], ...]:
    return ("limit", step.limit_price), ("trigger", step.trigger_price), ("at a signal price of", step.price)


def _level(amount: Amount) -> str:
    return format_decimal(amount.value) + ("%" if amount.is_percent else "")


def _meanings(step: Mapping[str, Any], profile: Profile, api_key: str | None) -> Iterable[FieldMeaning]:
    """What every field of a step means, in the order written."""
    unread = {each.path: each for each in profile.unread(step)}
    shown = redact(step, secret=api_key)
    for (name, value), kept in zip(step.items(), shown.values(), strict=False):
        if name == STEPS_FIELD or value is None:
            continue
        text = show(kept) if isinstance(kept, (str, list, Mapping)) else str(kept)
        yield FieldMeaning(name, text, *_meaning_of(name, profile, unread))
        yield from _inner_meanings(name, value, profile, unread)


def _inner_meanings(
    name: str, value: Any, profile: Profile, unread: Mapping[str, UnreadField]
) -> Iterable[FieldMeaning]:
    """The fields inside an object that are read, or that stand for one that would be."""
    for inner, held in value.items() if isinstance(value, Mapping) else ():
        path = f"{name}.{inner}"
        target = profile.target_at(path)
        if target is not None and held is not None:
            yield FieldMeaning(path, show(held), f"{target}: {EXPLAINED[target]}", is_read=True)
    for path, each in unread.items():
        if path.startswith(f"{name}."):
            yield FieldMeaning(path, show(each.value), *_meaning_of(path, profile, unread))


def _meaning_of(path: str, profile: Profile, unread: Mapping[str, UnreadField]) -> tuple[str, bool]:
    if path in unread:
        lookalike = unread[path].lookalike
        return ("passed over" if lookalike is None else f"not read: {lookalike.advice}"), lookalike is not None
    targets = profile.targets_of(path)
    if "unsupported" in targets and not targets & PROTECTIVE:
        return "cannot be followed", True
    if path == profile.max_age_field:
        return "how late the alert may be, in seconds", True
    if path in CREDENTIAL_FIELDS or canonical_name(path) == "apiKey":
        return EXPLAINED["apiKey"], True
    named = sorted(target for target in targets if target in ORDER_FIELDS | IDENTITY_FIELDS)
    if not named:
        return ("the position after the fill", True) if "sentiment" in targets else ("passed over", False)
    return "; ".join(f"{target}: {EXPLAINED[target]}" for target in named), True


def _missing(message: Message, settings: WebhookSettings) -> Iterable[str]:
    if message.api_key is None:
        yield (
            'the key: add "apiKey" with the webhook\'s key, or send it in the header X-Api-Key; a text that cannot be edited '
            "needs a webhook with --key-in-path"
        )
    if settings.require_signature and message.signature is None:
        yield "the signature: use the message that `kekbridge template` prints, or a webhook with --no-require-signature"
    try:
        time = fired_at(message, settings.profile)
    except RequestRefused:
        return  # the refusal is the check's
    if time is None and settings.require_timestamp:
        yield 'the time: add "timestamp":"{{timenow}}", or use a webhook with --no-require-timestamp'
