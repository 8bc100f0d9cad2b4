"""What the writer knows of the tables without reading them again: facts that only it changes, each under its table and a key.

A fact is never old. It holds while nobody else commits to the file, which SQLite is asked at the beginning of each transaction, and all
facts are forgotten as soon as anything is taken back. Whoever changes a table tells here what it holds now, or forgets the table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Of one table. What is needed again soon are a few facts of each; more would only be kept from the day they were needed.
_MOST_FACTS: Final = 1000


class WriterCache:
    """Facts by table and key, never changed in place. One connection's, which must be inside a write transaction."""

    def __init__(self) -> None:
        self._version: int | None = None
        self.facts: dict[str, dict[Hashable, Any]] = {}

    def begin(self, connection: sqlite3.Connection) -> None:
        """Call it once the write lock is held: forget everything when anybody else has committed since the last time."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.facts.clear()
            self._version = version

    def forget_all(self) -> None:
        """Call it when a transaction, or a part of one, was taken back."""
        self.facts.clear()


class Connection(sqlite3.Connection):
    """A connection of kekbridge; the writer's has a memory, all others read."""

    memory: WriterCache | None = None


def get(connection: sqlite3.Connection, table: str, key: Hashable) -> Any | None:
    """The fact, or None when it is not remembered."""
    memory: WriterCache | None = getattr(connection, "memory", None)
    if memory is None:
        return None
    facts = memory.facts.get(table)
    return None if facts is None else facts.get(key)


def put(connection: sqlite3.Connection, table: str, key: Hashable, fact: object) -> None:
    """From now on this is the fact; not None. For what was just read, or written, in this transaction."""
    memory: WriterCache | None = getattr(connection, "memory", None)
    if memory is None:
        return
    facts = memory.facts.setdefault(table, {})
    if len(facts) >= _MOST_FACTS and key not in facts:
        facts.clear()
    facts[key] = fact


def get_or_load(
    connection: sqlite3.Connection,
    table: str,
    key: Hashable,
    read: Callable[Concatenate[sqlite3.Connection, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """The fact; what is not remembered is read, `read(connection, …)`, and remembered from then on."""
    fact: T | None = get(connection, table, key)
    if fact is None:
        fact = read(connection, *args, **kwargs)
        put(connection, table, key, fact)
    return fact


def invalidate(connection: sqlite3.Connection, table: str, *keys: Hashable) -> None:
    """These facts of a table, without keys all of them: they are about to be changed, or were, or nobody will ask again."""
    memory: WriterCache | None = getattr(connection, "memory", None)
    if memory is None:
        return
    if not keys:
        memory.facts.pop(table, None)
    elif (facts := memory.facts.get(table)) is not None:
        for key in keys:
            facts.pop(key, None)
