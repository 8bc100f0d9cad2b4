"""Reading for commands whose user may use the control socket but not the files: members of the service's group.

A command builds the same reports from the same statements, and the daemon runs these: on a connection that can only read, one SELECT at
a time, within bounds. Members of the group may do everything else over the socket, so this opens nothing that is closed to them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final

from kekbridge.errors import ConfigError
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.store.database import Database

_LONGEST_S: Final = 8.0
_STEPS_BETWEEN_LOOKS: Final = 10_000
_MOST_ROWS: Final = 200_000
_MOST_CHARACTERS: Final = 16 << 20
# Of one text, blob or row, also of those that a statement only computes: the service's memory is limited (cli/units.py). The largest that
# is stored is an alert's body of 64 KiB.
_MOST_BYTES_OF_VALUE: Final = 4 << 20
# Threads of their own: those of the event loop look up the exchange's address, too.
_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="kekbridge-select")
# SQLite makes this table of a function once per connection, which looks like a CREATE TABLE to the authorizer.
_MAKES_JSON_EACH: Final = "SELECT 1 FROM json_each('[]')"
#: Key of a blob in a row: its value is base64.
BLOB: Final = "blob"
_ALLOWED: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


class Select(Operation, frozen=True, kw_only=True):
    """Run one SELECT on the bridge's database. Returns the names of the columns, and the rows as the text of a JSON list of lists.

    As text, because the event loop would take seconds to convert a large answer, and alerts would wait for it.
    """

    operation: ClassVar[str] = "select"
    needs_daemon: ClassVar[bool] = True
    is_logged: ClassVar[bool] = False

    #: One SELECT statement.
    statement: str
    #: Values of its parameters, by position or by name.
    values: list[Any] | dict[str, Any] = []  # noqa: RUF012 - msgspec copies it

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        # A connection of its own: a slow statement must not hold up the daemon's readers.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREADS, _select, context.database, self.statement, self.values)


class ShowSettings(Operation, frozen=True, kw_only=True):
    """The settings that the bridge uses. They hold no secret."""

    operation: ClassVar[str] = "settings"
    needs_daemon: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return context.settings.model_dump(mode="json")


def _select(database: Database, statement: str, values: list[Any] | dict[str, Any]) -> dict[str, Any]:
    ends_at = time.monotonic() + _LONGEST_S
    with database.snapshot() as connection:
        connection.execute(_MAKES_JSON_EACH).fetchall()
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES_OF_VALUE)
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
        connection.set_progress_handler(lambda: int(time.monotonic() > ends_at), _STEPS_BETWEEN_LOOKS)
        try:
            return _read(connection, statement, values)
        except (sqlite3.DatabaseError, sqlite3.Warning, OverflowError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise ConfigError(
                    f"reading took more than {_LONGEST_S:g} s; narrow it with --since or --limit"
                ) from None
            raise ConfigError(f"the bridge cannot read this ({error}); restart it after an upgrade") from None
        finally:
            connection.set_progress_handler(None, 0)
            connection.set_authorizer(None)


def _read(connection: sqlite3.Connection, statement: str, values: list[Any] | dict[str, Any]) -> dict[str, Any]:
    cursor = connection.execute(statement, values)
    rows: list[str] = []
    size = 0
    for row in cursor:
        # One by one: a long call of the encoder would hold up the event loop, which runs no Python code meanwhile.
        rows.append(json.dumps([_cell(value) for value in row]))
        size += len(rows[-1])
        if len(rows) > _MOST_ROWS or size > _MOST_CHARACTERS:
            raise ConfigError("the answer is too large; narrow it with --since or --limit, or use sudo")
    return {"columns": [column[0] for column in cursor.description or ()], "rows": f"[{','.join(rows)}]"}


def _cell(value: Any) -> Any:
    return {BLOB: base64.b64encode(value).decode()} if isinstance(value, bytes) else value
