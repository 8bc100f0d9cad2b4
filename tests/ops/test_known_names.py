"""Words of filters are those that are stored."""

from __future__ import annotations

import pytest

from kekbridge.codes import CODES
from kekbridge.errors import ConfigError, NotFound
from kekbridge.ops import known_names


def test_words_of_filters_are_those_that_are_stored() -> None:
    """Every published code and status passes its own filter; an unknown word names the nearest one."""
    assert all(known_names.code(code) == code for code in CODES)
    assert known_names.code("orderly:-1102") == "orderly:-1102"
    assert all(known_names.alert_status(status) == status for status in known_names.alert_statuses())
    with pytest.raises(ConfigError, match=r"status: there is no status 'fild'; did you mean filled\?"):
        known_names.order_status("fild", "status")


MARKETS = frozenset({"PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_XAU_USDC", "PERP_1000PEPE_USDC", "PERP_FET_USDC"})


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        (" btc ", "PERP_BTC_USDC"),
        ("PERP_BTC_USDC", "PERP_BTC_USDC"),
        ("BTCUSDT.P", "PERP_BTC_USDC"),
        ("BYBIT:BTCUSDT.P", "PERP_BTC_USDC"),
        ("btcusd", "PERP_BTC_USDC"),
        ("ETH/USDT", "PERP_ETH_USDC"),
        ("PEPEUSDT.P", "PERP_1000PEPE_USDC"),
        ("xau", "PERP_XAU_USDC"),  # an alert would have to name its chart's exchange
    ],
)
def test_markets_are_named_as_in_alerts(text: str, symbol: str) -> None:
    """In an emergency the chart's ticker works, in capitals or not."""
    assert known_names.find_market(text, MARKETS).symbol == symbol


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("eht", NotFound, r"--x: there is no market EHT; did you mean ETH\?"),
        ("EHTUSDT.P", NotFound, r"--x: there is no market EHTUSDT\.P; did you mean PERP_ETH_USDC"),
        ("AAPL", NotFound, "--x: there is no market AAPL; the exchange's website lists its markets"),
        ("BTC1!", ConfigError, r"--x: 'BTC1!' is a continuous future .*; write the base \(BTC\)"),
        ("", ConfigError, r"--x: found '', expected a plain ticker .*; write the base \(BTC\)"),
    ],
)
def test_a_market_that_does_not_exist(text: str, error: type[Exception], message: str) -> None:
    """One line with the nearest market, or with what to write."""
    with pytest.raises(error, match=message):
        known_names.find_market(text, MARKETS, "--x")
