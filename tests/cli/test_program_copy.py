"""The copy that another user runs: complete, independent of where it came from, and cheap beside an earlier one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kekbridge import __version__
from kekbridge.cli.program_copy import Account, RunningProgram, can_run, run_as

_NOBODY = Account(65534, 65534)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run something as another user")


@pytest.fixture(scope="module")
def copies() -> Iterator[Path]:
    """A directory with the copy `one`, made as the installation makes it."""
    with tempfile.TemporaryDirectory(prefix="kb-copy-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        before = os.umask(0o077)
        try:
            RunningProgram().copy(directory / ".one.new", directory / "one", None)
        finally:
            os.umask(before)
        (directory / ".one.new").rename(directory / "one")
        yield directory


def test_everybody_may_run_it_and_only_its_owner_write(copies: Path) -> None:
    """Whatever the umask was, and whatever the modes in a home were. tests/system/test_service.py runs one as another user."""
    for parent, directories, files in os.walk(copies / "one"):
        for each in (*directories, *files):
            status = (Path(parent) / each).lstat()
            if not stat.S_ISLNK(status.st_mode):
                assert status.st_mode & 0o777 == (0o755 if status.st_mode & 0o100 else 0o644), each


def test_it_imports_nothing_from_where_it_came(copies: Path) -> None:
    """Neither the clone nor its environment; an environment variable changes nothing."""
    script = (copies / "one" / "bin" / "kekbridge").read_text()
    assert str(copies / "one") in script
    assert ".one.new" not in script
    python = copies / "one" / "env" / "bin" / "python"
    code = "import sys, kekbridge.daemon.app, apprise; print(kekbridge.__file__); print(*sys.path, sep='\\n')"
    done = subprocess.run(
        [str(python), "-I", "-c", code],
        env={"PYTHONPATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    where, *search = done.stdout.splitlines()
    assert where.startswith(str(copies / "one"))
    assert [path for path in search if path.startswith((sys.prefix + "/", "/nonexistent"))] == []


def test_a_second_copy_shares_what_is_the_same(copies: Path) -> None:
    """An upgrade needs room for what has changed, not for everything."""
    RunningProgram().copy(copies / "two", copies / "two", None, earlier=copies / "one")
    own = "env/lib/python{}.{}/site-packages".format(*sys.version_info[:2])
    for path in ("aiohttp/client.py", "typer/main.py"):
        assert (copies / "two" / own / path).samefile(copies / "one" / own / path)
    assert not (copies / "two" / own / "kekbridge/__init__.py").samefile(copies / "one" / own / "kekbridge/__init__.py")
    done = subprocess.run(
        [str(copies / "two" / "bin" / "kekbridge"), "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(f"kekbridge {__version__}")
    shutil.rmtree(copies / "two")
    assert (copies / "one" / own / "aiohttp/client.py").is_file()


def test_the_version_names_the_build() -> None:
    """Two builds of one version have different names; the same build always the same."""
    first = RunningProgram().version_id
    assert first == RunningProgram().version_id
    assert first.startswith(f"{__version__}-")


@needs_root
def test_what_a_user_can_run_is_really_tried(tmp_path: Path) -> None:
    """A closed directory on the way, and a program that fails, both count."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit $1\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    assert not can_run([str(program), "0"], _NOBODY)  # pytest's own directories are closed
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        opened = shutil.copy(program, directory)
        assert can_run([str(opened), "0"], _NOBODY)
        assert not can_run([str(opened), "3"], _NOBODY)


@needs_root
def test_another_user_gets_nothing_of_roots_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither root's groups, directory and variables, nor its terminal, into which a program could type commands."""
    monkeypatch.setenv("SECRET", "1")
    done = run_as(
        ["/bin/sh", "-c", "id -G; pwd; echo ${SECRET-none}; (: < /dev/tty) 2>/dev/null || echo no terminal"], _NOBODY
    )
    assert done.stdout.split("\n")[:4] == [str(_NOBODY.gid), "/", "none", "no terminal"]


def test_it_takes_litestream_along(copies: Path) -> None:
    """The extra `replica` is a program: the service has to find it beside its Python."""
    name = "litestream"
    if not Path(sys.executable).with_name(name).is_file():
        pytest.skip("there is no Litestream for this machine")
    python = copies / "one" / "env" / "bin" / "python"
    code = "from kekbridge.ops import litestream; print(litestream.find_program())"
    done = subprocess.run(
        [str(python), "-I", "-c", code], env={}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str(python.with_name(name))
    assert os.access(python.with_name(name), os.X_OK)
