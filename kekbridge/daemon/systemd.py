"""systemd's two protocols: state messages to the supervisor, and listening sockets inherited from it.

Datagrams to NOTIFY_SOCKET carry READY, STOPPING, STATUS and WATCHDOG; LISTEN_FDS passes sockets that outlive the daemon, so that alerts
arriving during a restart wait in the backlog. Without a supervisor everything here does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from typing import Final, Self

from kekbridge.daemon.process import own_process_ids
from kekbridge.errors import ConfigError
from kekbridge.log import get_logger

log = get_logger("kekbridge.daemon.systemd")

_FIRST_SOCKET: Final = 3  # SD_LISTEN_FDS_START (sd_listen_fds(3))
_STATUS_EVERY_S: Final = 5.0  # how often the status line is updated, unless the watchdog needs more
_SOCKET_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited_sockets(
    environment: MutableMapping[str, str], *, first: int = _FIRST_SOCKET
) -> tuple[socket.socket, ...]:
    """Take the sockets that the supervisor passed; their variables are removed, so that no child process uses them as its own.

    Empty if there are none, or if they are for another process (LISTEN_PID). Raises ConfigError for anything that does not listen.
    """
    count, owner, _names = (environment.pop(name, "") for name in _SOCKET_VARIABLES)
    if not count or (owner and not _is_ours(owner)):
        return ()
    if not count.isascii() or not count.isdigit():
        raise ConfigError(f"LISTEN_FDS is {count!r}, expected the number of inherited sockets")
    return tuple(_listening(first + index) for index in range(int(count)))


def _is_ours(process: str) -> bool:
    return process in {str(own) for own in own_process_ids()}


def _listening(number: int) -> socket.socket:
    try:
        found = socket.socket(fileno=number)
        listens = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS names file {number}, which is not a socket: {error.strerror}") from None
    if not listens:
        found.detach()  # it belongs to the supervisor: do not close it
        raise ConfigError(
            f"LISTEN_FDS names file {number}, which does not listen; use ListenStream= in the socket unit"
        )
    found.set_inheritable(False)
    found.settimeout(0)
    return found


class Supervisor:
    """Sends state messages to systemd's NOTIFY_SOCKET, if there is one."""

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        """`address`: of NOTIFY_SOCKET, or None. `watchdog_s`: the supervisor's watchdog interval in seconds; None: no watchdog."""
        self._address = address
        self.watchdog_s = watchdog_s
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The supervisor that systemd's variables describe. A WATCHDOG_PID of another process means no watchdog for this one."""
        interval = environment.get("WATCHDOG_USEC", "")
        is_ours = _is_ours(environment.get("WATCHDOG_PID", str(os.getpid())))
        has_watchdog = interval.isascii() and interval.isdigit() and int(interval) > 0 and is_ours
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=int(interval) / 1e6 if has_watchdog else None)

    def ready(self) -> None:
        """The daemon is ready."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon is shutting down."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent if it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={' '.join(text.split())}")

    async def run(self, is_alive: Callable[[], bool], describe: Callable[[], str]) -> None:
        """Until cancelled: update the status line, and feed the watchdog while `is_alive`; else the supervisor restarts the daemon."""
        pause = _STATUS_EVERY_S if self.watchdog_s is None else min(self.watchdog_s / 2, _STATUS_EVERY_S)
        while True:
            self.status(describe())
            if self.watchdog_s is not None:
                if is_alive():
                    self._send("WATCHDOG=1")
                else:
                    log.error(
                        "watchdog_not_fed", detail="the dispatcher is stuck; the supervisor will restart kekbridge"
                    )
            await asyncio.sleep(pause)

    def _send(self, *fields: str) -> None:
        """Send one datagram without blocking: a supervisor that does not listen must not delay trading."""
        if self._address is None:
            return
        # systemd writes an abstract socket's leading NUL as @.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as out:
                out.sendto("\n".join(fields).encode(), address)
        except OSError as error:
            log.warning("supervisor_not_reached", error=str(error))
