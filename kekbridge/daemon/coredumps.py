"""Keeps this process's memory out of core files: it holds the signing key and the webhooks' secrets in the clear. Called first of all."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def forbid() -> None:
    """No core file from now on, and on Linux none to a crash collector either, which the limit alone does not stop (core(5), piping).

    It also keeps other processes of the same user from reading this one's memory and environment.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without prctl: the limit has to do
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
