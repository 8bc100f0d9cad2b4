"""The database of a bridge whose files this user may not read, through its control socket (ops/read_operations.py).

For members of the service's group: reading commands run the same statements, and the daemon executes them.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from kekbridge.cli.control import run_operation
from kekbridge.ops.read_operations import BLOB, Select
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database

if TYPE_CHECKING:
    from kekbridge.cli.context import CliContext


class BridgeDatabase(Database):
    """Reads only. Each statement sees the database as it is then: a snapshot of several statements is none."""

    def __init__(self, context: CliContext) -> None:
        super().__init__(context.data_dir / FILE_NAME)
        self._context = context

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that can only read. Raises NoAccess, BridgeUnavailable."""
        yield cast("sqlite3.Connection", _RemoteConnection(self._context))


class _RemoteConnection:
    """The part of sqlite3.Connection that reading functions use."""

    def __init__(self, context: CliContext) -> None:
        self._context = context

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> _RemoteRows:
        given = dict(values) if isinstance(values, Mapping) else list(values)
        found = run_operation(self._context, Select(statement=statement, values=given))
        columns: list[str] = found["columns"]
        places: dict[str, int] = {}
        for index, name in enumerate(columns):
            places.setdefault(name.lower(), index)
        return _RemoteRows(_RemoteRow(columns, places, map(_value, cells)) for cells in json.loads(found["rows"]))


class _RemoteRows:
    """A cursor over rows that were all read."""

    def __init__(self, rows: Iterable[_RemoteRow]) -> None:
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[_RemoteRow]:
        return self._rows

    def fetchone(self) -> _RemoteRow | None:
        return next(self._rows, None)

    def fetchall(self) -> list[_RemoteRow]:
        return list(self._rows)


class _RemoteRow(tuple[Any, ...]):
    """As sqlite3.Row: its cells by position or, without regard to case, by name."""

    _columns: list[str]
    _places: Mapping[str, int]

    def __new__(cls, columns: list[str], places: Mapping[str, int], cells: Iterable[Any]) -> _RemoteRow:
        row = super().__new__(cls, cells)
        row._columns, row._places = columns, places
        return row

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._places[key.lower()] if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        return self._columns


def _value(cell: Any) -> Any:
    return base64.b64decode(cell[BLOB]) if isinstance(cell, dict) else cell
