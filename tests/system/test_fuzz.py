"""The fuzz campaign at a small size; `python -m tests.system.fuzz --bodies 100000` runs it in full."""

from __future__ import annotations

from pathlib import Path

from tests.system import fuzz


def test_no_body_causes_an_error_or_an_order(tmp_path: Path) -> None:
    """No body causes a 5xx or an order without a valid signature, and the daemon still answers, in bounded memory."""
    report = fuzz.run(tmp_path, bodies=2000, seed=20261122)
    assert report.server_errors == []
    assert report.orders == 0
    assert report.is_alive
    assert report.memory_after_kib < report.memory_before_kib * 1.5
