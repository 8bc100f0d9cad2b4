"""The connection class of kekbridge, and what a connection remembers during one write transaction."""

from __future__ import annotations

import sqlite3


class Connection(sqlite3.Connection):
    """A connection of kekbridge. What it remembers besides is the writer's, for one transaction at a time."""

    #: Sequence and hash of the journal's last row as of this transaction; None: read it.
    head: tuple[int, str] | None = None
    #: What jobs changed that the daemon holds in memory: `settings`, `webhooks`.
    changed: frozenset[str] = frozenset()


def note_change(connection: sqlite3.Connection, what: str) -> None:
    """Note that this transaction changes something that the daemon holds in memory; it reads it again after the commit."""
    if isinstance(connection, Connection):
        connection.changed |= {what}
