"""A small size of the fuzz campaign; `python -m tests.system.fuzz --bodies 100000` is the whole one."""

from __future__ import annotations

from pathlib import Path

from tests.system import fuzz


def test_no_body_brings_an_error_or_an_order(tmp_path: Path) -> None:
    """Whatever is sent: no 5xx, no order without a valid proof, and the daemon goes on answering in bounded memory."""
    report = fuzz.run(tmp_path, bodies=5000, seed=20261122)
    assert report.server_errors == []
    assert report.orders == 0
    assert report.is_alive
    assert report.memory_after_kib < report.memory_before_kib * 1.5
