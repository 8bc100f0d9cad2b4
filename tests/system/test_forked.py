"""Forked commands behave like processes of their own, also when several threads run them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.system.forked import run_forked
from tests.system.harness import clean_environment


def test_every_thread_gets_the_exit_code_of_its_own_command(tmp_path: Path) -> None:
    """However many end at the same time as others start: 0, or 2 for wrong usage."""
    environment = clean_environment() | {"KEKBRIDGE_DATA_DIR": str(tmp_path)}
    calls = [("--version",), ("bogus",)] * 60
    with ThreadPoolExecutor(12) as threads:
        codes = list(threads.map(lambda call: run_forked(*call, environment=environment).returncode, calls))
    assert codes == [0, 2] * 60
