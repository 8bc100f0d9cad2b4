"""Storage of the paper exchange: the current rows and an append-only journal of events in one SQLite file.

Events and the rows that they changed are committed in one transaction, so that a kill -9 keeps both or neither.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.paper.codec import format_decimal
from kekbridge.paper.models import RECORD_TYPES, Record, from_text, to_text

_SCHEMA = """
create table if not exists rows (kind text not null, id text not null, body text not null,
    primary key (kind, id)) strict, without rowid;
create table if not exists journal (seq integer primary key, body text not null) strict;
"""


def _journal_value(value: object) -> str:
    if isinstance(value, Decimal):
        return format_decimal(value)
    raise TypeError(f"cannot journal {type(value).__name__}")


class PaperJournal:
    """An open paper.db. It is used on the event loop: a commit takes about 50 µs."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        # With NORMAL a killed process loses nothing; a power cut may, which is acceptable for play money.
        self._db.execute("pragma synchronous=normal")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def load(self) -> list[Record]:
        """Return every stored row, by type in the order of RECORD_TYPES, then by ID (shorter IDs first)."""
        found: list[Record] = []
        for cls in RECORD_TYPES:
            rows = self._db.execute(
                "select body from rows where kind = ? order by length(id), id", (cls.kind,)
            ).fetchall()
            found.extend(from_text(cls, body) for (body,) in rows)
        return found

    def commit(self, rows: Iterable[Record], events: Iterable[dict[str, object]]) -> None:
        """Store changed rows and new events in one transaction."""
        self._db.execute("begin immediate")
        try:
            self._db.executemany(
                "insert into rows (kind, id, body) values (?, ?, ?) on conflict do update set body = excluded.body",
                [(row.kind, row.row_id, to_text(row)) for row in rows],
            )
            self._db.executemany(
                "insert into journal (body) values (?)",
                [(json.dumps(event, default=_journal_value),) for event in events],
            )
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def clear(self) -> None:
        """Delete all rows and events."""
        self._db.executescript("begin immediate; delete from rows; delete from journal; commit;")

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the events after sequence number `after`, oldest first, each with its `seq`."""
        rows = self._db.execute("select seq, body from journal where seq > ? order by seq", (after,))
        return [{"seq": seq, **json.loads(body)} for seq, body in rows]
