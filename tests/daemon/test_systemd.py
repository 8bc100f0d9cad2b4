"""State messages to the supervisor, and sockets inherited from it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kekbridge.daemon.systemd import Supervisor, inherited_sockets
from kekbridge.errors import ConfigError
from tests.waiting import until


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket as systemd opens it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        receiving.settimeout(5)
        yield receiving


def _received(notify_socket: socket.socket) -> list[str]:
    """Everything that has arrived."""
    notify_socket.settimeout(0)
    found: list[str] = []
    while True:
        try:
            found.append(notify_socket.recv(4096).decode())
        except BlockingIOError:
            return found


def test_ready_status_and_stopping_are_datagrams(notify_socket: socket.socket) -> None:
    """The messages are systemd's, one datagram each; an unchanged status is not sent again."""
    supervisor = Supervisor(notify_socket.getsockname())
    supervisor.ready()
    supervisor.status("paper:\ntrading")
    supervisor.status("paper:\ntrading")
    supervisor.stopping()
    assert _received(notify_socket) == ["READY=1", "STATUS=paper: trading", "STOPPING=1\nSTATUS=stopping"]


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    """systemd may name a socket without a file: @name means a leading NUL."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        name = f"kekbridge-test-{os.getpid()}"
        receiving.bind(f"\0{name}")
        receiving.settimeout(5)
        Supervisor(f"@{name}").ready()
        assert receiving.recv(100) == b"READY=1"


def test_without_a_supervisor_nothing_happens(tmp_path: Path) -> None:
    """No address, or one that nothing listens on, must not disturb the daemon."""
    Supervisor(None).ready()
    Supervisor(str(tmp_path / "missing")).ready()


async def test_the_watchdog_is_fed_only_while_alive(notify_socket: socket.socket) -> None:
    """A daemon whose dispatcher is stuck is not kept alive by its event loop."""
    is_alive = True
    calls = 0

    def alive() -> bool:
        nonlocal calls
        calls += 1
        return is_alive

    supervisor = Supervisor(notify_socket.getsockname(), watchdog_s=0.02)
    feeding = asyncio.create_task(supervisor.run(alive, lambda: "well"))
    try:
        await until(lambda: calls >= 3)
        assert _received(notify_socket).count("WATCHDOG=1") >= 2
        is_alive = False
        seen = calls
        await until(lambda: calls > seen)  # what the last call allowed has been sent by now
        _received(notify_socket)
        seen = calls
        await until(lambda: calls >= seen + 3)
        assert "WATCHDOG=1" not in _received(notify_socket)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    """WATCHDOG_PID names the process it is for: a child inherits the variables and must not act on them."""
    ours = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert Supervisor.from_environment(ours).watchdog_s == 30
    assert Supervisor.from_environment(ours | {"WATCHDOG_PID": "1"}).watchdog_s is None
    assert Supervisor.from_environment({"NOTIFY_SOCKET": "/run/x"}).watchdog_s is None


def test_the_executables_loader_stands_for_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd knows only the one-file executable's first process, which unpacks it and waits: what is for that is for the bridge."""
    loader = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}
    assert Supervisor.from_environment(loader).watchdog_s is None
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert Supervisor.from_environment(loader).watchdog_s == 30
    assert Supervisor.from_environment(loader | {"WATCHDOG_PID": str(os.getpid())}).watchdog_s == 30


def test_a_listening_socket_is_inherited() -> None:
    """LISTEN_FDS passes sockets; the variables are removed, so that no child uses them as its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        copy = os.dup(server.fileno())
        environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "webhooks", "PATH": "/bin"}
        (inherited,) = inherited_sockets(environment, first=copy)
        with inherited:
            assert inherited.getsockname() == server.getsockname()
            assert not inherited.get_inheritable()
        assert environment == {"PATH": "/bin"}


def test_sockets_for_another_process_are_left_alone() -> None:
    """LISTEN_PID of another process, or no LISTEN_FDS at all: nothing is touched."""
    assert inherited_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, first=0) == ()
    assert inherited_sockets({}) == ()


def test_what_does_not_listen_is_refused() -> None:
    """A file or a connected socket in place of a listening one is an error of one line at start, not at the first alert."""
    with socket.socket() as idle, pytest.raises(ConfigError, match="does not listen"):
        inherited_sockets({"LISTEN_FDS": "1"}, first=idle.fileno())
    reading, writing = os.pipe()
    try:
        with pytest.raises(ConfigError, match="is not a socket"):
            inherited_sockets({"LISTEN_FDS": "1"}, first=reading)
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(ConfigError, match="expected the number"):
        inherited_sockets({"LISTEN_FDS": "many"})
