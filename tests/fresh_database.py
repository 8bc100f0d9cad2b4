"""New databases for tests, from a copy: to migrate one takes ten times as long. tests/store/test_migrations.py is about that."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.store.files import MARKER


def open_database(data_dir: Path) -> Database:
    """Like Database.open, which finds a new database there already if there was none."""
    put_database(data_dir)
    return Database.open(data_dir)


def put_database(data_dir: Path) -> None:
    """Put a new database into a data directory that has none and never had one."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / FILE_NAME
    if not path.exists() and not (data_dir / MARKER).exists():
        path.touch(mode=0o600)
        path.write_bytes(_new_database())


@cache
def _new_database() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        Database.open(Path(directory)).close_now()
        return (Path(directory) / FILE_NAME).read_bytes()
