"""Every scenario of the benchmark runs at its smallest size; the measured values do not matter here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from tests.bench.scenarios import SCENARIOS
from tests.paths import ROOT
from tests.system.harness import clean_environment

HAS_FLASK = all(importlib.util.find_spec(name) for name in ("flask", "ccxt"))


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_scenario_runs(name: str) -> None:
    """Each scenario ends and prints at least one figure of kekbridge."""
    if name in ("flushes", "disk") and shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if name == "memory" and os.geteuid() != 0:
        pytest.skip("only root may read the memory of a process that forbids core dumps")
    systems = "kekbridge,reference" + (",flask,flask throttled" if HAS_FLASK else "")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", name, "--rounds", "1", "--size", "smoke", "--systems", systems],
        cwd=ROOT,
        env=clean_environment() | {"KEKBRIDGE_BENCH_SETTLE_S": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "kekbridge" in done.stdout, done.stderr[-2000:]
