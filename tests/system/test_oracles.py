"""The oracles can fail: each is given evidence with the violation it checks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system import oracles
from tests.system.exposure import longest_naked_s
from tests.system.harness import Sent
from tests.system.oracles import Evidence

NAME = "kb-1"
T0 = "2026-01-15T10:00:00.000Z"
T0_MS = oracles.milliseconds(T0)


def evidence(tmp_path: Path, **changes: Any) -> Evidence:
    """Build evidence of one alert that was sent, stored and executed without a violation; `changes` replace parts of it."""
    order = {
        "client_order_id": NAME, "alert_id": "01", "leg": 0, "status": "filled", "executed_quantity": "1", "attempt": 1,
        "order_type": "market", "order_id": "9", "expires_at": "2026-01-15T10:01:00.000Z", "code": None,
    }  # fmt: skip
    values: dict[str, Any] = {
        "sent": [Sent("a1", [200])],
        "alerts": [{"id": "01", "alert_id": "a1", "identity": "id:a1", "status": "filled", "code": None}],
        "orders": [order],
        "events": [],
        "journal": [
            accepted(),
            {"event": "order_received", "t": T0_MS, "client_order_id": NAME},
            {"event": "fill", "t": T0_MS, "client_order_id": NAME, "side": "BUY", "quantity": "1", "symbol": "S"},
        ],
        "log": [{"event": "reconciled", "at": T0}],
        "secrets": {"api secret": "whs_secret"},
        "data_dir": tmp_path / "data",
        "starts_ms": [T0_MS],
    }
    for key, change in changes.items():
        values[key] = change(values[key]) if callable(change) else change
    return Evidence(**values)


def accepted(**changes: Any) -> dict[str, Any]:
    return {
        "event": "order_accepted",
        "t": T0_MS,
        "client_order_id": NAME,
        "order_id": 9,
        "side": "BUY",
        "symbol": "S",
        **changes,
    }


def with_changes(**changes: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**rows[0], **changes}, *rows[1:]]


def claim(at: str) -> dict[str, Any]:
    return {
        "sequence": 1, "at": at, "kind": "order_submitting", "alert_id": "01", "client_order_id": NAME, "data": "{}",
        "previous_hash": "", "hash": "",
    }  # fmt: skip


def test_correct_evidence_has_no_findings(tmp_path: Path) -> None:
    """The base of the cases below has no violation."""
    assert oracles.judge(evidence(tmp_path)).failures == []


@pytest.mark.parametrize(
    ("oracle", "changes"),
    [
        (oracles.i1_acknowledged_is_kept, {"alerts": []}),
        (oracles.i1_every_alert_has_an_end, {"alerts": with_changes(status="queued")}),
        (oracles.i2_one_order_per_leg, {"journal": lambda rows: [*rows, accepted(order_id=10)]}),
        (oracles.i3_no_order_without_alert, {"orders": []}),
        (oracles.i3_no_order_without_alert, {"orders": with_changes(attempt=0)}),
        (oracles.executions_agree, {"orders": with_changes(executed_quantity="0.5")}),
        (oracles.executions_agree, {"orders": with_changes(status="unknown")}),
        (oracles.i7_nothing_too_old, {"orders": with_changes(expires_at="2026-01-15T09:59:58.000Z")}),
        (oracles.i7_nothing_too_old, {"events": [claim("2026-01-15T10:01:01.000Z")]}),
        (oracles.i8_nothing_before_reconciled, {"events": [claim(T0)], "log": []}),
        (oracles.i9_chain_is_whole, {"events": [claim(T0)]}),
        (oracles.i11_codes_are_published, {"orders": with_changes(code="made_up")}),
        (oracles.i12_counts_add_up, {"alerts": []}),
        (oracles.i12_counts_add_up, {"sent": [Sent("a2", [200])]}),
        (oracles.i12_counts_add_up, {"alerts": lambda rows: [*rows, {**rows[0], "id": "02"}]}),
    ],
)
def test_each_oracle_finds_its_violation(
    tmp_path: Path, oracle: Callable[[Evidence], list[str]], changes: dict[str, Any]
) -> None:
    """An oracle that cannot fail proves nothing."""
    assert oracle(evidence(tmp_path)) == []
    assert oracle(evidence(tmp_path, **changes)) != []


@pytest.mark.parametrize("status", ["refused", "denied"])
def test_an_alert_that_was_not_taken_may_be_stored_again(tmp_path: Path, status: str) -> None:
    """It claims no identity: a sender whose answer was lost sends it again, and it is judged again."""
    twice = {"alerts": lambda rows: [{**rows[0], "id": name, "status": status} for name in ("01", "02")]}
    assert oracles.i12_counts_add_up(evidence(tmp_path, **twice)) == []


def test_a_secret_in_a_file_is_found(tmp_path: Path) -> None:
    """I10 searches every file outside the vault."""
    (tmp_path / "data" / "vault").mkdir(parents=True)
    (tmp_path / "data" / "vault" / "key").write_text("whs_secret")
    assert oracles.i10_no_secret_outside(evidence(tmp_path)) == []
    (tmp_path / "daemon.log").write_text("oh whs_secret")
    assert oracles.i10_no_secret_outside(evidence(tmp_path)) != []


def test_naked_time_is_measured_from_the_journal() -> None:
    """It runs from the fill whose stop is rejected until a replacement stop of the whole size is accepted."""
    bracket = accepted(algo=True, algo_type="BRACKET", order_id=5, quantity="2", reduce_only=False)
    fill = {"event": "fill", "t": T0_MS, "symbol": "S", "side": "BUY", "quantity": "2", "algo_order_id": 5}
    gone = {**fill, "event": "order_refused", "algo": True, "algo_type": "STOP_LOSS", "root_order_id": 5, "order_id": 7}
    stop = accepted(algo=True, algo_type="STOP", order_id=8, quantity="2", reduce_only=True, t=T0_MS + 1500)
    assert longest_naked_s([bracket, fill, stop]) == 0.0
    assert longest_naked_s([bracket, fill, gone, stop]) == 1.5
    assert longest_naked_s([bracket, fill, gone, {**stop, "quantity": "1"}, accepted(t=T0_MS + 9000)]) == 9.0
    assert longest_naked_s([fill]) is None
