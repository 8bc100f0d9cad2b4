"""`/metrics` in Prometheus' words: totals from the store, which survive restarts, gauges of the moment, and latency histograms.

The histograms count each stage of each alert once, in the moment it happens, however often anybody looks; like all of Prometheus'
histograms they begin anew with the process.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from kekbridge.stagewatch import StageWatch
from kekbridge.stats import Report

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
_BUCKET_NAMES: Final = (*map(str, _BUCKETS), "+Inf")


class _Histogram:
    """Durations of one stage, counted by bucket. prometheus_client's own takes a lock for each of two numbers, and alerts come quicker."""

    def __init__(self) -> None:
        self._created_at = time.time()
        self._counts = [0] * len(_BUCKET_NAMES)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, stage: str) -> None:
        """As prometheus_client shows a histogram of its own."""
        buckets = list(zip(_BUCKET_NAMES, accumulate(self._counts), strict=True))
        family.add_metric([stage], buckets, self._sum)
        family.add_sample(f"{family.name}_created", {"stage": stage}, self._created_at)


class Metrics:
    """One per daemon; it listens from now on. The loop's thread only."""

    def __init__(self, stages: StageWatch) -> None:
        self._registry = CollectorRegistry()
        self._stages: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self._current: list[Metric] = []
        self._registry.register(self)
        stages.listen(lambda stage, seconds: self._stages[stage].observe(seconds))

    def collect(self) -> Iterable[Metric]:
        """For the registry: what `render` has just prepared."""
        return self._current

    def render(self, all_time: Report, state: Mapping[str, Any]) -> bytes:
        """The whole page."""
        self._current = [self._durations(), *_totals(all_time), *_moment(all_time, state), *_upkeep(state)]
        return generate_latest(self._registry)

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "kekbridge_stage_seconds",
            "Time of an alert to this stage: received since it fired, all others since it was received.",
            labels=["stage"],
        )
        for stage, histogram in self._stages.items():
            histogram.add_to(family, stage)
        return family


def _totals(found: Report) -> Iterable[Metric]:
    counts = found.counts
    plain = {
        "alerts_received": ("Requests to the webhook path, vouched for or not.", counts.received),
        "alerts_duplicate": ("Alerts that came again.", counts.duplicate),
        "orders_sent": ("Orders that left for the exchange.", counts.sent),
        "orders_filled": ("Orders filled.", counts.filled),
        "orders_rejected": ("Orders the exchange refused.", counts.rejected),
    }
    for name, (text, value) in plain.items():
        yield CounterMetricFamily(f"kekbridge_{name}", text, value=value)
    refused = CounterMetricFamily("kekbridge_alerts_refused", "Alerts refused, by code.", labels=["code"])
    for code, count in counts.by_code.items():
        refused.add_metric([code], count)
    yield refused
    groups = GaugeMetricFamily("kekbridge_alerts", "All alerts by what became of them.", labels=["outcome"])
    for name in ("done", "refused", "duplicate", "expired", "unknown", "waiting"):
        groups.add_metric([name], getattr(counts, name))
    yield groups


def _moment(found: Report, state: Mapping[str, Any]) -> Iterable[Metric]:
    account = state["account"]
    values: dict[str, tuple[str, Any]] = {
        "ready": ("1 when alerts can become orders.", state["ready"]["ready"]),
        "exchange_reachable": ("1 when the exchange answers.", state["exchange"]["reachable"]),
        "stream_live": ("1 when the private stream lives.", state["exchange"]["streamLive"]),
        "realized_pnl_usdc": ("Realized profit and loss since the beginning.", found.realized_pnl),
        "fees_usdc": ("Fees since the beginning.", found.fees),
        "funding_usdc": ("Funding paid since the beginning, received negative.", found.funding),
        "unrealized_pnl_usdc": (
            "Profit and loss of the open positions at the mark.",
            account and Decimal(account["unrealizedPnl"]),
        ),
        "leverage": ("Value of all positions over the account's.", found.leverage),
        "fill_rate": ("Share of the finished orders that were filled.", found.fill_rate),
        "win_rate": ("Share of closing orders with a gain.", found.win_rate),
        "stop_hit_rate": ("Share of the decided stops that were hit.", found.stop_hit_rate),
        "slippage_mean": ("Mean slippage against the mark, a fraction.", _mean(found)),
        "account_value_usdc": ("Account value.", account and Decimal(account["value"])),
        "free_collateral_usdc": ("Free collateral.", account and Decimal(account["free"])),
        "open_positions": ("Open positions.", account and len(account["positions"])),
        "open_orders": ("Orders not finished, at most 20.", len(state["openOrders"])),
    }
    for name, (text, value) in values.items():
        if value is not None:
            yield GaugeMetricFamily(f"kekbridge_{name}", text, value=float(value))
    trading = GaugeMetricFamily("kekbridge_trading_state", "1 for the state in force.", labels=["state"])
    for name in ("running", "exits_only", "halted"):
        trading.add_metric([name], 1 if state["trading"]["state"] == name else 0)
    yield trading
    held = GaugeMetricFamily("kekbridge_position", "Open position in coins, short negative.", labels=["symbol"])
    for position in account["positions"] if account else ():
        held.add_metric([position["symbol"]], float(position["quantity"]))
    yield held


def _upkeep(state: Mapping[str, Any]) -> Iterable[Metric]:
    failures = GaugeMetricFamily("kekbridge_job_failures", "Failures in a row of each job.", labels=["job"])
    runs = CounterMetricFamily("kekbridge_job_runs", "Runs of each job.", labels=["job"])
    failed = CounterMetricFamily("kekbridge_job_failed", "Failed runs of each job.", labels=["job"])
    for job in state["jobs"]:
        failures.add_metric([job["name"]], job["failures"])
        runs.add_metric([job["name"]], job["runs"])
        failed.add_metric([job["name"]], job["failed"])
    yield from (failures, runs, failed)
    holding = GaugeMetricFamily("kekbridge_condition", "How many conditions of an event hold now.", labels=["event"])
    for event, count in Counter(one["event"] for one in state["conditions"]).items():
        holding.add_metric([event], count)
    yield holding


def _mean(found: Report) -> Decimal | None:
    return None if found.slippage_mark is None else found.slippage_mark.mean
