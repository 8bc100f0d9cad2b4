"""Market data of the paper exchange: order book around the mark price, candles, funding history.

There is no price history: every candle is flat at the current mark price.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kekbridge.paper import responses
from kekbridge.paper.codec import ApiError, parse_integer
from kekbridge.paper.matching import MatchingEngine
from kekbridge.paper.models import PaperMark
from kekbridge.paper.state import ExchangeState

_MINUTE = 60_000
#: Length in ms of each candle type of the REST API.
KLINE_MS = {
    "1m": _MINUTE,
    "5m": 5 * _MINUTE,
    "15m": 15 * _MINUTE,
    "30m": 30 * _MINUTE,
    "1h": 60 * _MINUTE,
    "4h": 240 * _MINUTE,
    "12h": 720 * _MINUTE,
    "1d": 1440 * _MINUTE,
    "1w": 7 * 1440 * _MINUTE,
    "1mon": 30 * 1440 * _MINUTE,
    "1y": 365 * 1440 * _MINUTE,
}
#: TradingView resolution -> candle type.
_UDF = {
    "1": "1m",
    "5": "5m",
    "15": "15m",
    "30": "30m",
    "60": "1h",
    "240": "4h",
    "720": "12h",
    "D": "1d",
    "1D": "1d",
    "W": "1w",
    "1W": "1w",
    "M": "1mon",
    "1M": "1mon",
}
#: Order book: levels per side, and the size of each in USDC.
_LEVELS = 20
_LEVEL_USDC = Decimal(50_000)


def depth(
    matching: MatchingEngine, symbol: str, levels: int
) -> tuple[list[tuple[Decimal, Decimal]], list[tuple[Decimal, Decimal]]]:
    """Return (asks ascending, bids descending), each a list of (price in USDC, quantity in base units)."""
    state = matching.state
    instrument, mark = state.instruments[symbol], state.marks[symbol].price
    steps = max((_LEVEL_USDC / mark / instrument.base_tick).to_integral_value(), Decimal(1))
    quantity = steps * instrument.base_tick
    asks: list[tuple[Decimal, Decimal]] = []
    bids: list[tuple[Decimal, Decimal]] = []
    for level in range(max(1, min(levels, _LEVELS))):
        ask, bid = matching.quote(symbol, level)
        asks.append((ask, quantity))
        if not bids or bid < bids[-1][0]:
            bids.append((bid, quantity))
    return asks, bids


def klines(state: ExchangeState, symbol: str, kind: str, limit: int) -> list[dict[str, object]]:
    """Return the last `limit` candles, newest first; ApiError -1005 for an unknown type."""
    length = KLINE_MS.get(kind)
    if length is None:
        raise ApiError(-1005, f"type is {kind[:20]!r}; expected one of {', '.join(KLINE_MS)}.")
    price = state.marks[symbol].price
    last = state.clock() // length * length
    return [
        {
            "open": price,
            "close": price,
            "low": price,
            "high": price,
            "volume": 0,
            "amount": 0,
            "symbol": symbol,
            "type": kind,
            "start_timestamp": last - index * length,
            "end_timestamp": last - index * length + length,
        }
        for index in range(limit)
    ]


def udf_history(state: ExchangeState, query: Mapping[str, str], *, amounts: bool) -> dict[str, object]:
    """Return candles in TradingView's UDF format, with times in seconds; `amounts` adds the volume in USDC."""
    symbol = query.get("symbol", "")
    state.instrument(symbol)
    kind = _UDF.get(query.get("resolution", ""))
    if kind is None:
        return {"s": "error", "errmsg": "unknown resolution"}
    length = KLINE_MS[kind]
    end = (parse_integer(query.get("to"), "to") or state.clock() // 1000) * 1000
    start = parse_integer(query.get("from"), "from")
    count = parse_integer(query.get("limit"), "limit") or 1000
    if start is not None:
        count = min(count, max((end - start * 1000) // length, 0) + 1)
    last = min(end, state.clock()) // length * length
    times = [(last - index * length) // 1000 for index in range(min(count, 1000))][::-1]
    flat = [state.marks[symbol].price] * len(times)
    zeros = [0] * len(times)
    answer: dict[str, object] = {"s": "ok", "t": times, "o": flat, "h": flat, "l": flat, "c": flat, "v": zeros}
    return answer | {"a": zeros} if amounts else answer


def funding_history(state: ExchangeState, mark: PaperMark) -> list[dict[str, Any]]:
    """Return past funding rates: only the last one is known."""
    if not mark.last_funding_at:
        return []
    row: dict[str, Any] = {
        "symbol": mark.symbol,
        "funding_rate": mark.last_rate,
        "funding_rate_timestamp": mark.last_funding_at,
        "next_funding_time": responses.next_funding(state, mark.symbol),
    }
    return [row]
