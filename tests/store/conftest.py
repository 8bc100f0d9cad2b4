"""A new database per test, and a connection inside a write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from kekbridge.store.database import Database


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def database(data_dir: Path) -> Iterator[Database]:
    opened = Database.open(data_dir)
    yield opened
    opened.close_now()


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    """One transaction for the whole test, as a writer job would have."""
    with database.transaction() as connection:
        yield connection
