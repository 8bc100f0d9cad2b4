"""The control socket's file: its mode from the first moment, its place for any data directory, and what a killed daemon leaves."""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kekbridge.daemon.control_socket import MAX_PATH_BYTES, ControlSocket, find_socket, identity
from kekbridge.errors import ConfigError


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    return directory


@contextmanager
def bound(data_dir: Path, **environment: str) -> Iterator[socket.socket]:
    """A listening control socket."""
    control = ControlSocket(data_dir, environment)
    listening = control.bind()
    try:
        yield listening
    finally:
        listening.close()
        control.close()


def found(data_dir: Path) -> Path:
    path = find_socket(data_dir)
    assert path is not None
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_only_the_owner_can_connect(data_dir: Path, umask: int) -> None:
    """Mode 0600 with any umask, which is left as it was."""
    before = os.umask(umask)
    try:
        with bound(data_dir):
            assert found(data_dir) == data_dir / "control.sock"
            assert mode_of(data_dir / "control.sock") == 0o600
            assert connects(data_dir / "control.sock")
    finally:
        assert os.umask(before) == umask


def test_the_services_group_can_connect(data_dir: Path, tmp_path: Path) -> None:
    """In systemd's runtime directory it has mode 0660, and the data directory leads there."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o750)
    with bound(data_dir, RUNTIME_DIRECTORY=f"{runtime}:/elsewhere"):
        assert found(data_dir) == runtime / "control.sock"
        assert mode_of(runtime / "control.sock") == 0o660
        assert connects(found(data_dir))
    assert list(runtime.iterdir()) == list(data_dir.iterdir()) == []


def _connects_as(path: Path, group: int, results: Any) -> None:
    os.setgroups([])
    os.setgid(group)
    os.setuid(65_534)
    results.put(connects(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_is_not_in_the_group_cannot_connect(data_dir: Path) -> None:
    """Another user connects as a member of the service's group, and not otherwise; with mode 0600 only its owner does."""
    runtime = Path(tempfile.mkdtemp())  # pytest's directories are closed to other users
    forks = multiprocessing.get_context("fork")
    results = forks.Queue()

    def tried(path: Path) -> list[bool]:
        found = []
        for group in (12_345, 65_534):
            child = forks.Process(target=_connects_as, args=(path, group, results))
            child.start()
            found.append(results.get(timeout=30))
            child.join()
        return found

    before = os.getegid()
    try:
        os.chown(runtime, 0, 12_345)
        runtime.chmod(0o750)
        os.setegid(12_345)
        with bound(data_dir, RUNTIME_DIRECTORY=str(runtime)):
            assert tried(runtime / "control.sock") == [True, False]
        runtime.chmod(0o755)
        with bound(runtime):
            assert tried(runtime / "control.sock") == [False, False]
    finally:
        os.setegid(before)
        runtime.rmdir()


def test_its_mode_is_never_another_one(data_dir: Path) -> None:
    """While daemons come and go, there is a socket with this mode, or no file."""
    seen: set[int] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            try:
                seen.add(mode_of(data_dir / "control.sock"))
            except FileNotFoundError:
                continue

    looking = threading.Thread(target=look)
    before = os.umask(0)
    looking.start()
    try:
        for _ in range(200):
            with bound(data_dir):
                seen.add(mode_of(data_dir / "control.sock"))  # the thread may never run while it is there
    finally:
        os.umask(before)
        is_over.set()
        looking.join()
    assert seen == {0o600}


def test_what_a_killed_daemon_left_is_replaced(data_dir: Path) -> None:
    """A file without a listener is found but refuses; the next daemon puts its own in its place."""
    left = ControlSocket(data_dir, {}).bind()
    left.close()
    assert not connects(found(data_dir))
    with bound(data_dir):
        assert connects(found(data_dir))
    assert find_socket(data_dir) is None


def test_a_directory_without_a_daemon_has_none(tmp_path: Path) -> None:
    """Neither one that is empty, nor one that does not exist, nor a file."""
    (tmp_path / "file").touch()
    assert find_socket(tmp_path) is None
    assert find_socket(tmp_path / "none") is None
    assert find_socket(tmp_path / "file") is None


def long_directory(tmp_path: Path) -> Path:
    directory = tmp_path / ("d" * MAX_PATH_BYTES)
    directory.mkdir(mode=0o700)
    return directory


def test_a_path_that_is_too_long_falls_back_to_the_users_runtime_directory(tmp_path: Path) -> None:
    """It is found again from the data directory alone, and its name is that of no other data directory."""
    long = long_directory(tmp_path)
    with tempfile.TemporaryDirectory(prefix="kb-") as name:  # pytest's own directories may be too long as well
        personal = Path(name)
        with bound(long, XDG_RUNTIME_DIR=name):
            path = found(long)
            assert path.parent == personal
            assert (path.name.startswith("kekbridge-"), path.suffix) == (True, ".sock")
            assert mode_of(path) == 0o600
            assert connects(path)
            other = tmp_path / ("e" * MAX_PATH_BYTES)
            other.mkdir()
            with bound(other, XDG_RUNTIME_DIR=name):
                assert found(other) != path
        assert list(personal.iterdir()) == []


@pytest.mark.parametrize("environment", [{}, {"XDG_RUNTIME_DIR": "/nonexistent"}, {"XDG_RUNTIME_DIR": "/" + "x" * 200}])
def test_without_a_runtime_directory_it_gets_a_private_one(tmp_path: Path, environment: dict[str, str]) -> None:
    """The bridge starts all the same; what a killed daemon left there goes with the next start."""
    long = long_directory(tmp_path)
    ControlSocket(long, environment).bind().close()
    left = found(long)
    with bound(long, **environment):
        path = found(long)
        assert (mode_of(path.parent), mode_of(path)) == (0o700, 0o600)
        assert connects(path)
        assert not left.parent.exists()
    assert not path.parent.exists()


def test_no_place_at_all_is_one_line(tmp_path: Path) -> None:
    """A data directory that is gone cannot lead to the socket."""
    with pytest.raises(ConfigError, match="use another --data-dir"):
        ControlSocket(tmp_path / "gone", {}).bind()


def test_a_data_directory_is_the_same_under_any_name(tmp_path: Path, data_dir: Path) -> None:
    """A link and a second name mean the same bridge; another directory does not."""
    (tmp_path / "link").symlink_to(data_dir)
    assert identity(tmp_path / "link") == identity(data_dir) != identity(tmp_path)
    assert identity(tmp_path / "none") is None
