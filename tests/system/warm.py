"""A daemon in a new process without the second that Python spends on imports: forked from a server that has imported everything.

State comes from the disk alone, as with a fresh interpreter: the server has imported modules and run nothing. A kill -9 hits the fork only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.system.harness import Bridge, Process, clean_environment
from tests.waiting import DEADLINE_S

_PRELOAD = [
    "kekbridge.daemon.app",
    "kekbridge.log",
    *(f"kekbridge.cli.{name}" for name in ("app", "serve", "welcome", "paper", "webhook", "render")),
]
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, 2**64 - 1
_MAINS = ["pytest", "tests.system.campaigns.run"]


def _become(
    arguments: list[str],
    environment: dict[str, str],
    log: str,
    stdout: Connection,
    listener: socket.socket | None,
    tracer: tuple[str, ...],
) -> None:
    """In the fork: take over streams, environment and the supervisor's socket, then be the command."""
    os.setsid()
    if tracer:
        _be_traced(tracer)
    os.environ.clear()
    os.environ.update(environment)
    if listener is not None:
        moved = os.dup(stdout.fileno())  # wherever the pipe is now, file 3 belongs to the socket
        os.dup2(listener.fileno(), 3)
        os.dup2(moved, 1)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    if listener is None:
        os.dup2(stdout.fileno(), 1)
    from kekbridge.cli.main import run_command

    sys.exit(run_command(arguments))


def _be_traced(tracer: tuple[str, ...]) -> None:
    """Go on only when every call of ours is seen. The tracer ends by itself after our last one."""
    # Where the kernel lets only parents trace (Yama), a child needs leave.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(_ANYBODY), 0, 0, 0)
    subprocess.Popen([*tracer, "-p", str(os.getpid())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        if time.monotonic() > end:
            raise AssertionError("strace could not attach")
        time.sleep(0.005)


class WarmProcess(Process):
    """The same face as harness.Process."""

    def __init__(
        self,
        arguments: list[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        listener: socket.socket | None = None,
        tracer: tuple[str, ...] = (),
    ) -> None:
        """`listener`: a socket that is handed over; `tracer`: a command that is told to follow the process."""
        super().__init__(arguments, environment=environment, log=log)
        self._listener = listener
        self._tracer = tracer
        self._fork: Any = None

    def start(self) -> dict[str, Any]:
        context = multiprocessing.get_context("forkserver")
        # Each fork runs the main module's imports again: those that are there already cost nothing.
        context.set_forkserver_preload([*_PRELOAD, *(name for name in _MAINS if name in sys.modules)])
        ours, theirs = context.Pipe(duplex=False)
        environment = {**clean_environment(), **self._environment}
        self._fork = context.Process(
            target=_become,
            args=(self._arguments, environment, str(self._log), theirs, self._listener, self._tracer),
            daemon=True,
        )
        self._fork.start()
        theirs.close()
        with os.fdopen(os.dup(ours.fileno()), encoding="utf-8") as printed:
            line = printed.readline()
        ours.close()
        if line:
            self.started = self._decode(line)
        # Without a line it died before it was ready, which a crash point may well have wanted.
        return self.started

    @property
    def pid(self) -> int:
        return int(self._fork.pid)

    @property
    def is_alive(self) -> bool:
        return self._fork is not None and self._fork.is_alive()

    def kill(self) -> None:
        if self._fork is None:
            return
        if self._fork.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        self._fork.join()

    def terminate(self, *, deadline_s: float = DEADLINE_S) -> int:
        if self.is_alive:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(deadline_s=deadline_s)

    def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        self._fork.join(deadline_s)
        self.kill()
        return int(self._fork.exitcode)


class WarmBridge(Bridge):
    """A bridge that starts, and whose daemon restarts, in a few tenths of a second."""

    def start(self) -> None:
        super().start()
        if not self.daemon.started:
            raise AssertionError(f"the daemon did not start: {self.log_path.read_text()[-2000:]}")

    def _new_paper(self) -> Process:
        return WarmProcess(self.paper_options(), environment={}, log=self.directory / "paper.log")

    def _create_webhook(self, arguments: list[str]) -> dict[str, Any]:
        command = WarmProcess(arguments, environment=self.daemon_environment(), log=self.log_path)
        created = command.start()
        assert command.wait() == 0
        return created

    def _new_daemon(self) -> Process:
        return WarmProcess(self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path)


class SocketBridge(WarmBridge):
    """A bridge whose listening socket is held here, as systemd does: daemons come and go, connections wait in the backlog."""

    def __post_init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1024)
        super().__post_init__()
        self.port = int(self.listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.daemon = self._new_daemon()

    def _new_daemon(self) -> Process:
        return WarmProcess(
            self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path, listener=self.listener
        )

    def stop(self) -> None:
        super().stop()
        self.listener.close()
