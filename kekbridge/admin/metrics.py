"""Prometheus metrics: totals from the store (which survive restarts), gauges of the current state, latency histograms.

Imported on the first scrape: prometheus_client takes a megabyte of memory.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from kekbridge.execution.latency import LatencyHistograms
from kekbridge.model.statistics import Report
from kekbridge.store.connections import FILE_NAME

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _MetricsPage:
    """A Prometheus collector of metrics that are already built."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return the metrics to the registry."""
        return self._metrics


def page(histograms: LatencyHistograms, all_time: Report, state: Mapping[str, Any], data_dir: Path) -> bytes:
    """Render the page from the latency histograms, the statistics of all time, the state of `AdminService.state` and the data directory.

    The usual `process_…` metrics of memory, CPU and open files come first.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    shown = [*_totals(all_time), *_gauges(all_time, state), *_operations(state), *_disk(data_dir)]
    registry.register(_MetricsPage([_latency(histograms), *shown]))
    return generate_latest(registry)


def _latency(histograms: LatencyHistograms) -> Metric:
    family = HistogramMetricFamily(
        "kekbridge_stage_seconds",
        "Time of an alert to this stage: received since it fired, others since it was received.",
        labels=["stage"],
    )
    for stage, histogram in histograms.by_stage.items():
        family.add_metric([stage], histogram.buckets, histogram.sum_s)
        family.add_sample(f"{family.name}_created", {"stage": stage}, histogram.created_at)
    return family


def _totals(found: Report) -> Iterable[Metric]:
    counts = found.counts
    counters = {
        "alerts_received": ("Requests to the webhook path, authenticated or not.", counts.received),
        "alerts_duplicate": ("Duplicate alerts.", counts.duplicate),
        "orders_sent": ("Orders sent to the exchange.", counts.sent),
        "orders_filled": ("Orders filled.", counts.filled),
        "orders_rejected": ("Orders rejected by the exchange.", counts.rejected),
    }
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(f"kekbridge_{name}", text, value=value)
    refused = CounterMetricFamily("kekbridge_alerts_refused", "Alerts refused, by code.", labels=["code"])
    for code, count in counts.by_code.items():
        refused.add_metric([code], count)
    yield refused
    groups = GaugeMetricFamily("kekbridge_alerts", "All alerts by outcome.", labels=["outcome"])
    for name in ("done", "refused", "duplicate", "expired", "unknown", "waiting"):
        groups.add_metric([name], getattr(counts, name))
    yield groups


def _gauges(found: Report, state: Mapping[str, Any]) -> Iterable[Metric]:
    account = state["account"]
    values: dict[str, tuple[str, Any]] = {
        "ready": ("1 when alerts can become orders.", state["ready"]["ready"]),
        "exchange_reachable": ("1 when the exchange answers.", state["exchange"]["reachable"]),
        "stream_live": ("1 when the private stream is connected.", state["exchange"]["streamLive"]),
        "realized_pnl_usdc": ("Realized profit and loss since the beginning.", found.realized_pnl),
        "fees_usdc": ("Fees since the beginning.", found.fees),
        "funding_usdc": ("Funding paid since the beginning, received negative.", found.funding),
        "unrealized_pnl_usdc": (
            "Profit and loss of the open positions at the mark.",
            account and Decimal(account["unrealizedPnl"]),
        ),
        "leverage": ("Value of all positions over the account's.", found.leverage),
        "fill_rate": ("Share of finished orders that were filled.", found.fill_rate),
        "win_rate": ("Share of closing orders with a gain.", found.win_rate),
        "stop_hit_rate": ("Share of finished stops that were hit.", found.stop_hit_rate),
        "slippage_mean": ("Mean slippage against the mark, a fraction.", _mean(found)),
        "account_value_usdc": ("Account value.", account and Decimal(account["value"])),
        "free_collateral_usdc": ("Free collateral.", account and Decimal(account["free"])),
        "open_positions": ("Open positions.", account and len(account["positions"])),
        "open_orders": ("Orders not finished, at most 20.", len(state["openOrders"])),
    }
    for name, (text, value) in values.items():
        if value is not None:
            yield GaugeMetricFamily(f"kekbridge_{name}", text, value=float(value))
    trading = GaugeMetricFamily("kekbridge_trading_state", "1 for the current state.", labels=["state"])
    for name in ("running", "exits_only", "halted"):
        trading.add_metric([name], 1 if state["trading"]["state"] == name else 0)
    yield trading
    # A market may have a cross and an isolated position: one sample for both.
    coins: defaultdict[str, Decimal] = defaultdict(Decimal)
    notionals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for position in account["positions"] if account else ():
        size = Decimal(position["quantity"])
        coins[position["symbol"]] += size
        if position["mark"] is not None:
            notionals[position["symbol"]] += size * Decimal(position["mark"])
    yield _by_symbol("kekbridge_position", "Open position in coins, short negative.", coins)
    text = "Value of the open position at the mark, short negative."
    yield _by_symbol("kekbridge_position_notional_usdc", text, notionals)


def _by_symbol(name: str, text: str, amounts: Mapping[str, Decimal]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["symbol"])
    for symbol, amount in amounts.items():
        family.add_metric([symbol], float(amount))
    return family


def _operations(state: Mapping[str, Any]) -> Iterable[Metric]:
    failures = GaugeMetricFamily("kekbridge_job_failures", "Failures in a row of each job.", labels=["job"])
    runs = CounterMetricFamily("kekbridge_job_runs", "Runs of each job.", labels=["job"])
    failed = CounterMetricFamily("kekbridge_job_failed", "Failed runs of each job.", labels=["job"])
    for job in state["jobs"]:
        failures.add_metric([job["name"]], job["failures"])
        runs.add_metric([job["name"]], job["runs"])
        failed.add_metric([job["name"]], job["failed"])
    yield from (failures, runs, failed)
    holding = GaugeMetricFamily("kekbridge_condition", "Conditions in force, by event.", labels=["event"])
    for event, count in Counter(one["event"] for one in state["conditions"]).items():
        holding.add_metric([event], count)
    yield holding
    yield from replica_families(state)
    yield GaugeMetricFamily(
        "kekbridge_incomplete_orders",
        "Orders whose recorded fills do not add up to what they have executed.",
        value=state["records"]["incompleteOrders"],
    )
    complete = GaugeMetricFamily(
        "kekbridge_records_complete_until_seconds",
        "Unix time up to which each kind of the account's records was read completely.",
        labels=["kind"],
    )
    for kind, until in state["records"]["completeUntil"].items():
        complete.add_metric([kind], datetime.fromisoformat(until).timestamp())
    yield complete


def _disk(data_dir: Path) -> Iterable[Metric]:
    files = (data_dir / FILE_NAME, data_dir / f"{FILE_NAME}-wal")
    size = sum(file.stat().st_size for file in files if file.exists())
    yield GaugeMetricFamily("kekbridge_database_bytes", "Size of the database with its log.", value=size)
    free = shutil.disk_usage(data_dir).free
    yield GaugeMetricFamily("kekbridge_disk_free_bytes", "Free space on the disk of the data directory.", value=free)


def replica_families(state: Mapping[str, Any]) -> Iterable[Metric]:
    """The lag of the replica in the state of `AdminService.state`; nothing without a replica."""
    if "replica" in state:
        yield GaugeMetricFamily(
            "kekbridge_replica_lag_seconds",
            "Seconds since the instant up to which the replica is known to be complete.",
            value=state["replica"]["lagS"],
        )


def _mean(found: Report) -> Decimal | None:
    return None if found.slippage_mark is None else found.slippage_mark.mean
