"""Failpoints: named places where a test may end the process as `kill -9` would.

Inert unless KEKBRIDGE_TEST_CRASH_AT names one when the first is reached; each costs one comparison otherwise. What a crash at W0 to W10
leaves, and what the next start does, is in docs/internals/architecture.md section 9.
"""

from __future__ import annotations

import asyncio
import os
import signal
from functools import cache

VARIABLE = "KEKBRIDGE_TEST_CRASH_AT"


class _Armed:
    """The failpoint that ends this process, and how often it must be reached; an empty name for none."""

    def __init__(self, text: str) -> None:
        self.name, _, times = text.partition(":")
        self.left = int(times or "1")


@cache
def _armed() -> _Armed:
    """Read at the first failpoint only: an alert passes eight of them."""
    return _Armed(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Kill the process if the armed failpoint is `name`; `W5:3` kills it the third time that W5 is reached."""
    armed = _armed()
    if armed.name != name:
        return
    armed.left -= 1
    if armed.left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


def hit_soon(name: str) -> None:
    """The same a millisecond later, for places where bytes were handed to the connection but are not written yet."""
    if _armed().name == name:
        asyncio.get_running_loop().call_later(0.001, hit, name)
