"""Resolving tickers: the table of docs/internals/tradingview.md section 6 row by row, aliases, units; nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.symbols import SymbolMatch, is_same_market, resolve
from kekbridge.errors import Refused

BASES = "BTC ETH SOL BNB DOT 1000PEPE 1000SHIB 1000BONK 1000000MOG SPX W XAU EURUSD TSLA ADA DOGE KAS ARB OP AVAX"
LISTED = frozenset({f"PERP_{base}_USDC" for base in BASES.split()} | {"PERP_AAPL_USDC_mythos"})


def match(
    text: str, exchange: str | None = None, aliases: Mapping[str, str] | None = None, *, rescale_units: bool = False
) -> SymbolMatch:
    return resolve(text, exchange=exchange, listed=LISTED, aliases=aliases or {}, rescale_units=rescale_units)


def refusal(text: str, exchange: str | None = None, aliases: Mapping[str, str] | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        match(text, exchange, aliases)
    assert caught.value.field == "symbol"
    return caught.value


def test_a_ticker_is_looked_up_again_in_other_markets() -> None:
    """A match is remembered for one list of markets and one choice of units: never used for a market that is no longer listed."""
    both, one = frozenset({"PERP_BTC_USDC", "PERP_1000PEPE_USDC"}), frozenset({"PERP_1000PEPE_USDC"})

    def found(text: str, listed: frozenset[str], *, rescale_units: bool = False) -> str:
        try:
            return resolve(text, exchange=None, listed=listed, aliases={}, rescale_units=rescale_units).symbol
        except Refused as refused:
            return refused.code

    for listed, expected in ((both, "PERP_BTC_USDC"), (one, "symbol_unknown"), (both, "PERP_BTC_USDC")):
        assert [found("BTCUSDT.P", listed), found("BTCUSDT.P", listed)] == [expected, expected]
    assert found("PEPEUSDT.P", one, rescale_units=True) == "PERP_1000PEPE_USDC"
    assert found("PEPEUSDT.P", one) == "symbol_unit_mismatch"
    assert resolve("BTC", exchange=None, listed=both, aliases={"BTC": "1000PEPE"}, rescale_units=False).symbol in one


ACCEPTED = [
    (1, "BTCUSDT.P", None, "PERP_BTC_USDC"),
    (2, "ETHUSDC.P", None, "PERP_ETH_USDC"),
    (3, "BYBIT:SOLUSDT.P", None, "PERP_SOL_USDC"),
    (4, "BTCUSDTPERP", None, "PERP_BTC_USDC"),
    (4, "BTCUSDT.PERP", None, "PERP_BTC_USDC"),
    (4, "btcusdc.perp", "BYBIT", "PERP_BTC_USDC"),
    (4, "BTC.PERP", None, "PERP_BTC_USDC"),
    (5, "BTCPERP", None, "PERP_BTC_USDC"),
    (6, "XBTUSD", None, "PERP_BTC_USDC"),
    (6, "XBTUSD.P", None, "PERP_BTC_USDC"),
    (7, "BTCUSD.P", None, "PERP_BTC_USDC"),
    (8, "BTCUSD.PM", None, "PERP_BTC_USDC"),
    (9, "BTCUSDT", "BINANCE", "PERP_BTC_USDC"),
    (10, "BTCUSD", "COINBASE", "PERP_BTC_USDC"),
    (11, "1000PEPEUSDT.P", None, "PERP_1000PEPE_USDC"),
    (13, "KPEPEUSDC.P", None, "PERP_1000PEPE_USDC"),
    (14, "SHIB1000USDT.P", None, "PERP_1000SHIB_USDC"),
    (15, "SOL", None, "PERP_SOL_USDC"),
    (15, "SOL", "BINANCE", "PERP_SOL_USDC"),
    (16, "SOLUSDT", None, "PERP_SOL_USDC"),
    (17, "ETH/USDT:USDT", None, "PERP_ETH_USDC"),
    (18, "ETH-USDT-SWAP", None, "PERP_ETH_USDC"),
    (19, "BTC-USD-PERP", None, "PERP_BTC_USDC"),
    (19, "ETH-PERP", None, "PERP_ETH_USDC"),
    (20, "PERP_ETH_USDC", None, "PERP_ETH_USDC"),
    (21, "PERP_AAPL_USDC_mythos", None, "PERP_AAPL_USDC_mythos"),
    (22, "perp_eth_usdc", None, "PERP_ETH_USDC"),
    (23, "DOTUSD", None, "PERP_DOT_USDC"),
    (24, "BNBUSD", None, "PERP_BNB_USDC"),
    (39, "SPXUSDT.P", None, "PERP_SPX_USDC"),
    (47, "BTCUSDT.P ", None, "PERP_BTC_USDC"),
    (47, "\tbtcusdt.p\r\n", None, "PERP_BTC_USDC"),
]

REFUSED = [
    (12, "PEPEUSDT", None, "symbol_unit_mismatch"),
    (12, "PEPEUSDT.P", None, "symbol_unit_mismatch"),
    (15, "SOL", "NYSE", "symbol_exchange_refused"),
    (15, "SOL", "SOMEWHERE", "symbol_exchange_refused"),
    (25, "USDCUSDT", None, "symbol_unknown"),
    (26, "ETHBTC", None, "symbol_unknown"),
    (27, "BTCEUR", None, "symbol_unknown"),
    (27, "BTCKRW", None, "symbol_unknown"),
    (28, "BTCUSDT_240628", None, "symbol_not_tradable"),
    (29, "BTC-USDT-251226", None, "symbol_not_tradable"),
    (29, "BTCUSD_251226", None, "symbol_not_tradable"),
    (29, "BTC-27JUN25", None, "symbol_not_tradable"),
    (30, "BTC1!", None, "symbol_not_tradable"),
    (30, "MBT1!", None, "symbol_not_tradable"),
    (31, "BTCH2026", None, "symbol_not_tradable"),
    (31, "MNQU2025", None, "symbol_not_tradable"),
    (31, "BTCZ25", None, "symbol_not_tradable"),
    (32, "BTC-260327-100000-C", None, "symbol_not_tradable"),
    (33, "BTC.D", None, "symbol_not_tradable"),
    (33, "USDT.D", None, "symbol_not_tradable"),
    (34, "TOTAL", None, "symbol_not_tradable"),
    (34, "TOTAL2", None, "symbol_not_tradable"),
    (34, "TOTAL3", None, "symbol_not_tradable"),
    (34, "OTHERS", None, "symbol_not_tradable"),
    (35, "BTCUSDT.P_OI", None, "symbol_not_tradable"),
    (35, "BTCUSDT.P_FR", None, "symbol_not_tradable"),
    (35, "BTCUSDT_PREMIUM", None, "symbol_not_tradable"),
    (36, "BTCUSDLONGS", None, "symbol_not_tradable"),
    (36, "BTCUSDSHORTS", None, "symbol_not_tradable"),
    (37, "BTCUSDT/ETHUSDT", None, "symbol_not_tradable"),
    (37, "1/BTCUSDT", None, "symbol_not_tradable"),
    (38, "SPX", "SP", "symbol_exchange_refused"),
    (38, "SPX", "TVC", "symbol_exchange_refused"),
    (38, "SPX", None, "symbol_exchange_refused"),
    (40, "W", "NYSE", "symbol_exchange_refused"),
    (41, "XAUUSD", "OANDA", "symbol_exchange_refused"),
    (41, "XAUUSD", None, "symbol_exchange_refused"),
    (42, "EURUSD", None, "symbol_exchange_refused"),
    (42, "EURUSD.P", None, "symbol_exchange_refused"),
    (43, "BTC3LUSDT", None, "symbol_unknown"),
    (43, "BTCUPUSDT", None, "symbol_unknown"),
    (44, "BTCUSDT.P.P", None, "symbol_unknown"),
    (44, "BTCUSDTT", None, "symbol_unknown"),
    (44, "BTCUSD T", None, "symbol_invalid"),
    (45, "USDT", None, "symbol_unknown"),
    (45, "USDC", None, "symbol_unknown"),
    (45, "USD", None, "symbol_unknown"),
    (45, ".P", None, "symbol_unknown"),
    (45, "", None, "symbol_invalid"),
    (46, "{{ticker}}", None, "placeholder_unexpanded"),
]


def test_every_row_of_the_table_is_tested() -> None:
    """Each of the 47 rows occurs in at least one form."""
    assert {row for row, *_ in ACCEPTED} | {row for row, *_ in REFUSED} == set(range(1, 48))


@pytest.mark.parametrize(("row", "text", "exchange", "symbol"), ACCEPTED)
def test_accepted_tickers(row: int, text: str, exchange: str | None, symbol: str) -> None:
    """docs/internals/tradingview.md section 6: accepted tickers with their markets, in single units."""
    found = match(text, exchange)
    assert (found.symbol, found.unit_factor) == (symbol, Decimal(1)), f"row {row}"


@pytest.mark.parametrize(("row", "text", "exchange", "code"), REFUSED)
def test_refused_tickers(row: int, text: str, exchange: str | None, code: str) -> None:
    """docs/internals/tradingview.md section 6: refused with the code of the reason."""
    assert refusal(text, exchange).code == code, f"row {row}"


@pytest.mark.parametrize("exchange", ["BINANCE_DLY", "NYMEX_DL"])
@pytest.mark.parametrize("text", ["BTCUSDT.P", "PERP_BTC_USDC"])
def test_delayed_data_is_refused(text: str, exchange: str) -> None:
    """Delayed data makes every signal late; the venue may be in the prefix or in the field."""
    assert refusal(text, exchange).code == "delayed_data"
    assert refusal(f"{exchange}:{text}").code == "delayed_data"


@pytest.mark.parametrize("text", ["BTCUSDT", "BTCUSD", "SOLUSDT", "BNBUSD"])
def test_spot_tickers_warn(text: str) -> None:
    """A spot chart is accepted with a warning about the basis."""
    assert "basis" in match(text).warnings[0]


@pytest.mark.parametrize("text", ["BTCUSDT.P", "PERP_BTC_USDC", "SOL", "ETH-USDT-SWAP", "BTC-USD-PERP"])
def test_perpetuals_do_not_warn(text: str) -> None:
    """Usual tickers have no warning, so that warnings stay noticeable."""
    assert match(text).warnings == ()


@pytest.mark.parametrize(
    "text",
    ["XBTUSD", "XBTUSD.P", "BTCUSD.P", "BTCUSDPERP", "BTCUSD_PERP", "BTC-USD-SWAP", "BTC-PERPETUAL", "BYBIT:BTCUSD.P"],
)
def test_inverse_contracts_are_marked(text: str) -> None:
    """Their quantity counts USD: planning accepts only explicit USD or percent sizes (rows 6 and 7)."""
    assert match(text).is_inverse


@pytest.mark.parametrize(
    "text", ["BTCUSDT.P", "BTCUSD", "BTCUSD.PM", "BTC-USD-PERP", "BTCPERP", "SOL_USDC-PERPETUAL", "ETHUSDC.P"]
)
def test_linear_contracts_are_not_marked_inverse(text: str) -> None:
    """Coin sizes are accepted without a quantityType."""
    assert not match(text).is_inverse


@pytest.mark.parametrize(
    ("text", "symbol", "factor"),
    [
        ("PEPEUSDT.P", "PERP_1000PEPE_USDC", "1000"),
        ("SHIBUSDT", "PERP_1000SHIB_USDC", "1000"),
        ("MOGUSDT.P", "PERP_1000000MOG_USDC", "1000000"),
        ("1000MOGUSDT.P", "PERP_1000000MOG_USDC", "1000"),
        ("10000PEPEUSDT.P", "PERP_1000PEPE_USDC", "0.1"),
        ("1000PEPEUSDT.P", "PERP_1000PEPE_USDC", "1"),
        ("KBONKUSDC.P", "PERP_1000BONK_USDC", "1"),
    ],
)
def test_units_are_rescaled_only_if_allowed(text: str, symbol: str, factor: str) -> None:
    """The factor is the ticker's units per unit of the market; unless rescaling is allowed it must be one."""
    found = match(text, rescale_units=True)
    assert (found.symbol, found.unit_factor) == (symbol, Decimal(factor))
    if found.unit_factor == 1:
        assert match(text) == found
    else:
        assert any("rescaled" in warning for warning in found.warnings)
        assert refusal(text).code == "symbol_unit_mismatch"


def test_a_k_that_is_part_of_the_name() -> None:
    """KAS is a coin; only Hyperliquid's known thousands lose their k."""
    assert match("KASUSDT.P").symbol == "PERP_KAS_USDC"


@pytest.mark.parametrize("key", ["XAUUSD", "OANDA:XAUUSD", "xauusd"])
@pytest.mark.parametrize("target", ["PERP_XAU_USDC", "XAU", "xau"])
def test_the_owners_alias_overrules_the_venue(key: str, target: str) -> None:
    """Rows 41 and 42: a ticker refused as ambiguous is accepted with an alias."""
    assert match("XAUUSD", "OANDA", {key: target}).symbol == "PERP_XAU_USDC"
    assert match("OANDA:XAUUSD", None, {key: target}).symbol == "PERP_XAU_USDC"


def test_an_alias_of_a_base() -> None:
    """An alias of a base applies to every spelling of that base."""
    assert match("BITCOINUSDT.P", None, {"BITCOIN": "BTC"}).symbol == "PERP_BTC_USDC"


def test_an_alias_does_not_change_units() -> None:
    """An alias from PEPE to 1000PEPE would otherwise make an order a thousand times too large."""
    assert refusal("PEPEUSDT", None, {"PEPEUSDT": "PERP_1000PEPE_USDC"}).code == "symbol_unit_mismatch"
    found = match("PEPEUSDT", None, {"PEPE": "1000PEPE"}, rescale_units=True)
    assert found.unit_factor == 1000


def test_an_alias_to_an_unlisted_market_is_refused() -> None:
    """The refusal names the alias."""
    assert "alias" in refusal("BTCUSDT.P", None, {"BTCUSDT.P": "PERP_BTCC_USDC"}).message


def test_two_markets_for_one_ticker_are_ambiguous() -> None:
    """Exactly one candidate must be listed (step 8)."""
    listed = {"PERP_X_USDC", "PERP_XUSD_USDC"}
    with pytest.raises(Refused) as caught:
        resolve("XUSD", exchange=None, listed=listed, aliases={}, rescale_units=False)
    assert caught.value.code == "symbol_ambiguous"


@pytest.mark.parametrize(("text", "suggestion"), [("BTTCUSDT.P", "PERP_BTC_USDC"), ("AVXUSDT.P", "PERP_AVAX_USDC")])
def test_unknown_symbols_come_with_suggestions(text: str, suggestion: str) -> None:
    """A typing error is refused with a suggestion."""
    assert f"did you mean {suggestion}" in refusal(text).message


@pytest.mark.parametrize(
    "text", ["BTCUſDT", "ＢＴＣUSDT", "BTC\u200bUSDT", "BTCUSDT\x00", "ı" * 5, "B" * 41, "BTC USDT"]
)
def test_only_plain_ascii_is_a_ticker(text: str) -> None:
    """Upper-casing maps some Unicode letters to ASCII: U+017F would become an S."""
    assert refusal(text).code == "symbol_invalid"


def test_a_venue_in_both_places_is_checked_in_both() -> None:
    """The prefix does not hide the field, nor the field the prefix."""
    assert refusal("NYSE:W", "BINANCE").code == "symbol_exchange_refused"
    assert refusal("BINANCE:WUSDT", "NYSE").code == "symbol_exchange_refused"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("BTCUSDT.P", "PERP_BTC_USDC", True),
        ("BYBIT:BTCUSDT.P", "BTC", True),
        ("XBTUSD", "BTCUSDT.P", True),
        ("KPEPEUSDC.P", "PERP_1000PEPE_USDC", True),
        ("PEPEUSDT", "PERP_1000PEPE_USDC", False),
        ("ETHUSDT.P", "PERP_BTC_USDC", False),
        ("", "PERP_BTC_USDC", False),
    ],
)
def test_spellings_of_one_market(one: str, other: str, same: bool) -> None:
    """A locked symbol accepts other spellings of the same market, and no other market."""
    assert is_same_market(one, other) is same


@given(st.text(max_size=60) | st.from_regex(r"[A-Z0-9._:/!-]{0,42}", fullmatch=True), st.none() | st.text(max_size=12))
def test_any_text_is_a_listed_market_or_a_refusal(text: str, exchange: str | None) -> None:
    """No input raises another exception, and an accepted ticker is listed and has a plausible base."""
    try:
        found = resolve(text, exchange=exchange, listed=LISTED, aliases={"AB": "BTC"}, rescale_units=True)
    except Refused:
        return
    assert found.symbol in LISTED
    assert found.unit_factor > 0


@given(
    st.sampled_from(sorted(LISTED)), st.sampled_from(["USDT.P", "USDC.P", "USDT", "-USDT-SWAP", "PERP", "/USDT:USDT"])
)
def test_every_listed_crypto_market_is_reached_by_its_tickers(symbol: str, ending: str) -> None:
    """The usual spellings of a listed base give that market or a refusal, never another market."""
    base = symbol.split("_")[1]
    try:
        found: str | None = match(base + ending).symbol
    except Refused:
        found = None
    may_be_refused = base in ("AAPL", "EURUSD", "SPX", "XAU", "TSLA")
    assert found == symbol or (may_be_refused and found is None)
