"""Build the messages to paste into TradingView: valid JSON on one line, placeholders quoted, all static fields signed.

The tests fill every kind in every profile and read it back with message.py. Pure: the command that prints it is in cli/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kekbridge.alerts.message import read_message
from kekbridge.alerts.profile import Profile
from kekbridge.alerts.profiles import find_profile
from kekbridge.alerts.redaction import show
from kekbridge.alerts.signature import sign
from kekbridge.errors import ConfigError

KINDS = ("strategy", "indicator", "close", "flip", "position", "ping", "pine")
# Used for a message with a fixed action and no size; small on purpose.
DEFAULT_QUANTITY = "0.01"
_MAX_MESSAGE_LENGTH = 4000  # the alert dialog's limit, docs/internals/tradingview.md section 1.2
_PLACEHOLDER = re.compile(r"\{\{[^{}]+\}\}")
_COMMA = re.compile(r",(?![^{}]*\}\})")  # not those inside a placeholder
_LEVEL = re.compile(
    r"(?P<level>[0-9]+(?:\.[0-9]+)?|\{\{[^{}]+\}\})(?P<percent>%?)\s*:\s*(?P<share>[0-9]+(?:\.[0-9]+)?)%?", re.ASCII
)

_STRATEGY_POSITION = {
    "marketPosition": "{{strategy.market_position}}",
    "marketPositionSize": "{{strategy.market_position_size}}",
    "prevMarketPosition": "{{strategy.prev_market_position}}",
    "prevMarketPositionSize": "{{strategy.prev_market_position_size}}",
}
_ENTRY_KINDS = frozenset({"strategy", "indicator", "flip", "position", "pine"})
_ORDER_PARAMETERS = (
    "order_type", "limit_price", "trigger_price", "stop_loss", "take_profit", "trailing_stop", "leverage", "slippage",
)  # fmt: skip
#: By kind: the parameters of `build` that its message takes, in the order in which people think of them.
PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "strategy": ("symbol", "quantity", "quantity_type", *_ORDER_PARAMETERS, "comment", "symbols", "max_quantity"),
        "indicator": (
            *("action", "symbol", "quantity", "quantity_type", *_ORDER_PARAMETERS),
            *("comment", "symbols", "max_quantity"),
        ),
        "close": ("symbol", "quantity", "quantity_type", "comment", "symbols"),
        "flip": ("symbol", "quantity", "quantity_type", *_ORDER_PARAMETERS, "comment", "symbols", "max_quantity"),
        "position": ("symbol", *_ORDER_PARAMETERS, "comment", "symbols", "max_quantity"),
        "ping": (),
        "pine": ("symbol", "quantity_type", *_ORDER_PARAMETERS, "comment", "symbols", "max_quantity"),
    }
)
# What fires an alert of each kind, as TradingView's dialog names it (docs/internals/tradingview.md section 3).
_CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "strategy": "Condition: your strategy, with its order fills",
        "position": "Condition: your strategy, with its order fills",
        "pine": "Condition: your script, with its alert() calls; in a strategy also order fills",
    }
)

EXPLAINED: Mapping[str, str] = MappingProxyType(
    {
        "apiKey": "identifies the webhook; useless elsewhere, replace it with `kekbridge webhook rotate`",
        "alertId": "your own id of the alert",
        "timestamp": "when the alert fired; an old message is refused. It is not signed: TradingView fills it in",
        "action": "what to do",
        "symbol": "the market; {{ticker}} is the chart's",
        "exchange": "the exchange of the chart: delayed data and non-crypto exchanges are refused",
        "quantity": "how much",
        "quantityType": "unit of the quantity",
        "price": "price of the signal: limits the slippage, and is the limit price of a limit order",
        "orderType": "market, limit, stop, stop_limit, ioc, fok or post_only",
        "limitPrice": "limit price",
        "triggerPrice": "price at which a stop order triggers",
        "stopLoss": "placed together with the entry, in one request",
        "takeProfit": "placed together with the entry, in one request",
        "trailingStop": "distance of a stop that trails the price",
        "reduceOnly": "the order may only make the position smaller",
        "leverage": "set for the market before the order",
        "slippage": "maximum distance of the market from the price of the signal",
        "marketPosition": "the strategy's position after the fill: exits are reduce-only, reversals close first",
        "marketPositionSize": "its size",
        "prevMarketPosition": "the position before the fill: a difference means that an alert was lost",
        "prevMarketPositionSize": "its size",
        "positionSize": "the strategy's position after the fill in one number, negative for a short",
        "symbols": "the only markets that this message may name",
        "maxQuantity": "the largest size of an order by this message, in coins",
        "comment": "free text; a cancel with the same comment finds the order",
        "signature": "proof that the message is yours: the fields it names cannot be changed, those with ? are placeholders",
    }
)


@dataclass(frozen=True, slots=True)
class Template:
    """A message, or Pine source, to paste."""

    #: One of KINDS.
    kind: str
    #: The text to paste.
    message: str
    #: (Field, its meaning) in the order of the message.
    explanation: tuple[tuple[str, str], ...]
    #: Fields whose values are placeholders and not signed.
    free: tuple[str, ...]
    #: Of `symbol` and `quantity`: those that are placeholders without a bound in the message.
    unbounded: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """What to bound and how; None if nothing is left to bound."""
        options = {"symbol": "--symbols BTCUSDT.P", "quantity": "--max-quantity 0.05"}
        if not self.unbounded:
            return None
        names = " and ".join(self.unbounded)
        verb = "is a placeholder" if len(self.unbounded) == 1 else "are placeholders"
        return f"{names} {verb} without a bound; add {' '.join(options[name] for name in self.unbounded)}"

    @property
    def risk(self) -> str:
        """What somebody with a copy of the message could do, in one line."""
        if self.kind == "ping":
            return "A copy of this message can do nothing but send another ping."
        replaced = "repeat it at any time"
        if self.unbounded:
            replaced += f" with any {' and any '.join(self.unbounded)}"
        elif self.free:
            replaced += " with other values for its placeholders, within its symbols and maxQuantity"
        return f"Somebody with a copy of this message could {replaced}; the limits of the webhook still apply."


def build(
    kind: str,
    *,
    api_key: str,
    api_secret: str,
    action: str = "buy",
    symbol: str | None = None,
    quantity: str | None = None,
    quantity_type: str | None = None,
    order_type: str | None = None,
    limit_price: str | None = None,
    trigger_price: str | None = None,
    stop_loss: str | None = None,
    take_profit: str | None = None,
    trailing_stop: str | None = None,
    leverage: str | None = None,
    slippage: str | None = None,
    comment: str | None = None,
    symbols: str | None = None,
    max_quantity: str | None = None,
    profile: str = "seed",
) -> Template:
    """Build a template of one of KINDS. Values are texts as in an alert, and may be placeholders such as `{{plot_0}}`.

    `action` is the fixed action of an indicator's message. `take_profit` is one level, or several with the share of the entry that each
    closes: `2%:50%, 4%:50%`. Raises ConfigError for an unknown kind, a value that cannot be pasted, or a field that the profile does not
    have; its `field` is that of the message.
    """
    if kind not in KINDS:
        raise ConfigError(f"template kind {show(kind)} is unknown, expected one of {', '.join(KINDS)}")
    options = {
        "quantityType": quantity_type,
        "orderType": order_type,
        "limitPrice": limit_price,
        "triggerPrice": trigger_price,
        "stopLoss": stop_loss,
        "takeProfit": take_profit,
        "trailingStop": trailing_stop,
        "leverage": leverage,
        "slippage": slippage,
        "comment": comment,
    }
    given = {name: value for name, value in options.items() if value is not None}
    levels = _several_levels(given.get("takeProfit", ""))
    bounds = {name: value for name, value in (("symbols", symbols), ("maxQuantity", max_quantity)) if value is not None}
    for name, value in {
        **given,
        **bounds,
        "symbol": symbol,
        "quantity": quantity,
        "action": action,
        "apiKey": api_key,
    }.items():
        _check_text(name, value)
    if kind == "pine":
        return _pine(api_key, api_secret, symbol, given, levels, bounds, find_profile(profile))
    shape = find_profile(profile)
    fields = _fields_of(kind, action, symbol, quantity, given, shape)
    kept = _bounds_of(kind, bounds)
    document = {"apiKey": api_key, **shape.render(_with_levels(fields, levels)), **kept, "timestamp": "{{timenow}}"}
    message, free = _signed(document, api_secret)
    fields |= kept
    if len(message) > _MAX_MESSAGE_LENGTH:
        raise ConfigError(
            f"the message has {len(message)} characters, TradingView's dialog accepts {_MAX_MESSAGE_LENGTH}"
        )
    return Template(kind, message, _explain(("apiKey", *fields, "timestamp", "signature")), free, _unbounded(fields))


def default_bounds(
    allowed_symbols: Iterable[str] | None, max_order_size: object | None, *, symbol: str | None, quantity: str | None
) -> dict[str, str]:
    """`symbols` and `max_quantity` of a message for a webhook with these limits, for what the message leaves to placeholders."""
    bounds = {}
    if allowed_symbols and (symbol is None or "{{" in symbol):
        bounds["symbols"] = ",".join(allowed_symbols)
    if max_order_size is not None and (quantity is None or "{{" in quantity):
        bounds["max_quantity"] = str(max_order_size)
    return bounds


def steps(kind: str, url: str) -> tuple[str, ...]:
    """What to click in TradingView for an alert with a message of this kind, in three lines."""
    condition = _CONDITIONS.get(kind, "Condition: your indicator; Trigger: Once Per Bar Close")
    message = "replace the whole text by the line above"
    if kind == "pine":
        message = "in a strategy write {{strategy.order.alert_message}}; an indicator's alert() brings its own"
    is_public = not any(local in url for local in ("//127.", "//localhost", "//[::1]"))
    reach = "" if is_public else " once it is public: `kekbridge docs public-address`"
    return (
        f"On the chart: Alt+A (Create alert). {condition}.",
        f"Message: {message}.",
        f"Notifications: tick Webhook URL and enter {url}{reach}. TradingView needs two-factor sign-in for webhooks. Create.",
    )


def fill(message: str, values: Mapping[str, str]) -> str:
    """Replace placeholders as TradingView does: `values` by name (`ticker`); unknown placeholders are kept."""
    return _PLACEHOLDER.sub(lambda match: values.get(match.group()[2:-2], match.group()), message)


def _fields_of(
    kind: str, action: str, symbol: str | None, quantity: str | None, given: Mapping[str, str], shape: Profile
) -> dict[str, str]:
    fields: dict[str, str] = {}
    if kind == "ping":
        return {"action": "ping"}
    from_strategy = kind in ("strategy", "position")
    fields["action"] = "{{strategy.order.action}}" if from_strategy else action if kind == "indicator" else kind
    fields["symbol"] = symbol or "{{ticker}}"
    if symbol is None:
        fields["exchange"] = "{{exchange}}"
    fields |= _quantity_fields(kind, quantity, given)
    if kind in _ENTRY_KINDS:
        fields |= {name: value for name, value in given.items() if name != "quantityType"}
        price = "{{strategy.order.price}}" if from_strategy else "{{close}}"
        if from_strategy or not shape.is_nested("price"):
            # A placeholder beside fixed values in one nested object would leave them all unsigned.
            fields["price"] = price
    elif "comment" in given:
        fields["comment"] = given["comment"]
    if from_strategy:
        fields |= _STRATEGY_POSITION
    return fields


def _several_levels(text: str) -> list[dict[str, str]]:
    """`2%:50%, 4%:50%` as a list of levels with shares; empty for one level. Raises ConfigError for a level without a share."""
    parts = [part.strip() for part in _COMMA.split(text)]
    if len(parts) == 1 and ":" not in _PLACEHOLDER.sub("", text):
        return []
    levels = []
    for part in parts:
        match = _LEVEL.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"takeProfit: found {show(text)}, expected one level such as 4%, or several with their shares such as 2%:50%, 4%:50%",
                field="takeProfit",
            )
        kind = "percent" if match["percent"] else "price"
        levels.append({kind: match["level"], "share": match["share"]})
    return levels


def _with_levels(fields: Mapping[str, str], levels: list[dict[str, str]]) -> dict[str, object]:
    return {**fields, "takeProfit": levels} if levels and "takeProfit" in fields else dict(fields)


def _bounds_of(kind: str, bounds: Mapping[str, str]) -> dict[str, str]:
    """The bounds that a message of this kind can have: only entries have a largest size."""
    return {} if kind == "ping" else {k: v for k, v in bounds.items() if k == "symbols" or kind in _ENTRY_KINDS}


def _unbounded(fields: Mapping[str, str]) -> tuple[str, ...]:
    bounded_by = {"symbol": "symbols", "quantity": "maxQuantity"}
    return tuple(name for name, bound in bounded_by.items() if "{{" in fields.get(name, "") and bound not in fields)


def _quantity_fields(kind: str, quantity: str | None, given: Mapping[str, str]) -> dict[str, str]:
    """Quantity and unit. The trader's own size in a strategy's message needs a unit to distinguish it from the strategy's contracts."""
    unit = given.get("quantityType")
    if kind == "position" or (kind == "strategy" and quantity is None):
        return {"quantity": "{{strategy.order.contracts}}"}
    if quantity is None:
        return {"quantity": DEFAULT_QUANTITY} if kind == "indicator" else {}
    if unit is None and kind == "strategy":
        unit = "base"
    return {"quantity": quantity, **({"quantityType": unit} if unit else {})}


def _signed(document: Mapping[str, object], api_secret: str) -> tuple[str, tuple[str, ...]]:
    """Sign a message; return it with the names left free. The signed texts are those that the reader will see."""
    texts = read_message(json.dumps(document).encode()).texts
    free = tuple(name for name, text in texts.items() if "{{" in text and name != "timestamp")
    fixed = {name: text for name, text in texts.items() if name not in free and name != "timestamp"}
    return _one_line({**document, "signature": sign(api_secret, fixed, free)}), free


def _one_line(document: Mapping[str, object]) -> str:
    line = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    # {{plot("Name")}} needs unescaped quotes: TradingView replaces it before the message is parsed as JSON.
    return _PLACEHOLDER.sub(lambda match: match.group().replace('\\"', '"'), line)


def _explain(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, EXPLAINED[name]) for name in names)


def _check_text(name: str, value: str | None) -> None:
    # Quotes and backslashes would survive in JSON but not in Pine or in TradingView's own expansion.
    if value is not None and (not value.strip() or not value.isprintable() or any(c in value for c in "'\\")):
        raise ConfigError(f"{name}: found {show(value)}, expected a printable text without ' and \\", field=name)
    if value is not None and '"' in _PLACEHOLDER.sub("", value):
        raise ConfigError(f'{name}: found {show(value)}, expected a text without "', field=name)


# ------------------------------------------------------------------------------------------------------------------ Pine

_PINE = """\
//@version=6
// Alert messages for kekbridge. Paste these functions into your script, below its //@version line.
// Strategy: pass them as alert_message and write {{{{strategy.order.alert_message}}}} as the alert's message:
//   strategy.entry("Long", strategy.long, qty = 0.01, alert_message = kekOrder("buy", 0.01))
//   strategy.close("Long", alert_message = kekClose())
// Indicator: alert(kekOrder("buy", 0.01), alert.freq_once_per_bar_close)
// The timestamp is that of the call, too old for an order that waits for its price. Use --kind strategy for such orders.
kekOrder(string side, float quantity) =>
    {order}
kekClose() =>
    {close}
"""


def _pine(
    api_key: str,
    api_secret: str,
    symbol: str | None,
    given: Mapping[str, str],
    levels: list[dict[str, str]],
    bounds: Mapping[str, str],
    shape: Profile,
) -> Template:
    """Build two Pine functions that return the messages; their signatures leave the same fields to placeholders."""
    if shape.name != "seed":
        raise ConfigError("the Pine template exists only for kekbridge's own fields; use --profile seed")
    for name, value in given.items():
        if "{{" in value:
            raise ConfigError(
                f"{name}: placeholders do not work inside Pine; put the value into the function instead", field=name
            )
    common = {"symbol": symbol or "{{syminfo.ticker}}"}
    order = {
        "action": "{{side}}",
        **common,
        "quantity": "{{str.tostring(quantity)}}",
        **given,
        "price": "{{str.tostring(close)}}",
        **_bounds_of("pine", bounds),
    }
    sources: list[str] = []
    free: tuple[str, ...] = ()
    for fields in (order, {"action": "close", **common, **_bounds_of("close", bounds)}):
        message, message_free = _signed(
            {"apiKey": api_key, **_with_levels(fields, levels), "timestamp": "{{str.tostring(timenow)}}"}, api_secret
        )
        sources.append(_pine_expression(message))
        free = free or message_free
    text = _PINE.format(order=sources[0], close=sources[1])
    return Template("pine", text, _explain(("apiKey", *order, "timestamp", "signature")), free, _unbounded(order))


def _pine_expression(message: str) -> str:
    """`{"a":"{{x}}"}` -> `'{"a":"' + x + '"}'`."""
    parts: list[str] = []
    end = 0
    for match in _PLACEHOLDER.finditer(message):
        parts += [f"'{message[end : match.start()]}'", match.group()[2:-2]]
        end = match.end()
    return " + ".join([*parts, f"'{message[end:]}'"])
