"""The power cut model distinguishes flushed from unflushed writes: checked on databases that a traced process wrote."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.disk import TRACER, Change, Disk, write_image

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute(f"PRAGMA synchronous = {sys.argv[2]}")
for number in range(20):
    connection.execute("INSERT INTO seen VALUES (?)", (number,))
    if number % 7 == 6:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
os.kill(os.getpid(), signal.SIGKILL)
"""


def _rows_after_cut(directory: Path, synchronous: str, rng: random.Random | None) -> list[int]:
    """Write twenty rows in a process that is killed; return the rows that the next boot reads."""
    data = directory / "data"
    data.mkdir()
    database = data / "some.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE seen (number)")
    disk, trace = Disk.of(data), directory / "trace"
    subprocess.run([*TRACER, "-o", str(trace), sys.executable, "-c", _WRITER, str(database), synchronous], check=False)
    disk.follow(trace)
    write_image(disk.after_cut(rng), data)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [number for (number,) in connection.execute("SELECT number FROM seen")]


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_flushed_rows_survive(tmp_path: Path, seed: int | None) -> None:
    """With synchronous = FULL every commit is flushed, so all rows survive."""
    rng = None if seed is None else random.Random(seed)
    assert _rows_after_cut(tmp_path, "FULL", rng) == list(range(20))


def test_unflushed_rows_are_lost(tmp_path: Path) -> None:
    """With synchronous = NORMAL only checkpoints flush, so the commits after the last one are lost."""
    rows = _rows_after_cut(tmp_path, "NORMAL", None)
    assert rows == list(range(len(rows)))
    assert len(rows) < 20


def test_a_torn_write_leaves_whole_sectors() -> None:
    """Each sector is written or not, at random."""
    change = Change(512, bytes(4096))
    parts = [part for part in change.torn(random.Random(5)) if part.data is not None]
    assert 0 < len(parts) < 8
    assert all(part.offset % 512 == 0 and len(part.data or b"") == 512 for part in parts)
