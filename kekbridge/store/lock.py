"""Lock on a data directory: only the process that holds it writes to the database.

A daemon holds it as long as it runs; without a daemon a command takes it for one change. A kernel lock (flock) on a small file, so that
`kill -9` and a power failure release it. The file names the process that holds it, and says whether that is a daemon; while the lock is
free, its text means nothing. Taking the lock and writing the text is one step for a reader: both lock the directory meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kekbridge.errors import AlreadyRunning, ConfigError

LOCK_FILE = "daemon.lock"
# A daemon that was killed holds the lock for an instant yet: one that is started in its place waits for it.
_DAEMON_FOR_S: Final = 0.5
# A command holds the lock for one change: a daemon that starts meanwhile waits for it.
_COMMAND_FOR_S: Final = 10.0
_RETRY_EVERY_S: Final = 0.02
# The directory is locked for some microseconds; for longer only if a process was stopped just then, and others must not wait for that one.
_DIRECTORY_FOR_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.001
_COMMAND: Final = "command"
_LONGEST_RECORD: Final = 100


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
        """Take the lock; waits for a command that holds it, at most 10 s.

        Raises AlreadyRunning, which names the other process, or ConfigError if the directory cannot be used.
        """
        began = time.monotonic()
        while not self.try_acquire():
            owner = lock_owner(self._path.parent)
            waited = time.monotonic() - began
            if owner is not None and waited >= (_DAEMON_FOR_S if owner.is_daemon else _COMMAND_FOR_S):
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
        with _locked_directory(self._path.parent):
            if not _try_lock(file, fcntl.LOCK_EX):
                os.close(file)
                return False
            record = (f"{os.getpid()}\n" if self._is_daemon else f"{os.getpid()} {_COMMAND}\n").encode()
            try:
                os.pwrite(file, record, 0)  # first: a full disk has room for what replaces as much
                os.ftruncate(file, len(record))
            except OSError as error:
                os.close(file)
                raise ConfigError(f"lock file {self._path} cannot be written: {error.strerror}") from None
        self._file = file
        return True

    def release(self) -> None:
        """Release the lock; calling it twice is harmless. The file stays: if it were removed, two processes could lock two files."""
        if self._file is not None:
            # Closing would not do: a process that was just forked shares the file until it runs its program.
            fcntl.flock(self._file, fcntl.LOCK_UN)
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
    with _locked_directory(data_dir):
        try:
            file = os.open(data_dir / LOCK_FILE, os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _try_lock(file, fcntl.LOCK_SH) else _read_owner(file)
        finally:
            os.close(file)


@contextmanager
def _locked_directory(data_dir: Path) -> Iterator[None]:
    """Exclude other processes that take the lock or look who holds it. Goes on without if that is not possible: the lock itself is safe."""
    try:
        directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        give_up_at = time.monotonic() + _DIRECTORY_FOR_S
        with suppress(OSError):  # a file system without locks on directories
            while not _try_lock(directory, fcntl.LOCK_EX) and time.monotonic() < give_up_at:
                time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(directory)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(file: int) -> LockOwner:
    try:
        pid, _, kind = os.pread(file, _LONGEST_RECORD, 0).decode("ascii").strip().partition(" ")
        return LockOwner(int(pid), is_daemon=kind != _COMMAND)
    except (OSError, ValueError):
        return LockOwner(0, is_daemon=True)
