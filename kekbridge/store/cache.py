"""Write-through cache of the writer's connection: rows and sums that only the writer changes, by table and key.

An entry is never stale: everything is dropped when another connection has committed (checked at the beginning of each transaction) and
when anything is rolled back. Code that changes a table puts the new value here or invalidates it. Other connections have no cache.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Per table. Only a few entries of a table are needed again soon; a table that reaches the bound is cleared.
_MAX_ENTRIES: Final = 1000


class WriterCache:
    """Values by table and key, never changed in place. Belongs to one connection, inside its write transactions."""

    def __init__(self) -> None:
        self._version: int | None = None
        self.tables: dict[str, dict[Hashable, Any]] = {}

    def begin(self, connection: sqlite3.Connection) -> None:
        """Drop everything if another connection has committed since the last call. Call it once the write lock is held."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.tables.clear()
            self._version = version

    def clear(self) -> None:
        """Call it when a transaction, or a part of one, was rolled back."""
        self.tables.clear()


class Connection(sqlite3.Connection):
    """A connection of kekbridge. Only the writer's has a cache."""

    cache: WriterCache | None = None


def get(connection: sqlite3.Connection, table: str, key: Hashable) -> Any | None:
    """The cached value, or None if there is none."""
    cache: WriterCache | None = getattr(connection, "cache", None)
    if cache is None:
        return None
    entries = cache.tables.get(table)
    return None if entries is None else entries.get(key)


def put(connection: sqlite3.Connection, table: str, key: Hashable, value: object) -> None:
    """Cache a value (not None) that was just read or written in this transaction."""
    cache: WriterCache | None = getattr(connection, "cache", None)
    if cache is None:
        return
    entries = cache.tables.setdefault(table, {})
    if len(entries) >= _MAX_ENTRIES and key not in entries:
        entries.clear()
    entries[key] = value


def get_or_load(
    connection: sqlite3.Connection,
    table: str,
    key: Hashable,
    read: Callable[Concatenate[sqlite3.Connection, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """The cached value, else `read(connection, …)`, which is then cached."""
    value: T | None = get(connection, table, key)
    if value is None:
        value = read(connection, *args, **kwargs)
        put(connection, table, key, value)
    return value


def invalidate(connection: sqlite3.Connection, table: str, *keys: Hashable) -> None:
    """Drop these entries of a table; without keys, all of them."""
    cache: WriterCache | None = getattr(connection, "cache", None)
    if cache is None:
        return
    if not keys:
        cache.tables.pop(table, None)
    elif (entries := cache.tables.get(table)) is not None:
        for key in keys:
            entries.pop(key, None)
