"""Everything that the Statistics page, its CSV files and `kekbridge stats --json` show of a period. Read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from kekbridge.formatting import format_decimal, moment, to_jsonable
from kekbridge.model import EquityMark
from kekbridge.model.latency import STAGES
from kekbridge.model.statistics import (
    Bin,
    Pnl,
    PnlPart,
    Reason,
    Report,
    build_report,
    latency_histogram,
    reasons_of,
    slippage_histogram,
)
from kekbridge.store import equity, statistics, webhooks
from kekbridge.store.codec import Span

#: What can be downloaded as CSV.
TABLES: Final = ("pnl", "rejections", "latency", "slippage", "alerts", "equity")
_POINTS: Final = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodStatistics:
    """Statistics of a period, of all webhooks or of one."""

    #: None: until now.
    until: datetime | None
    report: Report
    pnl: Pnl
    #: Why alerts came to nothing, most frequent first.
    reasons: tuple[Reason, ...]
    #: By stage (model.latency.STAGES), in milliseconds.
    latency: Mapping[str, tuple[Bin, ...]]
    #: In basis points, against the alert's own price and against the mark at the decision.
    slippage_signal: tuple[Bin, ...]
    slippage_mark: tuple[Bin, ...]
    #: By UTC day, those with any.
    alerts_by_day: Mapping[date, int]
    #: The equity curve of the account.
    equity: tuple[EquityMark, ...]

    def as_json(self) -> dict[str, Any]:
        """What `kekbridge stats --json` adds to the report's own keys."""
        histograms = {
            "latencyHistogram": self.latency,
            "slippageHistogram": {"signal": self.slippage_signal, "mark": self.slippage_mark},
        }
        parts = {
            "pnlByDay": [_part(one) for one in self.pnl.by_day],
            "pnlByWebhook": [_part(one) for one in self.pnl.by_webhook],
            "pnlByMarket": [_part(one) for one in self.pnl.by_market],
        }
        found: dict[str, Any] = to_jsonable({"until": self.until, "reasons": self.reasons, **parts, **histograms})
        return found

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of one of TABLES, for `export.write_csv`."""
        if table == "pnl":
            for by, parts in (
                ("day", self.pnl.by_day),
                ("webhook", self.pnl.by_webhook),
                ("market", self.pnl.by_market),
            ):
                for part in parts:
                    yield {"by": by, **_snake(part)}
        elif table == "rejections":
            for reason in self.reasons:
                yield {"outcome": reason.outcome, "code": reason.code, "alerts": reason.count}
        elif table == "latency":
            for stage in STAGES:
                for one in self.latency.get(stage, ()):
                    yield {"stage": stage, "from_ms": one.low, "below_ms": one.high, "alerts": one.count}
        elif table == "slippage":
            for against, bins in (("signal", self.slippage_signal), ("mark", self.slippage_mark)):
                for one in bins:
                    yield {"against": against, "from_bps": one.low, "below_bps": one.high, "orders": one.count}
        elif table == "alerts":
            for day, count in self.alerts_by_day.items():
                yield {"day": day.isoformat(), "alerts": count}
        else:
            for mark in self.equity:
                yield {
                    "at": moment(mark.at),
                    "account_value": format_decimal(mark.value),
                    "peak": format_decimal(mark.peak),
                }


def read(
    connection: sqlite3.Connection,
    *,
    since: datetime | None,
    now: datetime,
    until: datetime | None = None,
    webhook: str | None = None,
) -> PeriodStatistics:
    """Statistics from `since` (None: the beginning) until before `until`. `webhook` is a name or id. Raises NotFound."""
    facts = statistics.gather_facts(connection, since=since, now=now, until=until, webhook=webhook)
    webhook_id = None if webhook is None else webhooks.find(connection, webhook).id
    span = Span.of(since, until)
    return PeriodStatistics(
        until=until,
        report=build_report(facts),
        pnl=statistics.divide_pnl(connection, facts.lines),
        reasons=reasons_of(facts),
        latency={stage: latency_histogram(facts.latencies[stage]) for stage in STAGES if facts.latencies.get(stage)},
        slippage_signal=slippage_histogram(facts, against="signal"),
        slippage_mark=slippage_histogram(facts, against="mark"),
        alerts_by_day=statistics.count_by_day(connection, span, webhook_id=webhook_id),
        equity=equity.curve(connection, span, points=_POINTS),
    )


def _part(part: PnlPart) -> dict[str, Any]:
    found: dict[str, Any] = to_jsonable(part)
    return found | {"netPnl": format(part.net_pnl, "f")}


def _snake(part: PnlPart) -> dict[str, Any]:
    return {
        "name": part.name,
        "net_pnl": format_decimal(part.net_pnl),
        "realized_pnl": format_decimal(part.realized_pnl),
        "fees": format_decimal(part.fees),
        "funding": format_decimal(part.funding),
        "closing_orders": part.closing_orders,
        "wins": part.wins,
    }
