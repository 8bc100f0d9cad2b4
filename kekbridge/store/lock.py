"""Lock on a data directory: only the process that holds it writes to the database.

A daemon holds it as long as it runs; without a daemon a command takes it for one change. A kernel lock (flock) on a small file, so that
`kill -9` and a power failure release it. The process id in it is only for error messages.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kekbridge.errors import AlreadyRunning, ConfigError

LOCK_FILE = "daemon.lock"
# `holder` takes a shared lock for an instant; a daemon that starts in that instant must not mistake it for another daemon.
_RETRY_FOR_S: Final = 0.5
# A command holds the lock for one change: a daemon that starts meanwhile waits for it.
_COMMAND_FOR_S: Final = 10.0
_RETRY_EVERY_S: Final = 0.02
_COMMAND: Final = "command"


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The process that holds the lock."""

    #: Process id; 0 if it cannot be read.
    pid: int
    #: False for a command that changes something while no daemon runs.
    is_daemon: bool


class DaemonLock:
    """Exclusive use of a data directory, from `acquire` to `release` or the end of the process."""

    def __init__(self, data_dir: Path, *, is_daemon: bool = True) -> None:
        self._path = data_dir / LOCK_FILE
        self._is_daemon = is_daemon
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, as a daemon; waits for a command that holds it, at most 10 s.

        Raises AlreadyRunning, which names the other process, or ConfigError if the directory cannot be used.
        """
        began = time.monotonic()
        while not self.try_acquire():
            owner = lock_owner(self._path.parent)
            waited = time.monotonic() - began
            if owner is not None and waited >= (_RETRY_FOR_S if owner.is_daemon else _COMMAND_FOR_S):
                who = "another kekbridge daemon" if owner.is_daemon else "a kekbridge command"
                raise AlreadyRunning(
                    "already_running",
                    f"{who} (process {owner.pid or 'unknown'}) uses {self._path.parent}; stop it, or use another --data-dir",
                )
            time.sleep(_RETRY_EVERY_S)

    def try_acquire(self) -> bool:
        """Take the lock without waiting; False if another process holds it. Raises ConfigError if the directory cannot be used."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"lock file {self._path} cannot be opened: {error.strerror}; use another --data-dir"
            ) from None
        if not _try_lock(file, fcntl.LOCK_EX):
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.pwrite(file, (f"{os.getpid()}\n" if self._is_daemon else f"{os.getpid()} {_COMMAND}\n").encode(), 0)
        self._file = file
        return True

    def release(self) -> None:
        """Release the lock; calling it twice is harmless. The file stays: if it were removed, two processes could lock two files."""
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
        owner = lock_owner(data_dir)
        return owner.pid if owner is not None and owner.is_daemon else None


def lock_owner(data_dir: Path) -> LockOwner | None:
    """The process that holds the lock of a data directory; None if it is free, or if the lock file cannot be read."""
    path = data_dir / LOCK_FILE
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _try_lock(file, fcntl.LOCK_SH) else _read_owner(path)
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(path: Path) -> LockOwner:
    try:
        pid, _, kind = path.read_text(encoding="ascii").strip().partition(" ")
        return LockOwner(int(pid), is_daemon=kind != _COMMAND)
    except (OSError, ValueError):
        return LockOwner(0, is_daemon=True)
