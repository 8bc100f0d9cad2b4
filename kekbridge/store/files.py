"""The database's files under a running daemon: are they still those that it has open?

SQLite goes on writing to files that were deleted or replaced, and all of it is gone at the next start. A few stats tell.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Written beside the database by the first start, so that a missing or empty database is not taken for a new directory.
MARKER: Final = "account.json"
_BESIDE: Final = ("-wal", "-shm")


class DatabaseFiles:
    """The identities of the files (device and inode) as they were opened. Any thread."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the database cannot be looked at."""
        self._path = os.fspath(path)
        self._database = _identity(os.stat(self._path))
        self._beside: dict[str, tuple[int, int]] = {}

    def remember_log(self) -> None:
        """Remember the log and its index, which a connection has opened."""
        for suffix in _BESIDE:
            try:
                self._beside[suffix] = _identity(os.stat(self._path + suffix))
            except OSError:
                self._beside.pop(suffix, None)

    def forget_log(self) -> None:
        """The connection was closed: the log may be made again."""
        self._beside.clear()

    def problem(self) -> str | None:
        """What happened to the files, as a clause; None if they are those that were opened."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            return f"{self._path} was deleted or moved ({error.strerror})"
        if _identity(found) != self._database:
            return f"{self._path} was replaced by another file"
        if not found.st_size:
            return f"{self._path} was emptied"
        for suffix, known in self._beside.items():
            try:
                is_same = _identity(os.stat(self._path + suffix)) == known
            except OSError:
                return f"{self._path}{suffix} was deleted or moved"
            if not is_same:
                return f"{self._path}{suffix} was replaced by another file"
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
