"""Talks with the supervisor that started the daemon, in systemd's two protocols: state messages out, listening sockets in.

A datagram to NOTIFY_SOCKET says READY, STOPPING, STATUS and WATCHDOG; LISTEN_FDS hands over sockets that outlive the daemon, so that alerts
arriving during a restart wait in the backlog. Knows nothing of trading. Without a supervisor everything here does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final, Self

from kekbridge.errors import ConfigError
from kekbridge.log import get_logger

log = get_logger("kekbridge.daemon.systemd")

_FIRST_SOCKET: Final = 3  # SD_LISTEN_FDS_START (sd_listen_fds(3))
_STATUS_EVERY_S: Final = 5.0  # how often the status line is looked at when no watchdog asks more often
_SOCKET_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket from the supervisor, and the name it gave it (systemd: FileDescriptorName=)."""

    name: str
    socket: socket.socket


def inherited_sockets(
    environment: MutableMapping[str, str], *, first: int = _FIRST_SOCKET
) -> tuple[InheritedSocket, ...]:
    """Take the sockets that were handed over; their variables are removed, so that no child process believes they are its own.

    Empty when there are none, or when they are for another process (LISTEN_PID). Raises ConfigError for anything that does not listen.
    """
    count, owner, names = (environment.pop(name, "") for name in _SOCKET_VARIABLES)
    if not count or (owner and owner != str(os.getpid())):
        return ()
    if not count.isascii() or not count.isdigit():
        raise ConfigError(f"LISTEN_FDS is {count!r}, expected the number of sockets handed over")
    given = names.split(":")
    return tuple(
        InheritedSocket(given[index] if index < len(given) else "", _listening(first + index))
        for index in range(int(count))
    )


def _listening(number: int) -> socket.socket:
    try:
        found = socket.socket(fileno=number)
        listens = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS names file {number}, which is no socket: {error.strerror}") from None
    if not listens:
        found.detach()  # it is not ours to close
        raise ConfigError(
            f"LISTEN_FDS names file {number}, which does not listen; use ListenStream= in the socket unit"
        )
    found.set_inheritable(False)
    found.settimeout(0)
    return found


class Supervisor:
    """Where state messages go: systemd's NOTIFY_SOCKET, or nowhere."""

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        """`watchdog_s`: within how many seconds the supervisor wants to hear of us again; None: it does not."""
        self._address = address
        self.watchdog_s = watchdog_s
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """As systemd describes itself. WATCHDOG_PID of another process means that the watchdog is not for us."""
        interval = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watches = interval.isascii() and interval.isdigit() and int(interval) > 0 and is_ours
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=int(interval) / 1e6 if watches else None)

    def ready(self) -> None:
        """The daemon listens."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon winds down."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={' '.join(text.split())}")

    async def run(self, is_alive: Callable[[], bool], describe: Callable[[], str]) -> None:
        """For ever: keep the status line true, and feed the watchdog as long as `is_alive`; else the supervisor starts us anew."""
        pause = _STATUS_EVERY_S if self.watchdog_s is None else min(self.watchdog_s / 2, _STATUS_EVERY_S)
        while True:
            self.status(describe())
            if self.watchdog_s is not None:
                if is_alive():
                    self._send("WATCHDOG=1")
                else:
                    log.error(
                        "watchdog_not_fed", detail="the worker has not moved; the supervisor will start kekbridge anew"
                    )
            await asyncio.sleep(pause)

    def _send(self, *fields: str) -> None:
        """One datagram, never blocking: a supervisor that does not listen must not hold up trading."""
        if self._address is None:
            return
        # systemd writes an abstract socket's leading NUL as @.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as out:
                out.sendto("\n".join(fields).encode(), address)
        except OSError as error:
            log.warning("supervisor_not_reached", error=str(error))
