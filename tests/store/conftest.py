"""A new database per test, and a connection inside a write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from kekbridge.execution.book import Book
from kekbridge.store.database import Database
from tests.fresh_database import open_database
from tests.stored import book_on


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def database(data_dir: Path) -> Iterator[Database]:
    opened = open_database(data_dir)
    yield opened
    opened.close_now()


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    """One transaction for the whole test, as a writer job would have."""
    with database.transaction() as connection:
        yield connection


@pytest.fixture
def book(connection: sqlite3.Connection) -> Book:
    """A book whose rows are projected at once, inside the same transaction."""
    return book_on(connection)
