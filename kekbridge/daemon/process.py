"""Python's garbage collector, told that this process lives long: few collections, and none of what was there from the start.

Full collections of everything imported are pauses of 20 to 30 ms in the middle of an alert, and 50 ms of the start.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from typing import Final


def collect_rarely() -> None:
    """Look seldom for cycles; before the imports, which make many objects and next to no garbage.

    Each alert's connection leaves ten objects in a cycle: 10,000 of them are 2 MiB and a collection of a millisecond.
    """
    gc.set_threshold(10_000, 20, 50)


def freeze_startup_objects() -> None:
    """Leave everything allocated so far out of every later collection."""
    gc.freeze()


_PR_SET_DUMPABLE: Final = 4


def disable_core_dumps() -> None:
    """No core file from now on, and on Linux none to a crash collector either, which the limit alone does not stop (core(5), piping).

    It also keeps other processes of the same user from reading this one's memory and environment.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without prctl: the limit has to do
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
