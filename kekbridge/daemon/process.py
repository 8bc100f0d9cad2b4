"""Process-wide settings of the daemon: garbage collection and heaps for a long life, and no core dumps."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4
# Of mallopt(3), in malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_HEAPS: Final = 2
_LARGE_BYTES: Final = 128 * 1024


def collect_rarely() -> None:
    """Collect garbage rarely. Call it before the imports, which create many objects and next to no garbage.

    Each alert's connection leaves ten objects in a cycle: 10,000 of them are 2 MiB and a collection of a millisecond.
    """
    gc.set_threshold(10_000, 20, 50)


def freeze_startup_objects() -> None:
    """Exclude everything allocated so far from later collections.

    Full collections of everything imported are pauses of 20 to 30 ms in the middle of an alert, and 50 ms of the start.
    """
    gc.freeze()


def share_heaps() -> None:
    """Let all threads share two heaps, and return blocks of 128 KiB and more to the system when they are freed. glibc only.

    Call it before threads start: the C library gives each of them a heap of its own, and keeps in each what was in use at its peak, a tenth
    of the daemon's memory.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, _HEAPS)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def own_process_ids() -> frozenset[int]:
    """Ids by which a supervisor may know this process: its own and, in the one-file executable, that of the loader that waits for it."""
    return frozenset({os.getpid(), os.getppid()} if has_loader() else {os.getpid()})


def has_loader() -> bool:
    """True in the one-file executable: its first process unpacks it, starts this one, and passes signals on to it."""
    return bool(getattr(sys, "frozen", False))


def disable_core_dumps() -> None:
    """Write no core file and, on Linux, give none to a crash collector, which the limit alone does not prevent (core(5), piping).

    It also keeps other processes of the same user from reading this one's memory and environment.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without prctl: the limit has to do
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
