"""Trading statistics, computed from what store/statistics.py counted. Pure: no I/O, no clock.

received = refused + duplicate + expired + done + unknown + waiting, always. Money is summed exactly, as the exchange booked it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from kekbridge.formatting import EXACT
from kekbridge.model.latency import STAGES

ZERO: Final = Decimal(0)
# Alert status -> group in the sum above. Every other status is `done`.
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
# Sent, but neither finished nor unknown.
_IN_FLIGHT: Final = frozenset({"submitting", "accepted", "partially_filled"})
_BARS: Final = "▁▂▃▄▅▆▇█"
# Milliseconds, up to 100 s; and basis points, up to 10 %.
_LATENCY_EDGES: Final = (*(digit * 10.0**power for power in range(-1, 5) for digit in (1, 2, 5)), 100_000.0)
_BPS: Final = (*(digit * 10.0**power for power in range(-1, 3) for digit in (1, 2, 5)), 1000.0)
_SLIPPAGE_EDGES: Final = (*(-edge for edge in reversed(_BPS)), 0.0, *_BPS)


@dataclass(frozen=True, slots=True)
class Tally:
    """Number of alerts, orders or duplicates with one status and code."""

    #: Status of the alert or order; for duplicates the kind of suppression.
    status: str
    #: Empty if there is none. For orders: `sent` once one was sent, else empty.
    code: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Price of an executed market order and the prices expected for it, in USDC."""

    #: +1 for a buy, -1 for a sell.
    sign: int
    average_price: Decimal
    #: The alert's own price; None if it had none.
    signal: Decimal | None
    #: The mark when the order was decided.
    mark: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Counts and sums of one period, of all webhooks or of one. Money in USDC."""

    #: None: from the beginning.
    since: datetime | None
    #: Alerts, duplicates and conflicts.
    alerts: Sequence[Tally] = ()
    #: Unauthenticated requests; empty for one webhook.
    refusals: Sequence[Tally] = ()
    orders: Sequence[Tally] = ()
    #: By stage: milliseconds of a sample of alerts.
    latencies: Mapping[str, Sequence[float]] = field(default_factory=dict)
    #: A sample of market orders.
    executions: Sequence[Execution] = ()
    #: Orders that closed all or part of a position.
    closings: int = 0
    #: Those with a gain, fees not included.
    wins: int = 0
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    #: Funding paid, and unrealized P&L; None for one webhook: the exchange gives them per account.
    funding: Decimal | None = ZERO
    unrealized: Decimal | None = ZERO
    #: What `realized`, `fees`, `funding`, `closings` and `wins` are the sums of; with funding also for one webhook.
    lines: Sequence[ResultLine] = ()
    #: Entries whose exits at the exchange are finished, and those that the stop loss closed.
    stops: tuple[int, int] = (0, 0)
    #: Value of all positions.
    exposure: Decimal = ZERO
    #: None before the first equity mark.
    account_value: Decimal | None = None
    #: Alerts by UTC day.
    per_day: Mapping[date, int] = field(default_factory=dict)
    #: The equity curve.
    equity: Sequence[tuple[datetime, Decimal]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Alerts by outcome, and orders by progress."""

    #: All alerts; the sum of the next six.
    received: int
    refused: int
    duplicate: int
    expired: int
    done: int
    unknown: int
    waiting: int
    #: Refused alerts by code, most frequent first.
    by_code: Mapping[str, int]
    #: All orders, and those of them that were sent, filled, rejected.
    orders: int
    sent: int
    filled: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Distribution of one stage, in milliseconds."""

    #: Alerts measured.
    count: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slippage:
    """How much worse than expected orders were filled, as fractions (0.001 = 0.1 %); negative is better."""

    #: Orders measured.
    count: int
    mean: Decimal
    worst: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All statistics of a period. Rates are fractions, None where there is nothing to divide by; money is USDC."""

    #: None: from the beginning.
    since: datetime | None
    counts: Counts
    #: Alerts done, and alerts refused, expired or unknown, of those neither waiting nor duplicate.
    success_rate: Decimal | None
    error_rate: Decimal | None
    #: Orders filled, of those sent and finished.
    fill_rate: Decimal | None
    #: By stage (model.latency.STAGES).
    latency_ms: Mapping[str, Latency]
    #: Against the alert's own price, and against the mark at the decision.
    slippage_signal: Slippage | None
    slippage_mark: Slippage | None
    realized_pnl: Decimal
    fees: Decimal
    funding: Decimal | None
    #: Realized P&L minus fees and funding.
    net_pnl: Decimal | None
    unrealized_pnl: Decimal | None
    #: Closing orders with a gain, of all closing orders.
    win_rate: Decimal | None
    closing_orders: int
    #: Entries closed by their stop loss, of those whose exits are finished.
    stop_hit_rate: Decimal | None
    #: Value of all positions over the account value.
    leverage: Decimal | None
    account_value: Decimal | None
    #: By UTC day.
    alerts_per_day: Mapping[date, int]
    equity: Sequence[tuple[datetime, Decimal]]


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a histogram: values from `low` on, below `high`."""

    #: None: without a lower bound.
    low: float | None
    #: None: without an upper bound.
    high: float | None
    #: Number of values.
    count: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Number of alerts that came to nothing for one reason."""

    #: `refused`, `denied`, `rejected`, `expired`, `unknown` or `failed`.
    outcome: str
    #: A code of codes.py, or the outcome if there is none.
    code: str
    count: int


class ResultLine(NamedTuple):
    """What was won, lost and paid on one day by one webhook in one market, in USDC. Lines are added up: there may be several."""

    #: UTC day, `2026-01-15`.
    day: str
    #: Id; empty: of no webhook.
    webhook_id: str
    symbol: str
    #: As the exchange booked it, before fees.
    realized: Decimal
    fees: Decimal
    #: Funding paid, received negative.
    funding: Decimal
    #: Orders that closed all or part of a position, and those of them with a gain, fees not included.
    closings: int
    wins: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PnlPart:
    """Profit and loss of one day, webhook or market, in USDC."""

    #: UTC day (`2026-01-15`), webhook or market; empty: of no webhook.
    name: str
    #: As the exchange booked it, before fees.
    realized_pnl: Decimal = ZERO
    fees: Decimal = ZERO
    #: Funding paid, received negative.
    funding: Decimal = ZERO
    #: Orders that closed all or part of a position, and those of them with a gain, fees not included.
    closing_orders: int = 0
    wins: int = 0

    @property
    def net_pnl(self) -> Decimal:
        """Realized P&L minus fees and funding."""
        return net_of(self.realized_pnl, self.fees, self.funding)

    @property
    def win_rate(self) -> Decimal | None:
        """Closing orders with a gain, of all closing orders."""
        return _share(self.wins, self.closing_orders)

    @property
    def is_empty(self) -> bool:
        """True if nothing was won, lost or paid."""
        return not (self.realized_pnl or self.fees or self.funding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pnl:
    """Profit and loss of one period, divided in three ways; the sum of each is the same."""

    #: Days with any, oldest first.
    by_day: tuple[PnlPart, ...] = ()
    #: Best first.
    by_webhook: tuple[PnlPart, ...] = ()
    by_market: tuple[PnlPart, ...] = ()
    #: Their sum.
    total: PnlPart = PnlPart(name="")


def divide(lines: Iterable[ResultLine], names: Mapping[str, str]) -> Pnl:
    """Exact sums of lines by day, webhook and market. `names` are those of the webhooks by id."""
    by_day: _Sums = {}
    by_rest: dict[tuple[str, str], list[Any]] = {}
    for line in lines:
        day, webhook_id, symbol = line[:3]
        sums = by_day.get(day)
        if sums is None:
            sums = by_day[day] = [*_NOTHING]
        _add(sums, line)
        sums = by_rest.get((webhook_id, symbol))
        if sums is None:
            sums = by_rest[webhook_id, symbol] = [*_NOTHING]
        _add(sums, line)
    by_webhook: _Sums = {}
    by_market: _Sums = {}
    for (webhook_id, symbol), sums in by_rest.items():
        line = ResultLine("", webhook_id, symbol, *sums)
        _add(by_webhook.setdefault(webhook_id, [*_NOTHING]), line)
        _add(by_market.setdefault(symbol, [*_NOTHING]), line)
    days, owners, markets = (
        [_part(name, sums) for name, sums in each.items()] for each in (by_day, by_webhook, by_market)
    )
    return Pnl(
        by_day=tuple(sorted((one for one in days if not one.is_empty), key=lambda part: part.name)),
        by_webhook=_best_first(replace(one, name=names[one.name]) for one in owners),
        by_market=_best_first(markets),
        total=total_of(ResultLine("", "", "", *sums) for sums in by_rest.values()),
    )


def total_of(lines: Iterable[ResultLine]) -> PnlPart:
    """The exact sum of all lines."""
    total: list[Any] = [*_NOTHING]
    for line in lines:
        _add(total, line)
    return _part("", total)


# Realized, fees, funding, closing orders and wins by name: plain lists, because years of lines are added up for one page.
_Sums = dict[str, list[Any]]
_NOTHING: Final = (ZERO, ZERO, ZERO, 0, 0)


def _add(sums: list[Any], line: ResultLine) -> None:
    _, _, _, realized, fees, funding, closings, wins = line
    if realized:
        sums[0] = EXACT.add(sums[0], realized)
    if fees:
        sums[1] = EXACT.add(sums[1], fees)
    if funding:
        sums[2] = EXACT.add(sums[2], funding)
    sums[3] += closings
    sums[4] += wins


def _part(name: str, sums: list[Any]) -> PnlPart:
    realized, fees, funding, closings, wins = sums
    return PnlPart(name=name, realized_pnl=realized, fees=fees, funding=funding, closing_orders=closings, wins=wins)


def _best_first(parts: Iterable[PnlPart]) -> tuple[PnlPart, ...]:
    """Highest net P&L first, equal ones by name."""
    return tuple(sorted((one for one in parts if not one.is_empty), key=lambda part: (-part.net_pnl, part.name)))


def group_of(status: str) -> str:
    """The group of the sum that an alert status belongs to; `done` if nothing more has to happen, also for a resting order."""
    return _GROUPS.get(status, "done")


def net_of(realized: Decimal, fees: Decimal, funding: Decimal) -> Decimal:
    """Realized P&L minus fees and funding, to the last digit."""
    return EXACT.subtract(EXACT.subtract(realized, fees), funding)


def build_report(facts: Facts) -> Report:
    """Compute all statistics of a period."""
    counts = _counts(facts)
    judged = counts.received - counts.waiting - counts.duplicate
    finished = counts.sent - sum(one.count for one in facts.orders if one.status in _IN_FLIGHT)
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
        net_pnl=None if facts.funding is None else net_of(facts.realized, facts.fees, facts.funding),
        unrealized_pnl=facts.unrealized,
        win_rate=_share(facts.wins, facts.closings),
        closing_orders=facts.closings,
        stop_hit_rate=_share(hit, decided),
        leverage=facts.exposure / facts.account_value if facts.account_value else None,
        account_value=facts.account_value,
        alerts_per_day=facts.per_day,
        equity=facts.equity,
    )


def reasons_of(facts: Facts) -> tuple[Reason, ...]:
    """Why alerts came to nothing, most frequent first; unauthenticated requests count as refused."""
    found: dict[tuple[str, str], int] = {}
    for tally in (*facts.alerts, *facts.refusals):
        if group_of(tally.status) in ("refused", "expired", "unknown"):
            is_conflict = tally.status == "alert_conflict"
            key = ("refused", "alert_id_reused") if is_conflict else (tally.status, tally.code or tally.status)
            found[key] = found.get(key, 0) + tally.count
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Reason(*key, count) for key, count in ordered if count > 0)


def latency_histogram(milliseconds: Sequence[float]) -> tuple[Bin, ...]:
    """Values by bins that double about: 1, 2, 5, 10, 20, ... ms, from the first bin with any to the last."""
    return _histogram(milliseconds, _LATENCY_EDGES)


def slippage_histogram(facts: Facts, *, against: Literal["signal", "mark"]) -> tuple[Bin, ...]:
    """Slippage of the sampled market orders in basis points, positive worse; bins as of latency, on both sides of zero."""
    shares = _shares_of((one.sign, one.average_price, getattr(one, against)) for one in facts.executions)
    return _histogram([float(share * 10_000) for share in shares], _SLIPPAGE_EDGES)


def _histogram(values: Sequence[float], edges: Sequence[float]) -> tuple[Bin, ...]:
    """Bins between increasing edges, the first and last open, without empty ones at the ends."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_right(edges, value)] += 1
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return ()
    lows, highs = (None, *edges), (*edges, None)
    return tuple(Bin(lows[index], highs[index], counts[index]) for index in range(filled[0], filled[-1] + 1))


def _counts(facts: Facts) -> Counts:
    groups = dict.fromkeys(("refused", "duplicate", "expired", "done", "unknown", "waiting"), 0)
    by_code: dict[str, int] = {}
    for tally in facts.alerts:
        group = group_of(tally.status)
        groups[group] += tally.count
        if group == "refused":
            code = "alert_id_reused" if tally.status == "alert_conflict" else tally.code or tally.status
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
    """The nearest-rank percentile of values in ascending order; `percent` is 0 to 100."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


def _shares_of(prices: Iterable[tuple[int, Decimal, Decimal | None]]) -> list[Decimal]:
    """By what fraction of the expected price each price was worse."""
    return [(price - expected) * sign / expected for sign, price, expected in prices if expected]


def _slippage(prices: Sequence[tuple[int, Decimal, Decimal | None]]) -> Slippage | None:
    worse = _shares_of(prices)
    if not worse:
        return None
    return Slippage(count=len(worse), mean=sum(worse, ZERO) / len(worse), worst=max(worse))


def sparkline(values: Sequence[Decimal | int], width: int) -> str:
    """Draw values as bars scaled from their minimum to their maximum, the last value of each slot; empty for no values."""
    if not values:
        return ""
    slots = min(width, len(values))
    shown = [values[(index + 1) * len(values) // slots - 1] for index in range(slots)]
    low, high = min(shown), max(shown)
    if low == high:
        return _BARS[3 if high else 0] * slots
    return "".join(_BARS[int((value - low) * (len(_BARS) - 1) / (high - low))] for value in shown)
