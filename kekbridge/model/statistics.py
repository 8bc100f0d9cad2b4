"""Statistics as a trader reads them, reckoned from facts that store/statistics.py has counted. Pure: no I/O, no clock.

received = refused + duplicate + expired + done + unknown + waiting, always. Money is summed exactly, as the exchange booked it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from kekbridge.model.latency import STAGES

ZERO: Final = Decimal(0)
# What an alert's status means for its sender. A status that is not named here would be a hole in the sum: see `group_of`.
_GROUPS: Final = {
    "refused": "refused",
    "denied": "refused",
    "rejected": "refused",
    "failed": "refused",
    "alert_conflict": "refused",
    "alert_duplicate": "duplicate",
    "expired": "expired",
    "unknown": "unknown",
    "queued": "waiting",
    "submitting": "waiting",
}
_BARS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Tally:
    """So many alerts, orders or repeats of one status and code."""

    status: str
    code: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An executed order against what was expected. Prices in USDC; `signal` is the alert's price, `mark` the mark at its decision."""

    sign: int
    average_price: Decimal
    signal: Decimal | None
    mark: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was counted and read for one period and, if chosen, one webhook."""

    since: datetime | None
    alerts: Sequence[Tally] = ()
    refusals: Sequence[Tally] = ()
    orders: Sequence[Tally] = ()
    latencies: Mapping[str, Sequence[float]] = field(default_factory=dict)
    executions: Sequence[Execution] = ()
    closings: int = 0  # orders that closed something
    wins: int = 0  # those of them with a gain, fees not included
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal | None = ZERO  # None: not known for one webhook alone
    unrealized: Decimal | None = ZERO  # likewise
    stops: tuple[int, int] = (0, 0)  # entries whose stop is decided, and those that it closed
    exposure: Decimal = ZERO
    account_value: Decimal | None = None
    per_day: Mapping[date, int] = field(default_factory=dict)
    equity: Sequence[tuple[datetime, Decimal]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Alerts by what became of them, and orders by how far they came."""

    received: int
    refused: int
    duplicate: int
    expired: int
    done: int
    unknown: int
    waiting: int
    by_code: Mapping[str, int]
    orders: int
    sent: int
    filled: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of one stage over `count` alerts."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slippage:
    """How much worse than expected, as a fraction (0.001 = 0.1 %); negative is better."""

    count: int
    mean: Decimal
    worst: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of a period. Rates are fractions, None where there is nothing to divide by; money is USDC."""

    since: datetime | None
    counts: Counts
    success_rate: Decimal | None
    error_rate: Decimal | None
    fill_rate: Decimal | None
    latency_ms: Mapping[str, Latency]
    slippage_signal: Slippage | None
    slippage_mark: Slippage | None
    realized_pnl: Decimal
    fees: Decimal
    funding: Decimal | None
    net_pnl: Decimal | None
    unrealized_pnl: Decimal | None
    win_rate: Decimal | None
    closing_orders: int
    stop_hit_rate: Decimal | None
    leverage: Decimal | None
    account_value: Decimal | None
    alerts_per_day: Mapping[date, int]
    equity: Sequence[tuple[datetime, Decimal]]


def group_of(status: str) -> str:
    """Which part of the sum an alert of this status belongs to; what needs nothing more is `done` (also a resting order)."""
    return _GROUPS.get(status, "done")


def report(facts: Facts) -> Report:
    """All figures from the facts."""
    counts = _counts(facts)
    judged = counts.received - counts.waiting - counts.duplicate
    finished = counts.sent - sum(one.count for one in facts.orders if one.status in _UNDER_WAY)
    decided, hit = facts.stops
    return Report(
        since=facts.since,
        counts=counts,
        success_rate=_share(counts.done, judged),
        error_rate=_share(counts.refused + counts.expired + counts.unknown, judged),
        fill_rate=_share(counts.filled, finished),
        latency_ms={stage: _latency(facts.latencies[stage]) for stage in STAGES if facts.latencies.get(stage)},
        slippage_signal=_slippage([(one.sign, one.average_price, one.signal) for one in facts.executions]),
        slippage_mark=_slippage([(one.sign, one.average_price, one.mark) for one in facts.executions]),
        realized_pnl=facts.realized,
        fees=facts.fees,
        funding=facts.funding,
        net_pnl=None if facts.funding is None else facts.realized - facts.fees - facts.funding,
        unrealized_pnl=facts.unrealized,
        win_rate=_share(facts.wins, facts.closings),
        closing_orders=facts.closings,
        stop_hit_rate=_share(hit, decided),
        leverage=facts.exposure / facts.account_value if facts.account_value else None,
        account_value=facts.account_value,
        alerts_per_day=facts.per_day,
        equity=facts.equity,
    )


_UNDER_WAY: Final = frozenset({"submitting", "accepted", "partially_filled"})


def _counts(facts: Facts) -> Counts:
    groups = dict.fromkeys(("refused", "duplicate", "expired", "done", "unknown", "waiting"), 0)
    by_code: dict[str, int] = {}
    for tally in facts.alerts:
        group = group_of(tally.status)
        groups[group] += tally.count
        if group == "refused":
            code = tally.code or tally.status.removeprefix("alert_")
            by_code[code] = by_code.get(code, 0) + tally.count
    for refusal in facts.refusals:
        groups["refused"] += refusal.count
        by_code[refusal.code] = by_code.get(refusal.code, 0) + refusal.count
    return Counts(
        received=sum(groups.values()),
        refused=groups["refused"],
        duplicate=groups["duplicate"],
        expired=groups["expired"],
        done=groups["done"],
        unknown=groups["unknown"],
        waiting=groups["waiting"],
        by_code=dict(sorted(((code, n) for code, n in by_code.items() if n), key=lambda item: (-item[1], item[0]))),
        orders=sum(one.count for one in facts.orders),
        sent=sum(one.count for one in facts.orders if one.code == "sent"),
        filled=sum(one.count for one in facts.orders if one.status == "filled"),
        rejected=sum(one.count for one in facts.orders if one.status == "rejected"),
    )


def _share(part: int, whole: int) -> Decimal | None:
    return Decimal(part) / whole if whole > 0 else None


def _latency(values: Sequence[float]) -> Latency:
    ordered = sorted(values)
    return Latency(
        count=len(ordered),
        mean=sum(ordered) / len(ordered),
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` in a hundred do not exceed (nearest rank), of values in ascending order."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


def _slippage(prices: Sequence[tuple[int, Decimal, Decimal | None]]) -> Slippage | None:
    worse = [(price - expected) * sign / expected for sign, price, expected in prices if expected]
    if not worse:
        return None
    return Slippage(count=len(worse), mean=sum(worse, ZERO) / len(worse), worst=max(worse))


def sparkline(values: Sequence[Decimal | int], width: int) -> str:
    """Bars of the values from their least to their greatest, the last of each slot; nothing for no values."""
    if not values:
        return ""
    slots = min(width, len(values))
    shown = [values[(index + 1) * len(values) // slots - 1] for index in range(slots)]
    low, high = min(shown), max(shown)
    if low == high:
        return _BARS[3 if high else 0] * slots
    return "".join(_BARS[int((value - low) * (len(_BARS) - 1) / (high - low))] for value in shown)
