"""Endpoints of statistics: traded volume, fees and PnL of the account's own trades."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from kekbridge.paper import money, responses
from kekbridge.paper.api import ApiRoute, Call
from kekbridge.paper.codec import ApiError
from kekbridge.paper.models import ZERO
from kekbridge.paper.rate_limits import TEN_PER_MINUTE
from kekbridge.paper.state import ExchangeState
from kekbridge.paper.traded import Traded

_DAYS_MS = 86_400_000


def _traded(state: ExchangeState, since: int) -> tuple[Decimal, Decimal]:
    """Return (volume, fees) in USDC of the account's trades since a time in ms."""
    traded = sum((each.since(since) for each in state.traded.values()), Traded())
    return traded.amount, traded.fees


def _year_start(now: int) -> int:
    year = datetime.fromtimestamp(now / 1000, UTC).year
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1000


def statistics(call: Call) -> object:
    state, now = call.exchange.state, call.now
    month, fees = _traded(state, now - 30 * _DAYS_MS)
    day, week = _traded(state, now - _DAYS_MS)[0], _traded(state, now - 7 * _DAYS_MS)[0]
    year, ever = _traded(state, _year_start(now))[0], _traded(state, 0)[0]
    first = next(iter(state.trades.values()), None)
    return {
        "days_since_registration": (now - first.at) // _DAYS_MS if first else 0,
        "fees_paid_last_30_days": fees,
        "perp_fees_paid_last_30_days": fees,
        "perp_trading_volume_last_24_hours": day,
        "perp_trading_volume_last_7_days": week,
        "perp_trading_volume_last_30_days": month,
        "perp_trading_volume_ytd": year,
        "perp_trading_volume_ltd": ever,
        "trading_volume_last_24_hours": 0,
        "trading_volume_last_30_days": 0,
        "trading_volume_ytd": 0,
    }


def _dates(call: Call) -> list[str]:
    try:
        first = datetime.strptime(call.query.get("start_date", ""), "%Y-%m-%d").replace(tzinfo=UTC)
        last = datetime.strptime(call.query.get("end_date", ""), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ApiError(-1005, "start_date and end_date must be dates like 2026-01-31.") from error
    days = min((last - first).days, 90)
    return [(first + timedelta(days=index)).strftime("%Y-%m-%d") for index in range(days + 1)]


def _day(call: Call, date: str) -> tuple[int, Decimal, Decimal]:
    start = int(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000
    inside = [t for t in call.exchange.state.trades.values() if start <= t.at < start + _DAYS_MS]
    volume = sum((t.price * t.quantity for t in inside), ZERO)
    return start, volume, sum((t.realized - t.fee for t in inside), ZERO)


def statistics_daily(call: Call) -> object:
    value = call.exchange.portfolio.margin().account_value
    rows = []
    for date in _dates(call):
        start, volume, pnl = _day(call, date)
        if volume:
            rows.append(
                {
                    "date": date,
                    "account_value": money.rounded(value),
                    "perp_volume": volume,
                    "pnl": pnl,
                    "snapshot_time": start + _DAYS_MS,
                }
            )
    return responses.page(rows, *call.paging())


def volume_daily(call: Call) -> object:
    rows = [{"date": date, "perp_volume": _day(call, date)[1]} for date in _dates(call)]
    return [row for row in rows if row["perp_volume"]]


def volume_stats(call: Call) -> object:
    state, now = call.exchange.state, call.now
    return {
        "perp_volume_ytd": _traded(state, _year_start(now))[0],
        "perp_volume_ltd": _traded(state, 0)[0],
        "perp_volume_today": _traded(state, now // _DAYS_MS * _DAYS_MS)[0],
        "perp_volume_last_1_day": _traded(state, now - _DAYS_MS)[0],
        "perp_volume_last_7_days": _traded(state, now - 7 * _DAYS_MS)[0],
        "perp_volume_last_30_days": _traded(state, now - 30 * _DAYS_MS)[0],
    }


ROUTES = (
    ApiRoute("GET", "/v1/client/statistics", statistics, "read", TEN_PER_MINUTE),
    ApiRoute("GET", "/v1/client/statistics/daily", statistics_daily, "read", TEN_PER_MINUTE),
    ApiRoute("GET", "/v1/volume/user/daily", volume_daily, "read", TEN_PER_MINUTE),
    ApiRoute("GET", "/v1/volume/user/stats", volume_stats, "read", TEN_PER_MINUTE),
)
