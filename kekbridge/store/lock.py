"""Lock on a data directory: two daemons on one database would each send the other's orders.

A kernel lock (flock) on a small file, so that `kill -9` and a power failure release it. The process id in it is only for error messages.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kekbridge.errors import AlreadyRunning, ConfigError

LOCK_FILE = "daemon.lock"
# `holder` takes a shared lock for an instant; a daemon that starts in that instant must not mistake it for another daemon.
_RETRY_FOR_S = 0.5
_RETRY_EVERY_S = 0.02


class DaemonLock:
    """Exclusive use of a data directory by one daemon, from `acquire` to `release` or the end of the process."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_FILE
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises AlreadyRunning, which names the other process, or ConfigError if the directory cannot be used."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"lock file {self._path} cannot be opened: {error.strerror}; use another --data-dir"
            ) from None
        deadline = time.monotonic() + _RETRY_FOR_S
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(file)
                raise AlreadyRunning(
                    "already_running",
                    f"another kekbridge daemon (process {_read_pid(self._path) or 'unknown'}) uses {self._path.parent}; "
                    "stop it, or use another --data-dir",
                )
            time.sleep(_RETRY_EVERY_S)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Release the lock; calling it twice is harmless. The file stays: if it were removed, two daemons could lock two files."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    @staticmethod
    def holder(data_dir: Path) -> int | None:
        """Process id of the daemon running on `data_dir`, or None. 0 if it holds the lock but its id cannot be read."""
        path = data_dir / LOCK_FILE
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _try_lock(file, fcntl.LOCK_SH) else _read_pid(path) or 0
        finally:
            os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
