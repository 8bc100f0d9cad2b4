"""Give memory back to the system when a flood of connections is over.

Python's collector runs rarely in the daemon, and the C library keeps freed memory that lies between what is still in use.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Collect all garbage, and return what is free then to the system. Takes some 10 ms."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
