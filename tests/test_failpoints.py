"""A failpoint ends the process as kill -9 does, if it is armed, and not otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

HIT_W5 = "from kekbridge.failpoints import hit\nfor n in range(5):\n hit('W5'); print(n, flush=True)"


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
    """Only the named failpoint kills, the n-th time it is reached; without the variable nothing happens."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("KEKBRIDGE_TEST_CRASH_AT", None)
    if armed:
        environment["KEKBRIDGE_TEST_CRASH_AT"] = armed
    done = subprocess.run(
        [sys.executable, "-c", HIT_W5], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.split()) == (code, printed.split())
