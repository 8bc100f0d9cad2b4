"""Reading over the control socket: one SELECT, nothing else, within bounds."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from kekbridge.errors import ConfigError
from kekbridge.ops.read_operations import Select, ShowSettings
from kekbridge.store import settings
from tests.ops.operating import Desk
from tests.store.factories import NOW


async def select(desk: Desk, statement: str, values: list[Any] | dict[str, Any] | None = None) -> dict[str, Any]:
    found = await Select(statement=statement, values=values or []).run(desk)
    return found | {"rows": json.loads(found["rows"])}


async def test_a_statement_returns_columns_and_rows(desk: Desk) -> None:
    """By position or by name; blobs as base64, functions of the store and JSON tables included."""
    await desk.database.write(settings.set_value, "k", {"a": [1, 2]}, now=NOW)
    found = await select(desk, "SELECT key, ? AS n, x'00ff' AS b FROM settings WHERE key = ?", [7, "k"])
    assert found == {"columns": ["key", "n", "b"], "rows": [["k", 7, {"blob": "AP8="}]]}
    statement = "SELECT exact_sum('0.1', '0.2') FROM json_each(:list) LIMIT 1"
    assert (await select(desk, statement, {"list": "[1]"}))["rows"] == [["0.3"]]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM settings",
        "INSERT INTO settings VALUES ('a', '1', 't')",
        "CREATE TABLE x (y)",
        "DROP TABLE settings",
        "ATTACH DATABASE '/tmp/other.db' AS other",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "VACUUM INTO '/tmp/copy.db'",
        "SELECT load_extension('x')",
        "SELECT 1; SELECT 2",
        "SELECT * FROM nothing",
        "no SQL",
    ],
)
async def test_nothing_but_one_select_is_run(desk: Desk, statement: str) -> None:
    """Not even what would only change the connection: an error on one line, and the bridge goes on."""
    await desk.database.write(settings.set_value, "k", 1, now=NOW)
    with pytest.raises(ConfigError, match="the bridge cannot read this"):
        await Select(statement=statement).run(desk)
    assert await desk.database.read(settings.get_value, "k") == 1


async def test_an_answer_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an endless statement nor a huge result holds up the bridge."""
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    monkeypatch.setattr("kekbridge.ops.read_operations._MOST_ROWS", 1000)
    with pytest.raises(ConfigError, match="the answer is too large; narrow it with --since or --limit"):
        await Select(statement=numbers).run(desk)
    monkeypatch.setattr("kekbridge.ops.read_operations._LONGEST_S", 0.05)
    with pytest.raises(ConfigError, match="narrow it with --since or --limit"):
        await Select(statement=f"SELECT max(x) FROM ({numbers})").run(desk)


@pytest.mark.parametrize("statement", ["SELECT zeroblob(100000000)", "SELECT hex(zeroblob(3000000))", "SELECT ?"])
async def test_no_value_takes_the_services_memory(desk: Desk, statement: str) -> None:
    """Refused before it is computed, and so is a number that SQLite cannot hold: an error on one line."""
    with pytest.raises(ConfigError, match="the bridge cannot read this"):
        await Select(statement=statement, values=[10**30] if "?" in statement else []).run(desk)


async def test_slow_statements_leave_the_threads_of_the_loop_free(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are running: the exchange's address is looked up in those threads."""
    monkeypatch.setattr("kekbridge.ops.read_operations._LONGEST_S", 0.3)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    slow = [asyncio.ensure_future(Select(statement=endless).run(desk)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.to_thread(int)
    assert not any(each.done() for each in slow)
    for each in slow:
        each.cancel()
        with suppress(ConfigError, asyncio.CancelledError):
            await each


async def test_the_settings_of_the_bridge_are_read_back(desk: Desk) -> None:
    """A command judges limits by the bridge's settings, not by its own."""
    data = await ShowSettings().run(desk)
    assert type(desk.settings).model_validate(data) == desk.settings
