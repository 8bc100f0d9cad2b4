"""Public stream topics: which exist, and their current data. See docs/internals/orderly.md, section 12.

Knows nothing of connections; streams.py subscribes and sends.
"""

from __future__ import annotations

from kekbridge.paper import stream_messages
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.market_data import KLINE_MS, depth
from kekbridge.paper.models import ZERO
from kekbridge.paper.responses import traded_24h

PRIVATE_TOPICS = frozenset(
    {
        "executionreport",
        "algoexecutionreport",
        "algoexecutionreportv2",
        "position",
        "balance",
        "account",
        "settle",
        "wallet",
        "liquidationsaccount",
        "notifications",
    }
)
LIST_TOPICS = frozenset({"markprices", "indexprices", "bbos", "tickers", "maintenance_status", "announcement"})
# The stream has no yearly candle and spells the monthly one differently from REST.
_KLINE_MS = {name: length for name, length in KLINE_MS.items() if name not in ("1mon", "1y")} | {"1M": KLINE_MS["1mon"]}
_SYMBOL_KINDS = frozenset(
    {
        "markprice",
        "bbo",
        "trade",
        "estfundingrate",
        "ticker",
        "openinterest",
        "orderbook",
        "orderbookupdate",
    }
)
#: Kinds that are pushed every 15 s instead of every second.
SLOW = frozenset({"estfundingrate"})
#: Kinds that are pushed on change only.
ON_CHANGE_ONLY = frozenset({"trade", "maintenance_status", "announcement"})


def subscription_error(exchange: SimulatedExchange, topic: str) -> str | None:
    """Return Orderly's error message if a public topic cannot be subscribed, else None."""
    if topic in LIST_TOPICS:
        return None
    symbol, at, kind = topic.partition("@")
    if not at:
        return f"invalid topic {topic[:80]}"
    listed = symbol
    if kind == "indexprice":
        listed = symbol.replace("SPOT_", "PERP_", 1) if symbol.startswith("SPOT_") else ""
    elif kind not in _SYMBOL_KINDS and kind.removeprefix("kline_") not in _KLINE_MS:
        return f"invalid topic {topic[:80]}"
    if listed not in exchange.state.instruments:
        return f"invalid symbol {symbol[:40]}"
    return None


def snapshot(exchange: SimulatedExchange, topic: str) -> object | None:
    """Return the current data of a topic; None if it has only events."""
    state = exchange.state
    listed = [state.marks[symbol] for symbol in state.instruments]
    match topic:
        case "markprices":
            return [stream_messages.mark_price(mark) for mark in listed]
        case "indexprices":
            return [stream_messages.index_price(mark) for mark in listed]
        case "bbos":
            return [_bbo(exchange, mark.symbol) for mark in listed]
        case "tickers":
            traded = traded_24h(state)
            return [stream_messages.ticker(mark, traded.get(mark.symbol, (ZERO, ZERO))) for mark in listed]
        case "maintenance_status":
            status, text = (2, "System is under maintenance.") if exchange.in_maintenance() else (0, "ok")
            return [{"status": status, "msg": text, "scheduled_maintenance": None}]
    symbol, _, kind = topic.partition("@")
    return _symbol_snapshot(exchange, symbol.replace("SPOT_", "PERP_", 1), kind)


def _symbol_snapshot(exchange: SimulatedExchange, symbol: str, kind: str) -> object | None:
    mark = exchange.state.marks.get(symbol)
    if mark is None:
        return None
    match kind:
        case "markprice":
            return stream_messages.mark_price(mark)
        case "indexprice":
            return stream_messages.index_price(mark)
        case "bbo":
            return _bbo(exchange, symbol)
        case "ticker":
            traded = traded_24h(exchange.state).get(symbol, (ZERO, ZERO))
            return stream_messages.ticker(mark, traded)
        case "estfundingrate":
            return stream_messages.funding(exchange.state, mark)
        case "openinterest":
            held = sum((abs(p.qty) for p in exchange.state.positions.values() if p.symbol == symbol), ZERO)
            return {"symbol": symbol, "openInterest": held}
        case "orderbook":
            return book(exchange, symbol)
        case "orderbookupdate":
            return {**book(exchange, symbol), "prevTs": mark.at}
    length = _KLINE_MS.get(kind.removeprefix("kline_"))
    if length is None:
        return None
    start = exchange.state.clock() // length * length
    return stream_messages.candle(mark, kind.removeprefix("kline_"), start, length)


def _bbo(exchange: SimulatedExchange, symbol: str) -> dict[str, object]:
    asks, bids = depth(exchange.matching, symbol, 1)
    return stream_messages.best_quote(symbol, asks[0][0], bids[0][0], asks[0][1])


def book(exchange: SimulatedExchange, symbol: str) -> dict[str, object]:
    """Return the order book in the shape of the stream."""
    asks, bids = depth(exchange.matching, symbol, 100)
    return {"symbol": symbol, "asks": [list(one) for one in asks], "bids": [list(one) for one in bids]}
