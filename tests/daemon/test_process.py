"""Settings of the daemon's process that only another process can show."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.system.harness import clean_environment

_HEAPS = """
import ctypes, threading
from kekbridge.daemon.process import share_heaps
share_heaps()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
all_started = threading.Barrier(6)
def allocate():
    library.malloc(3000)
    all_started.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
output = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, output)
library.fflush(output)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap per thread")
def test_threads_share_two_heaps() -> None:
    """Each further heap keeps what was free at its peak: a bridge grows with every thread that has read a table once."""
    shown = subprocess.run([sys.executable, "-c", _HEAPS], env=clean_environment(), capture_output=True, check=True)
    assert 1 <= shown.stdout.count(b"<heap nr=") <= 2
