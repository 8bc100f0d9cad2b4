"""Named places where a test may end the process as `kill -9` would: W0 to W9 of docs/internals/architecture.md section 9.

Inert unless KEKBRIDGE_TEST_CRASH_AT names the place when the first one is reached: each costs one comparison otherwise. It knows nothing of
the pipeline.

W0 before the commit of an alert - W1 committed, not answered - W2 answered, not picked up - W3 inside the admitting transaction -
W4 "submitting" committed, not sent - W5 sent, no answer - W6 answered, not recorded - W7 filled, stop not seen - W8 between two legs -
W9 recorded, nobody told.
"""

from __future__ import annotations

import asyncio
import os
import signal
from functools import cache

VARIABLE = "KEKBRIDGE_TEST_CRASH_AT"


class _Armed:
    """The place where this process is to end, and how often it must be reached first; no place when none is named."""

    def __init__(self, text: str) -> None:
        self.place, _, times = text.partition(":")
        self.left = int(times or "1")


@cache
def _armed() -> _Armed:
    """Looked up when the first place is reached, and not again: an alert passes eight of them."""
    return _Armed(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Die here when the armed place is `name`; `W5:3` dies the third time that W5 is reached."""
    armed = _armed()
    if armed.place != name:
        return
    armed.left -= 1
    if armed.left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


def hit_soon(name: str) -> None:
    """The same a millisecond later: for places where the bytes have been handed over but are not written yet."""
    if _armed().place == name:
        asyncio.get_running_loop().call_later(0.001, hit, name)
