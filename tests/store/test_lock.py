"""The lock on a data directory: one writer at a time, a daemon for its life and a command for a moment."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kekbridge.errors import AlreadyRunning, ConfigError
from kekbridge.store.lock import LOCK_FILE, DaemonLock, LockOwner, lock_owner
from tests.programs import python


def test_second_daemon_is_refused_with_the_pid_of_the_first(data_dir: Path) -> None:
    """Two daemons on one database would send each other's orders."""
    assert DaemonLock.holder(data_dir) is None
    with DaemonLock(data_dir):
        assert DaemonLock.holder(data_dir) == os.getpid()
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            DaemonLock(data_dir).acquire()
    assert DaemonLock.holder(data_dir) is None
    with DaemonLock(data_dir):
        pass


def test_kill_9_releases_the_lock(data_dir: Path) -> None:
    """No lock file has to be removed by hand after a crash."""
    code = """
import sys, time
from pathlib import Path
from kekbridge.store.lock import DaemonLock
DaemonLock(Path(sys.argv[1])).acquire()
print("locked", flush=True)
time.sleep(60)
"""
    process = python(code, data_dir)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert DaemonLock.holder(data_dir) == process.pid
    with pytest.raises(AlreadyRunning, match=str(process.pid)):
        DaemonLock(data_dir).acquire()
    process.kill()
    process.communicate()
    with DaemonLock(data_dir):
        assert DaemonLock.holder(data_dir) == os.getpid()


def test_a_command_is_no_daemon(data_dir: Path) -> None:
    """It holds the same lock, and other processes can tell the two apart."""
    assert lock_owner(data_dir) is None
    held = DaemonLock(data_dir, is_daemon=False)
    assert held.try_acquire()
    assert lock_owner(data_dir) == LockOwner(os.getpid(), is_daemon=False)
    assert DaemonLock.holder(data_dir) is None
    assert not DaemonLock(data_dir, is_daemon=False).try_acquire()
    held.release()
    with DaemonLock(data_dir):
        assert lock_owner(data_dir) == LockOwner(os.getpid(), is_daemon=True)
        assert DaemonLock.holder(data_dir) == os.getpid()
        assert not DaemonLock(data_dir, is_daemon=False).try_acquire()


def test_a_daemon_waits_for_a_command(data_dir: Path) -> None:
    """A command needs the lock for one change: a daemon that starts then must not fail, as it does beside another daemon."""
    held = DaemonLock(data_dir, is_daemon=False)
    assert held.try_acquire()
    began = time.monotonic()
    threading.Timer(1.0, held.release).start()
    with DaemonLock(data_dir):
        assert time.monotonic() - began >= 0.9
        with pytest.raises(AlreadyRunning, match="another kekbridge daemon"):
            DaemonLock(data_dir).acquire()


def test_an_unreadable_owner_is_a_daemon_without_an_id(data_dir: Path) -> None:
    """When in doubt, it is a daemon: no command writes beside it."""
    with DaemonLock(data_dir):
        (data_dir / LOCK_FILE).write_text("nonsense")
        assert lock_owner(data_dir) == LockOwner(0, is_daemon=True)
        assert DaemonLock.holder(data_dir) == 0


_COMMANDS = """
import fcntl, os, sys, time
from pathlib import Path
from kekbridge.store.lock import LOCK_FILE, DaemonLock
data_dir = Path(sys.argv[1])
print("ready", flush=True)
for _ in range(50):
    directory = os.open(data_dir, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    (data_dir / LOCK_FILE).write_text("999999\\n")  # a daemon had the lock, and was killed
    os.close(directory)
    lock = DaemonLock(data_dir, is_daemon=False)
    assert lock.try_acquire(), "a reader got in its way"
    time.sleep(0.001)
    lock.release()
"""


def test_a_command_is_never_taken_for_a_daemon(data_dir: Path) -> None:
    """Neither while it takes the lock, after a daemon was killed, nor while it releases it: a bridge would not start, or a command wait."""
    data_dir.mkdir(exist_ok=True)
    process = python(_COMMANDS, data_dir)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    seen = set()
    while process.poll() is None:
        seen.add(lock_owner(data_dir))
        time.sleep(0.0001)
    assert process.communicate()[0] == ""
    assert process.returncode == 0
    assert seen == {None, LockOwner(process.pid, is_daemon=False)}


def test_who_takes_the_lock_is_waited_for(data_dir: Path) -> None:
    """Between taking it and writing down who has it, a process locks the directory: a reader reads what is written then."""
    data_dir.mkdir(exist_ok=True)
    directory, file = os.open(data_dir, os.O_RDONLY), os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(directory, fcntl.LOCK_EX)
    fcntl.flock(file, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        owner = pool.submit(lock_owner, data_dir)
        time.sleep(0.05)
        os.write(file, b"12 command\n")
        os.close(directory)
        assert owner.result() == LockOwner(12, is_daemon=False)
    os.close(file)


def test_a_process_that_stops_while_it_takes_the_lock_is_not_waited_for(data_dir: Path) -> None:
    """An emergency command must go on, whatever the bridge does."""
    data_dir.mkdir(exist_ok=True)
    with DaemonLock(data_dir):
        directory = os.open(data_dir, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
        assert lock_owner(data_dir) == LockOwner(os.getpid(), is_daemon=True)
        os.close(directory)


_FORK = """
import os, sys, time
from pathlib import Path
from kekbridge.store.lock import DaemonLock
lock = DaemonLock(Path(sys.argv[1]))
lock.acquire()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
lock.release()
print("free" if DaemonLock(Path(sys.argv[1])).try_acquire() else "held")
os.kill(child, 9)
"""


def test_a_process_that_was_just_forked_does_not_keep_the_lock(data_dir: Path) -> None:
    """Until it runs its program it shares the lock's file: what a bridge starts while it ends must not delay the next one."""
    assert python(_FORK, data_dir).communicate(timeout=60)[0] == "free\n"


def test_a_lock_that_cannot_be_written_is_one_line(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the file is named, and nothing holds the lock."""

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kekbridge.store.lock.os.pwrite", fail)
        with pytest.raises(ConfigError, match=r"daemon.lock cannot be written: No space left"):
            DaemonLock(data_dir).try_acquire()
    assert lock_owner(data_dir) is None
