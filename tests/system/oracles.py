"""Invariants that hold after every run, whatever was killed: I1 to I12 of docs/internals/reliability.md section 6.

Checked from outside: the sender's log, the daemon's database read with sqlite3, its log file, and the paper exchange's journal, which the
daemon cannot change. Each oracle returns the violations it found as sentences that name the alert or order.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.codes import CODES
from tests.system.exposure import longest_naked_s
from tests.system.harness import BridgeProcess, Sent, catch_up

Row = dict[str, Any]

ENDED = {
    "filled",
    "canceled",
    "expired",
    "denied",
    "rejected",
    "refused",
    "ignored",
    "done",
    "failed",
    "unknown",
    "rate_limited",
}
RESTING = {"accepted", "partially_filled"}
_LATE_MS = 1_000  # on a busy machine the exchange may read a request this much later than it was sent


@dataclass
class Evidence:
    """Everything the oracles read."""

    sent: list[Sent]
    alerts: list[Row]
    orders: list[Row]
    events: list[Row]
    journal: list[Row]
    log: list[Row]
    secrets: dict[str, str]
    data_dir: Path
    starts_ms: list[int] = field(default_factory=list)


@dataclass
class Findings:
    """The figures of one run, and every violation as a sentence."""

    lost: int = 0
    doubled: int = 0
    breaches: int = 0
    longest_naked_s: float | None = None
    unknown: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.breaches or self.failures)

    def add(self, other: Findings) -> None:
        """Add the figures of another run."""
        self.lost += other.lost
        self.doubled += other.doubled
        self.breaches += other.breaches
        self.unknown += other.unknown
        self.failures += other.failures
        if other.longest_naked_s is not None:
            self.longest_naked_s = max(self.longest_naked_s or 0.0, other.longest_naked_s)


def gather(bridge: BridgeProcess, sent: Iterable[Sent], starts_ms: Iterable[int] = ()) -> Evidence:
    """Read everything; the daemon may be running or not."""
    catch_up(bridge.data_dir)
    with sqlite3.connect(f"file:{database_file(bridge)}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        tables = {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid")]
            for name in ("alerts", "orders", "journal")
        }
    connection.close()
    return Evidence(
        sent=list(sent),
        alerts=tables["alerts"],
        orders=tables["orders"],
        events=tables["journal"],
        journal=bridge.journal(),
        log=_log_lines(bridge.log_path),
        secrets={"api key": bridge.webhook["apiKey"], "api secret": bridge.webhook["apiSecret"]},
        data_dir=bridge.data_dir,
        starts_ms=list(starts_ms),
    )


def database_file(bridge: BridgeProcess) -> Path:
    return bridge.data_dir / "kekbridge.db"


def judge(evidence: Evidence) -> Findings:
    """Run all oracles that apply to every run."""
    lost = i1_acknowledged_is_kept(evidence) + i1_every_alert_has_an_end(evidence)
    doubled = i2_one_order_per_leg(evidence)
    others = [
        *i3_no_order_without_alert(evidence),
        *executions_agree(evidence),
        *i7_nothing_too_old(evidence),
        *i8_nothing_before_reconciled(evidence),
        *i9_chain_is_whole(evidence),
        *i10_no_secret_outside(evidence),
        *i11_codes_are_published(evidence),
        *i12_counts_add_up(evidence),
    ]
    return Findings(
        lost=len(lost),
        doubled=len(doubled),
        longest_naked_s=longest_naked_s(evidence.journal),
        unknown=sum(order["status"] == "unknown" for order in evidence.orders),
        failures=[*lost, *doubled, *others],
    )


def i1_acknowledged_is_kept(evidence: Evidence) -> list[str]:
    """Every alert that was answered 2xx is stored once."""
    stored = Counter(alert["alert_id"] for alert in evidence.alerts if alert["identity"])
    return [
        f"I1 {sent.alert_id}: acknowledged ({sent.answers}), stored {stored[sent.alert_id]} times"
        for sent in evidence.sent
        if sent.is_acknowledged and stored[sent.alert_id] != 1
    ]


def i1_every_alert_has_an_end(evidence: Evidence) -> list[str]:
    """Every stored alert has a final status, or unknown, which was notified; only resting orders may wait."""
    resting = {order["alert_id"] for order in evidence.orders if order["status"] in RESTING and order["order_id"]}
    return [
        f"I1 {alert['alert_id']}: still {alert['status']}"
        for alert in evidence.alerts
        if alert["status"] not in ENDED and alert["id"] not in resting
    ]


def i2_one_order_per_leg(evidence: Evidence) -> list[str]:
    """The exchange accepted each client order id at most once, and each (alert, leg) has one id."""
    accepted = Counter(
        str(event["client_order_id"])
        for event in evidence.journal
        if event["event"] == "order_accepted" and event["client_order_id"]
    )
    legs = Counter((order["alert_id"], order["leg"]) for order in evidence.orders)
    return [f"I2 {name}: accepted {count} times" for name, count in accepted.items() if count > 1] + [
        f"I2 {leg}: {count} orders" for leg, count in legs.items() if count > 1
    ]


def i3_no_order_without_alert(evidence: Evidence) -> list[str]:
    """Every order that reached the exchange under one of our client order ids is stored as sent."""
    sent = {order["client_order_id"] for order in evidence.orders if order["attempt"]}
    return [
        f"I3 {event['client_order_id']}: reached the exchange, is not stored as sent"
        for event in evidence.journal
        if event["event"] == "order_received" and event["client_order_id"] and event["client_order_id"] not in sent
    ]


def executions_agree(evidence: Evidence) -> list[str]:
    """Per order, the store and the exchange agree on the executed quantity, and on whether it was accepted (I1, R8)."""
    executed = executed_by_name(evidence.journal)
    accepted = {str(e["client_order_id"]) for e in evidence.journal if e["event"] == "order_accepted"}
    found: list[str] = []
    for order in evidence.orders:
        client_order_id, stored = order["client_order_id"], Decimal(order["executed_quantity"])
        actual = executed.get(client_order_id, Decimal(0))
        if order["order_type"] not in ("stop", "stop_limit", "trailing_stop") and stored != actual:
            found.append(
                f"view {client_order_id} ({order['status']}): stored as executed {stored}, the exchange has {actual}"
            )
        if client_order_id in accepted and order["status"] in ("unknown", "expired", "denied", "rejected"):
            found.append(f"view {client_order_id}: stored as {order['status']}, accepted at the exchange")
    return found


def executed_by_name(journal: Iterable[Row]) -> dict[str, Decimal]:
    """Return the executed quantity per client order id; for a bracket that of its entry."""
    roots: dict[int, tuple[str, str]] = {}
    executed: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in journal:
        if event["event"] == "order_accepted" and event.get("algo") and event["client_order_id"]:
            roots[event["order_id"]] = (event["client_order_id"], event["side"])
        elif event["event"] == "fill":
            name = event["client_order_id"]
            root = roots.get(event.get("algo_order_id") or 0)
            if name is None and root is not None and root[1] == event["side"]:
                name = root[0]
            if name:
                executed[name] += Decimal(event["quantity"])
    return dict(executed)


def i7_nothing_too_old(evidence: Evidence) -> list[str]:
    """No order was claimed or reached the exchange after its alert expired."""
    orders = {order["client_order_id"]: order for order in evidence.orders}
    found = [
        f"I7 {event['client_order_id']}: claimed at {event['at']}, allowed until {orders[event['client_order_id']]['expires_at']}"
        for event in _claims(evidence)
        if event["at"] > orders[event["client_order_id"]]["expires_at"]
    ]
    for event in evidence.journal:
        name = event.get("client_order_id")
        if event["event"] == "order_received" and name in orders:
            late = event["t"] - milliseconds(orders[name]["expires_at"])
            if late > _LATE_MS:
                found.append(f"I7 {name}: reached the exchange {late} ms after its alert expired")
    return found


def i8_nothing_before_reconciled(evidence: Evidence) -> list[str]:
    """After each start no order is claimed before reconciliation has finished."""
    reconciled = sorted(milliseconds(line["at"]) for line in evidence.log if line.get("event") == "reconciled")
    submitted = [(milliseconds(event["at"]), event["client_order_id"]) for event in _claims(evidence)]
    starts = sorted(evidence.starts_ms)
    found: list[str] = []
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else None
        first = next((at for at in reconciled if at >= start and (end is None or at < end)), end)
        found += [
            f"I8 {name}: claimed {at - start} ms after the start, reconciled after {None if first is None else first - start} ms"
            for at, name in submitted
            if start <= at and (first is None or at < first)
        ]
    return found


def _claims(evidence: Evidence) -> list[Row]:
    """Return when each order was claimed: with its alert, or later in a row of its own."""
    claims = [event for event in evidence.events if event["kind"] == "order_submitting"]
    for event in evidence.events:
        if event["kind"] == "alert_admitted":
            claims += [
                {"at": order["submitted_at"], "client_order_id": order["client_order_id"]}
                for order in json.loads(event["data"])["orders"]
                if order["status"] == "submitting"
            ]
    return claims


def i9_chain_is_whole(evidence: Evidence) -> list[str]:
    """Each event's hash covers its predecessor's; recomputed here from the rows."""
    previous = "0" * 64
    for number, event in enumerate(evidence.events, start=1):
        parts = [event[n] for n in ("sequence", "at", "kind", "alert_id", "client_order_id", "data")]
        if event.get("identity") is not None:
            parts += [event["webhook_id"], event["identity"]]
        text = previous + json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if event["sequence"] != number or event["previous_hash"] != previous or event["hash"] != digest:
            return [f"I9 event {number}: the chain is broken"]
        previous = digest
    return []


def i10_no_secret_outside(evidence: Evidence) -> list[str]:
    """No file outside the vault contains a secret in plain form."""
    found: list[str] = []
    files = [path for path in evidence.data_dir.rglob("*") if path.is_file() and "vault" not in path.parts]
    for path in [*files, *evidence.data_dir.parent.glob("*.log")]:
        content = path.read_bytes()
        found += [
            f"I10 {path.name}: holds the {name}"
            for name, secret in evidence.secrets.items()
            if secret.encode() in content
        ]
    return found


def i11_codes_are_published(evidence: Evidence) -> list[str]:
    """Every stored code is published, or is one of the exchange's."""
    published = set(CODES)
    codes = {row["code"] for row in (*evidence.alerts, *evidence.orders) if row["code"]}
    return [f"I11 {code}: not published" for code in codes if code not in published and not re.match(r"orderly:", code)]


def i12_counts_add_up(evidence: Evidence) -> list[str]:
    """Every alert with a response below 500 other than 401, 403, 413 and 429 is stored once; nothing is stored that was not sent.

    One that was refused or denied claims no identity: if its answer is lost, the resend is judged and stored again.
    """
    sent = {one.alert_id for one in evidence.sent}
    stored = Counter(alert["alert_id"] for alert in evidence.alerts if alert["identity"])
    refused = {one.alert_id for one in evidence.sent if any(a in (401, 403, 413, 429) for a in one.answers)}
    taken = Counter(
        alert["alert_id"]
        for alert in evidence.alerts
        if alert["identity"] and alert["status"] not in ("refused", "denied")
    )
    found = [f"I12 {name}: stored {count} times" for name, count in taken.items() if count > 1]
    found += [f"I12 {name}: stored, but never sent" for name in stored if sent and name not in sent]
    found += [
        f"I12 {one.alert_id}: answered {one.answers}, not stored"
        for one in evidence.sent
        if one.alert_id not in refused
        and any(a is not None and a < 500 for a in one.answers)
        and not stored[one.alert_id]
    ]
    return found


def milliseconds(text: str) -> int:
    """Return the Unix time in ms of a stored or logged time."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _log_lines(path: Path) -> list[Row]:
    lines: list[Row] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        if line.startswith("{"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue  # truncated by a kill
    return lines
