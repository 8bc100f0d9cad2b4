"""Named places where a test may end the process as `kill -9` would: W0 to W9 of reliability.md section 4.

Inert unless KEKBRIDGE_TEST_CRASH_AT names the place: then it costs one look into the environment. It knows nothing of the pipeline.

W0 before the commit of an alert - W1 committed, not answered - W2 answered, not picked up - W3 inside the admitting transaction -
W4 "submitting" committed, not sent - W5 sent, no answer - W6 answered, not recorded - W7 filled, stop not seen - W8 between two legs -
W9 recorded, nobody told.
"""

from __future__ import annotations

import asyncio
import os
import signal

VARIABLE = "KEKBRIDGE_TEST_CRASH_AT"


def reach(name: str) -> None:
    """Die here when the armed place is `name`; `W5:3` dies the third time that W5 is reached."""
    armed = os.environ.get(VARIABLE)
    if armed is None:
        return
    place, _, times = armed.partition(":")
    if place != name:
        return
    left = int(times or "1")
    if left <= 1:
        os.kill(os.getpid(), signal.SIGKILL)
    os.environ[VARIABLE] = f"{place}:{left - 1}"


def reach_soon(name: str) -> None:
    """The same a millisecond later: for places where the bytes have been handed over but are not written yet."""
    if VARIABLE in os.environ:
        asyncio.get_running_loop().call_later(0.001, reach, name)
