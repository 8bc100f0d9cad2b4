"""Crash points end the process as kill -9 does, where they are told to and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

REACHES = "from kekbridge.failpoints import reach\nfor n in range(5):\n reach('W5'); print(n, flush=True)"


@pytest.mark.parametrize(
    ("armed", "code", "printed"),
    [
        (None, 0, "0 1 2 3 4"),
        ("W4", 0, "0 1 2 3 4"),
        ("W5", -signal.SIGKILL, ""),
        ("W5:3", -signal.SIGKILL, "0 1"),
        ("W5:6", 0, "0 1 2 3 4"),
    ],
)
def test_dies_at_the_armed_place(armed: str | None, code: int, printed: str) -> None:
    """Only the named point kills, at the n-th time; without the variable nothing happens."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("KEKBRIDGE_TEST_CRASH_AT", None)
    if armed:
        environment["KEKBRIDGE_TEST_CRASH_AT"] = armed
    done = subprocess.run(
        [sys.executable, "-c", REACHES], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.split()) == (code, printed.split())
