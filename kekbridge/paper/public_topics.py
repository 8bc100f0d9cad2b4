"""What a public topic says right now: names to data (orderly-api.md section 12). No connections here."""

from __future__ import annotations

from kekbridge.paper import stream_messages as reports
from kekbridge.paper.exchange import Venue
from kekbridge.paper.market_data import depth
from kekbridge.paper.models import ZERO
from kekbridge.paper.responses import traded_24h

PRIVATE = frozenset(
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
LISTS = frozenset({"markprices", "indexprices", "bbos", "tickers", "maintenance_status", "announcement"})
_KLINE_MS = {
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "12h": 43_200_000,
    "1d": 86_400_000,
    "1w": 604_800_000,
    "1M": 2_592_000_000,
}
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
SLOW = frozenset({"estfundingrate"})
"""Kinds that are pushed every 15 s instead of every second."""
QUIET = frozenset({"trade", "maintenance_status", "announcement"})
"""Kinds that are pushed on change only."""


def problem(venue: Venue, topic: str) -> str | None:
    """Why a public topic cannot be subscribed, in the words of the exchange; None when it can."""
    if topic in LISTS:
        return None
    symbol, at, kind = topic.partition("@")
    if not at:
        return f"invalid topic {topic[:80]}"
    listed = symbol
    if kind == "indexprice":
        listed = symbol.replace("SPOT_", "PERP_", 1) if symbol.startswith("SPOT_") else ""
    elif kind not in _SYMBOL_KINDS and kind.removeprefix("kline_") not in _KLINE_MS:
        return f"invalid topic {topic[:80]}"
    if listed not in venue.engine.instruments:
        return f"invalid symbol {symbol[:40]}"
    return None


def current(venue: Venue, topic: str) -> object | None:
    """The data of a topic now; None when it has nothing to say by itself."""
    engine = venue.engine
    listed = [engine.marks[symbol] for symbol in engine.instruments]
    match topic:
        case "markprices":
            return [reports.mark_price(mark) for mark in listed]
        case "indexprices":
            return [reports.index_price(mark) for mark in listed]
        case "bbos":
            return [_bbo(venue, mark.symbol) for mark in listed]
        case "tickers":
            traded = traded_24h(engine)
            return [reports.ticker(mark, traded.get(mark.symbol, (ZERO, ZERO)), 0) for mark in listed]
        case "maintenance_status":
            status, text = (2, "System is under maintenance.") if venue.maintenance() else (0, "ok")
            return [{"status": status, "msg": text, "scheduled_maintenance": None}]
    symbol, _, kind = topic.partition("@")
    return _of_symbol(venue, symbol.replace("SPOT_", "PERP_", 1), kind)


def _of_symbol(venue: Venue, symbol: str, kind: str) -> object | None:
    mark = venue.engine.marks.get(symbol)
    if mark is None:
        return None
    match kind:
        case "markprice":
            return reports.mark_price(mark)
        case "indexprice":
            return reports.index_price(mark)
        case "bbo":
            return _bbo(venue, symbol)
        case "ticker":
            traded = traded_24h(venue.engine).get(symbol, (ZERO, ZERO))
            return reports.ticker(mark, traded, 0)
        case "estfundingrate":
            return reports.funding(venue.engine, mark)
        case "openinterest":
            held = sum((abs(p.qty) for p in venue.engine.positions.values() if p.symbol == symbol), ZERO)
            return {"symbol": symbol, "openInterest": held}
        case "orderbook":
            return book(venue, symbol)
        case "orderbookupdate":
            return {**book(venue, symbol), "prevTs": mark.at}
    length = _KLINE_MS.get(kind.removeprefix("kline_"))
    if length is None:
        return None
    start = venue.engine.clock() // length * length
    return reports.candle(mark, kind.removeprefix("kline_"), start, length)


def _bbo(venue: Venue, symbol: str) -> dict[str, object]:
    asks, bids = depth(venue.trading, symbol, 1)
    return reports.best_quote(symbol, asks[0][0], bids[0][0], asks[0][1])


def book(venue: Venue, symbol: str) -> dict[str, object]:
    """The order book as the stream shows it."""
    asks, bids = depth(venue.trading, symbol, 100)
    return {"symbol": symbol, "asks": [list(one) for one in asks], "bids": [list(one) for one in bids]}
