"""The model of a power cut must itself tell flushed from unflushed: judged on real databases that a traced process wrote."""

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
    """Twenty rows are written and the process is killed; what does the next boot read?"""
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
def test_what_was_flushed_is_there(tmp_path: Path, seed: int | None) -> None:
    """With synchronous = FULL every commit is flushed: all of them survive, whatever happens to the rest."""
    rng = None if seed is None else random.Random(seed)
    assert _rows_after_cut(tmp_path, "FULL", rng) == list(range(20))


def test_what_was_not_flushed_is_gone(tmp_path: Path) -> None:
    """With synchronous = NORMAL only checkpoints flush: commits after the last one are lost, and the model shows it."""
    rows = _rows_after_cut(tmp_path, "NORMAL", None)
    assert rows == list(range(len(rows)))
    assert len(rows) < 20


def test_a_torn_write_leaves_whole_sectors() -> None:
    """A sector is written or not; which of them is chance."""
    change = Change(512, bytes(4096))
    parts = [part for part in change.torn(random.Random(5)) if part.data is not None]
    assert 0 < len(parts) < 8
    assert all(part.offset % 512 == 0 and len(part.data or b"") == 512 for part in parts)
