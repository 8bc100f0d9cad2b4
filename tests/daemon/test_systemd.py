"""What the daemon tells its supervisor, and what it takes over from it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kekbridge.daemon.systemd import Supervisor, inherited_sockets
from kekbridge.errors import ConfigError
from tests.waiting import until


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket as systemd opens it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(5)
        yield heard


def _said(ear: socket.socket) -> list[str]:
    """Everything that has arrived."""
    ear.settimeout(0)
    found: list[str] = []
    while True:
        try:
            found.append(ear.recv(4096).decode())
        except BlockingIOError:
            return found


def test_ready_status_and_stopping_are_datagrams(ear: socket.socket) -> None:
    """The messages are systemd's words, one datagram each; a status that did not change is not said again."""
    supervisor = Supervisor(ear.getsockname())
    supervisor.ready()
    supervisor.status("paper:\ntrading")
    supervisor.status("paper:\ntrading")
    supervisor.stopping()
    assert _said(ear) == ["READY=1", "STATUS=paper: trading", "STOPPING=1\nSTATUS=stopping"]


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    """systemd may name a socket without a file: @name stands for a leading NUL."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"kekbridge-test-{os.getpid()}"
        heard.bind(f"\0{name}")
        heard.settimeout(5)
        Supervisor(f"@{name}").ready()
        assert heard.recv(100) == b"READY=1"


def test_without_a_supervisor_nothing_happens(tmp_path: Path) -> None:
    """No address, or one where nobody listens, must not disturb the daemon."""
    Supervisor(None).ready()
    Supervisor(str(tmp_path / "nobody")).ready()


async def test_the_watchdog_is_fed_only_while_alive(ear: socket.socket) -> None:
    """A daemon whose worker stands still is not kept alive by its event loop."""
    is_alive = True
    asked = 0

    def alive() -> bool:
        nonlocal asked
        asked += 1
        return is_alive

    supervisor = Supervisor(ear.getsockname(), watchdog_s=0.02)
    feeding = asyncio.create_task(supervisor.run(alive, lambda: "well"))
    try:
        await until(lambda: asked >= 3)
        assert _said(ear).count("WATCHDOG=1") >= 2
        is_alive = False
        seen = asked
        await until(lambda: asked > seen)  # what was alive when it was asked last has been sent by now
        _said(ear)
        seen = asked
        await until(lambda: asked >= seen + 3)
        assert "WATCHDOG=1" not in _said(ear)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    """WATCHDOG_PID says for whom the variable is: a child inherits it and must not act on it."""
    ours = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert Supervisor.from_environment(ours).watchdog_s == 30
    assert Supervisor.from_environment(ours | {"WATCHDOG_PID": "1"}).watchdog_s is None
    assert Supervisor.from_environment({"NOTIFY_SOCKET": "/run/x"}).watchdog_s is None


def test_a_listening_socket_is_taken_over_by_name() -> None:
    """LISTEN_FDS hands over sockets; the variables are gone afterwards, so that no child takes them for its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        copy = os.dup(server.fileno())
        environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "webhooks", "PATH": "/bin"}
        (given,) = inherited_sockets(environment, first=copy)
        with given.socket:
            assert given.name == "webhooks"
            assert given.socket.getsockname() == server.getsockname()
            assert not given.socket.get_inheritable()
        assert environment == {"PATH": "/bin"}


def test_sockets_for_another_process_are_left_alone() -> None:
    """LISTEN_PID of another process, or no LISTEN_FDS at all: nothing is touched."""
    assert inherited_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, first=0) == ()
    assert inherited_sockets({}) == ()


def test_what_does_not_listen_is_refused() -> None:
    """A file or a connected socket in place of a listening one is said in one line, not met at the first alert."""
    with socket.socket() as idle, pytest.raises(ConfigError, match="does not listen"):
        inherited_sockets({"LISTEN_FDS": "1"}, first=idle.fileno())
    reading, writing = os.pipe()
    try:
        with pytest.raises(ConfigError, match="is no socket"):
            inherited_sockets({"LISTEN_FDS": "1"}, first=reading)
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(ConfigError, match="expected the number"):
        inherited_sockets({"LISTEN_FDS": "many"})
