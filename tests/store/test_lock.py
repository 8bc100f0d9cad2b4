"""The lock on a data directory: one writer at a time, a daemon for its life and a command for a moment."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from kekbridge.errors import AlreadyRunning
from kekbridge.store.lock import DaemonLock, LockOwner, lock_owner


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
        (data_dir / "daemon.lock").write_text("nonsense")
        assert lock_owner(data_dir) == LockOwner(0, is_daemon=True)
        assert DaemonLock.holder(data_dir) == 0
