"""Templates: filled as TradingView does, each is read back as the order it describes, in every profile."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest

from kekbridge.alerts.message import fired_at, interpret, read_message
from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, Signal
from kekbridge.alerts.signature import check
from kekbridge.alerts.template import KINDS, PARAMETERS, build, default_bounds, fill, steps
from kekbridge.errors import ConfigError, Refused
from kekbridge.model import OrderType, WebhookSettings

KEY, SECRET = "wh_live_AbCdEfGh0123456789", "whs_0123456789abcdef"
JSON_KINDS = [kind for kind in KINDS if kind != "pine"]

# A strategy's first fill: it opens a long of 0.5.
ENTRY = {
    "ticker": "BTCUSDT.P",
    "exchange": "BYBIT",
    "timenow": "2026-01-15T10:30:03Z",
    "close": "65012.4",
    "strategy.order.action": "buy",
    "strategy.order.contracts": "0.5",
    "strategy.order.price": "65012.400000000001",
    "strategy.market_position": "long",
    "strategy.market_position_size": "0.5",
    "strategy.prev_market_position": "flat",
    "strategy.prev_market_position_size": "0",
    "strategy.position_size": "0.5",
    'plot("Stop")': "64000.5",
}
EXIT = {
    **ENTRY,
    "strategy.order.action": "sell",
    "strategy.market_position": "flat",
    "strategy.market_position_size": "0",
    "strategy.prev_market_position": "long",
    "strategy.prev_market_position_size": "0.5",
}


def read(message: str, profile: str = "seed", follow: str = "signal") -> Signal:
    """Read a filled message and check its signature, as the listener does."""
    read_back = read_message(message.encode())
    assert read_back.api_key == KEY
    assert read_back.signature is not None
    proof = check(SECRET, read_back.signature, read_back.texts, profile)
    assert proof.is_valid, proof.reason
    assert fired_at(read_back, profile) is not None
    (signal,) = interpret(read_back, WebhookSettings(profile=profile, follow=follow)).steps
    return signal


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", JSON_KINDS)
def test_every_kind_in_every_profile_is_read_back(kind: str, profile: str) -> None:
    """A filled template is one line of JSON with a valid signature and the order of its kind."""
    template = build(kind, api_key=KEY, api_secret=SECRET, profile=profile)
    assert "\n" not in template.message
    assert json.loads(template.message)
    signal = read(fill(template.message, ENTRY), profile)
    expected = {"strategy": Action.BUY, "indicator": Action.BUY, "position": Action.BUY}.get(kind)
    assert signal.action is (expected or Action(kind))
    assert signal.symbol == (None if kind == "ping" else "BTCUSDT.P")
    size = {"strategy": Decimal("0.5"), "position": Decimal("0.5"), "indicator": Decimal("0.01")}.get(kind)
    assert (signal.quantity.value if signal.quantity else None) == size


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", ["strategy", "position"])
@pytest.mark.parametrize("follow", ["signal", "position"])
def test_a_strategys_exit_is_an_exit_in_every_profile(kind: str, profile: str, follow: str) -> None:
    """The same message on the strategy's exit is reduce-only with a flat target."""
    template = build(kind, api_key=KEY, api_secret=SECRET, profile=profile)
    signal = read(fill(template.message, EXIT), profile, follow)
    assert signal.reduce_only
    assert signal.target is not None
    assert signal.target.side is PositionSide.FLAT


@pytest.mark.parametrize("name", ["apiKey", "action", "symbol", "quantity", "stopLoss", "orderType", "leverage"])
def test_everything_static_is_signed(name: str) -> None:
    """Changing any fixed value of a message invalidates its signature."""
    template = build(
        "indicator", api_key=KEY, api_secret=SECRET, symbol="BTCUSDT.P", quantity="0.01", stop_loss="2%",
        order_type="market", leverage="5",
    )  # fmt: skip
    message = json.loads(fill(template.message, ENTRY))
    assert name in message
    signature = message["signature"]
    message[name] = {"action": "sell"}.get(name, "7")
    texts = read_message(json.dumps(message).encode()).texts
    assert not check(SECRET, signature, texts).is_valid
    assert name not in template.free


def test_placeholders_are_free_and_quoted() -> None:
    """Every placeholder is quoted (an empty or na value keeps the JSON valid) and, except the timestamp, listed as free."""
    template = build("strategy", api_key=KEY, api_secret=SECRET)
    message = json.loads(template.message)
    placeholders = {name for name, value in message.items() if isinstance(value, str) and value.startswith("{{")}
    assert placeholders == {*template.free, "timestamp"}


def test_own_size_in_a_strategys_message() -> None:
    """A fixed size replaces the strategy's contracts on entries; exits still close the open position."""
    template = build("strategy", api_key=KEY, api_secret=SECRET, quantity="0.02", stop_loss="2%")
    entry = read(fill(template.message, ENTRY))
    assert (entry.quantity, entry.quantity_type) == (Amount(Decimal("0.02")), QuantityType.BASE)
    assert entry.target is None
    assert entry.stop_loss == Amount(Decimal(2), is_percent=True)
    exit_ = read(fill(template.message, EXIT))
    assert exit_.reduce_only
    assert exit_.target is not None
    assert exit_.stop_loss is None


def test_every_option_is_a_field() -> None:
    """Each option of the command becomes one field of the order."""
    template = build(
        "indicator", api_key=KEY, api_secret=SECRET, action="sell", symbol="ETHUSDT.P", quantity="10",
        quantity_type="percent_equity", order_type="stop_limit", limit_price="1790", trigger_price="1795", stop_loss="1900",
        take_profit="4%", trailing_stop="1%", leverage="3", slippage="0.5%", comment="breakout",
    )  # fmt: skip
    signal = read(fill(template.message, ENTRY))
    assert (signal.action, signal.symbol, signal.order_type) == (Action.SELL, "ETHUSDT.P", OrderType.STOP_LIMIT)
    assert (signal.limit_price, signal.trigger_price, signal.leverage) == (Decimal(1790), Decimal(1795), Decimal(3))
    assert (signal.slippage, signal.comment) == (Decimal("0.005"), "breakout")
    assert signal.quantity == Amount(Decimal(10), is_percent=True)
    assert signal.take_profits[0].level == Amount(Decimal(4), is_percent=True)
    assert signal.trailing_stop == Amount(Decimal(1), is_percent=True)


def test_a_plot_by_name_keeps_its_quotes() -> None:
    """TradingView replaces {{plot("Stop")}} before the message is JSON; escaped quotes would not be recognised."""
    template = build("indicator", api_key=KEY, api_secret=SECRET, stop_loss='{{plot("Stop")}}')
    assert '"stopLoss":"{{plot("Stop")}}"' in template.message
    assert "stopLoss" in template.free
    assert read(fill(template.message, ENTRY)).stop_loss == Amount(Decimal("64000.5"))


def test_every_field_is_explained_in_order() -> None:
    """The explanation has the fields of the message."""
    template = build("strategy", api_key=KEY, api_secret=SECRET, stop_loss="2%", leverage="5")
    assert [part for part, _ in template.explanation] == list(json.loads(template.message))
    assert all(text for _, text in template.explanation)


def evaluate_pine(source: str, function: str, values: dict[str, str]) -> str:
    """Evaluate a Pine function that only joins texts: quoted pieces as they are, expressions from `values`."""
    body = source.split(f"\n{function}(", 1)[1].split("=>\n", 1)[1].splitlines()[0].strip()
    pieces = re.findall(r"'([^']*)'|([^'+ ][^'+]*)", body)
    return "".join(values[expression.strip()] if expression.strip() else text for text, expression in pieces)


def test_the_pine_functions_build_the_same_messages() -> None:
    """A message built in Pine has a valid signature and is read like one from the dialog."""
    template = build("pine", api_key=KEY, api_secret=SECRET, stop_loss="2%")
    assert template.message.startswith("//@version=6\n")
    values = {
        "side": "sell",
        "str.tostring(quantity)": "0.02",
        "str.tostring(close)": "65012.4",
        "str.tostring(timenow)": "1768473003000",
        "syminfo.ticker": "BTCUSDT.P",
    }
    order = read(evaluate_pine(template.message, "kekOrder", values))
    assert (order.action, order.quantity) == (Action.SELL, Amount(Decimal("0.02")))
    assert order.stop_loss == Amount(Decimal(2), is_percent=True)
    assert read(evaluate_pine(template.message, "kekClose", values)).action is Action.CLOSE


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"kind": "limit"}, None),
        ({"kind": "indicator", "symbol": "BTC'USDT"}, "symbol"),
        ({"kind": "indicator", "comment": 'say "hi"'}, "comment"),
        ({"kind": "indicator", "comment": "a\nb"}, "comment"),
        ({"kind": "indicator", "comment": "a\\b"}, "comment"),
        ({"kind": "indicator", "quantity": ""}, "quantity"),
        ({"kind": "pine", "stop_loss": "{{plot_0}}"}, "stopLoss"),
        ({"kind": "pine", "profile": "traderspost"}, None),
        ({"kind": "indicator", "comment": "x" * 4000}, None),
        ({"kind": "indicator", "profile": "wundertrading", "stop_loss": "2%"}, "stopLoss"),
    ],
)
def test_values_that_cannot_be_pasted_are_refused(arguments: dict[str, str], field: str | None) -> None:
    """A message that would break in TradingView is not built."""
    with pytest.raises(ConfigError) as caught:
        build(**{"api_key": KEY, "api_secret": SECRET, **arguments})
    assert caught.value.field == field


def test_fill_keeps_unknown_placeholders() -> None:
    """As TradingView does with placeholders that are not available to the alert."""
    assert fill('{"a":"{{ticker}}","b":"{{nonsense}}"}', {"ticker": "X"}) == '{"a":"X","b":"{{nonsense}}"}'


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", [kind for kind in JSON_KINDS if kind != "ping"])
def test_bounds_are_signed_fields_in_every_profile(kind: str, profile: str) -> None:
    """`symbols` and, for entries, `maxQuantity` are read back from every message, and changing one of them invalidates the signature."""
    template = build(
        kind, api_key=KEY, api_secret=SECRET, profile=profile, symbols="BTCUSDT.P,ETHUSDT.P", max_quantity="0.5"
    )
    signal = read(fill(template.message, ENTRY), profile)
    assert signal.symbols == ("BTCUSDT.P", "ETHUSDT.P")
    assert signal.max_quantity == (None if kind == "close" else Decimal("0.5"))
    assert template.unbounded == ()
    assert template.warning is None
    message = json.loads(fill(template.message, ENTRY))
    for name in {"symbols", "maxQuantity"} & message.keys():
        for changed in ({**message, name: "7"}, {key: value for key, value in message.items() if key != name}):
            texts = read_message(json.dumps(changed).encode()).texts
            assert not check(SECRET, message["signature"], texts).is_valid


@pytest.mark.parametrize(
    ("kind", "given", "unbounded"),
    [
        ("strategy", {}, ("symbol", "quantity")),
        ("strategy", {"symbol": "BTCUSDT.P"}, ("quantity",)),
        ("strategy", {"symbols": "BTCUSDT.P"}, ("quantity",)),
        ("strategy", {"quantity": "0.01", "max_quantity": "0.02"}, ("symbol",)),
        ("position", {"max_quantity": "1"}, ("symbol",)),
        ("indicator", {"symbol": "BTCUSDT.P"}, ()),
        ("close", {}, ("symbol",)),
        ("pine", {}, ("symbol", "quantity")),
        ("ping", {}, ()),
    ],
)
def test_placeholders_without_a_bound_are_named(kind: str, given: dict[str, str], unbounded: tuple[str, ...]) -> None:
    """The warning names symbol and quantity exactly where a copy of the message could choose them; the risk is said in one line."""
    template = build(kind, api_key=KEY, api_secret=SECRET, **given)
    assert template.unbounded == unbounded
    assert (template.warning or "").startswith(" and ".join(unbounded))
    assert "\n" not in template.risk
    assert ("any symbol" in template.risk) == ("symbol" in unbounded)


def test_the_webhooks_limits_are_the_default_bounds() -> None:
    """What a message leaves to placeholders is bounded by the webhook's allowed symbols and largest order; fixed values need no bound."""
    bounds = default_bounds(("PERP_BTC_USDC", "PERP_ETH_USDC"), Decimal("0.5"), symbol=None, quantity="{{plot_0}}")
    assert bounds == {"symbols": "PERP_BTC_USDC,PERP_ETH_USDC", "max_quantity": "0.5"}
    assert default_bounds(("PERP_BTC_USDC",), Decimal("0.5"), symbol="BTCUSDT.P", quantity="0.1") == {}
    assert default_bounds(None, None, symbol=None, quantity=None) == {}


@pytest.mark.parametrize("value", ["0", "-1", "many", True])
def test_a_size_bound_that_is_no_size_is_refused(value: object) -> None:
    """A bound that cannot be read is never dropped."""
    plain = {"apiKey": KEY, "action": "buy", "symbol": "BTC", "quantity": 1}
    with pytest.raises(Refused) as refused:
        interpret(read_message(json.dumps(plain | {"maxQuantity": value}).encode()), WebhookSettings())
    assert (refused.value.code, refused.value.field) == ("field_invalid", "maxQuantity")


@pytest.mark.parametrize("value", [",", ["BTC", None], [["BTC"]], {"BTC": 1}, "x" * 65, ",".join(["BTC"] * 51)])
def test_a_symbol_bound_that_is_no_list_is_refused(value: object) -> None:
    """A bound that cannot be read is never dropped."""
    plain = {"apiKey": KEY, "action": "buy", "symbol": "BTC", "quantity": 1}
    with pytest.raises(Refused) as refused:
        interpret(read_message(json.dumps(plain | {"symbols": value}).encode()), WebhookSettings())
    assert (refused.value.code, refused.value.field) == ("field_invalid", "symbols")


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("4%", [("4", True, None)]),
        ("68000", [("68000", False, None)]),
        ("2%:50%, 4%:25", [("2", True, "50"), ("4", True, "25")]),
        ("66000:40,68000:60", [("66000", False, "40"), ("68000", False, "60")]),
        ("{{close}}:50%", [("65012.4", False, "50")]),
    ],
)
def test_take_profits_with_shares(text: str, levels: list[tuple[str, bool, str | None]]) -> None:
    """One level, or several with the share of the entry that each closes; a placeholder may be a level."""
    built = build("indicator", api_key=KEY, api_secret=SECRET, take_profit=text)
    signal = read(fill(built.message, ENTRY))
    found = [(each.level, each.share) for each in signal.take_profits]
    assert found == [
        (Amount(Decimal(level), is_percent=is_percent), share and Decimal(share)) for level, is_percent, share in levels
    ]


@pytest.mark.parametrize("text", ["68,000", "2%:50%, 4%", "2%:", "a:5", "2%:50%,"])
def test_several_levels_without_shares_are_refused(text: str) -> None:
    """A thousands separator is not read as two levels, and no share is guessed."""
    with pytest.raises(ConfigError, match="takeProfit: found") as caught:
        build("indicator", api_key=KEY, api_secret=SECRET, take_profit=text)
    assert caught.value.field == "takeProfit"


def test_a_service_without_a_list_of_levels_refuses_one() -> None:
    """TradersPost's takeProfit is one level; a list in its place would be read as none."""
    assert build("indicator", api_key=KEY, api_secret=SECRET, take_profit="2%", profile="traderspost")
    with pytest.raises(ConfigError, match="found 2 levels"):
        build("indicator", api_key=KEY, api_secret=SECRET, take_profit="2%:50%,4%:50%", profile="traderspost")


_EXAMPLES = {
    "action": "sell", "symbol": "ETHUSDT.P", "quantity": "0.5", "quantity_type": "usd", "order_type": "limit", "limit_price": "3000",
    "trigger_price": "2900", "stop_loss": "2%", "take_profit": "4%", "trailing_stop": "1%", "leverage": "3", "slippage": "1%",
    "comment": "grid", "symbols": "ETHUSDT.P", "max_quantity": "2",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_takes_its_parameters_and_no_others(kind: str) -> None:
    """What the builder offers for a kind changes its message; what it does not offer would change nothing."""
    bare = build(kind, api_key=KEY, api_secret=SECRET)
    for name, value in _EXAMPLES.items():
        options: dict[str, str] = {name: value}
        if name == "quantity_type" and kind != "pine":
            bare_now = build(kind, api_key=KEY, api_secret=SECRET, quantity="1")
            options["quantity"] = "1"
        else:
            bare_now = bare
        changed = build(kind, api_key=KEY, api_secret=SECRET, **options)
        assert (changed.message != bare_now.message) is (name in PARAMETERS[kind]), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_end_at_the_url(kind: str) -> None:
    """Three lines; a local address is not one that TradingView reaches."""
    local, public = steps(kind, "http://127.0.0.1:8080/x"), steps(kind, "https://example.com/x")
    assert len(local) == len(public) == 3
    assert ("public-address" in local[2], "public-address" in public[2]) == (True, False)
