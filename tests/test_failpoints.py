"""An armed failpoint ends the process like kill -9; all others do nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = "from kekbridge.failpoints import hit\nfor n in range(5):\n hit('W5'); print(n, flush=True)"


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
def test_dies_at_the_armed_failpoint(armed: str | None, code: int, printed: str) -> None:
    """Only the named failpoint kills, at its n-th hit; without the variable none does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("KEKBRIDGE_TEST_CRASH_AT", None)
    if armed:
        environment["KEKBRIDGE_TEST_CRASH_AT"] = armed
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.split()) == (code, printed.split())
