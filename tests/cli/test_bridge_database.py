"""Rows that come over the control socket behave like those of SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kekbridge.cli.bridge_database import BridgeDatabase
from kekbridge.cli.context import CliContext
from kekbridge.config import load_settings
from kekbridge.store.database import Database
from tests.cli.processes import bare_environment, serving


def test_rows_are_those_of_the_database(tmp_path: Path) -> None:
    """By position, by name without regard to case, as a tuple; empty results and errors too."""
    with serving(bare_environment(tmp_path / "data")):
        context = CliContext(tmp_path / "data", load_settings(environment={}), None)
        statement = "SELECT name AS Name, enabled, x'0102' AS raw, NULL AS empty FROM webhooks WHERE name = ?"
        local = Database.open(tmp_path / "data", create=False, migrate=False)
        with local.snapshot() as one, BridgeDatabase(context).snapshot() as other:
            expected, found = (each.execute(statement, ("default",)).fetchall() for each in (one, other))
            assert [tuple(row) for row in found] == [tuple(row) for row in expected]
            (row,) = found
            assert (row["name"], row["NAME"], row[0], row[-1]) == ("default", "default", "default", None)
            assert row["raw"] == b"\x01\x02"
            name, *_ = row
            assert name == "default"
            assert other.execute(statement, ("nobody",)).fetchone() is None
            assert list(other.execute(statement, ("nobody",))) == []
            with pytest.raises(Exception, match="the bridge cannot read this"):
                other.execute("DELETE FROM webhooks")
        local.close_now()
    with closing(sqlite3.connect(":memory:")) as plain:
        plain.row_factory = sqlite3.Row
        assert plain.execute("SELECT 1 AS A").fetchone()["a"] == 1  # what it has to be like
