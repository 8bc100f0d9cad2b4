"""A daemon in a new process without the second that Python spends on imports: forked from a server that has imported everything.

State comes from the disk alone, as with a fresh interpreter: the server has imported modules and run nothing. A kill -9 hits the fork only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.system.harness import Bridge, Process, clean_environment

_PRELOAD = ["kekbridge.daemon", "kekbridge.cli.app", "kekbridge.cli.serve", "kekbridge.cli.welcome", "kekbridge.log"]


def _become(arguments: list[str], environment: dict[str, str], log: str, stdout: Connection) -> None:
    """In the fork: take over streams and environment, then be the command."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.dup2(stdout.fileno(), 1)
    from kekbridge.cli.main import run_command

    sys.exit(run_command(arguments))


class WarmProcess(Process):
    """The same face as harness.Process."""

    def __init__(self, arguments: list[str], *, environment: Mapping[str, str], log: Path) -> None:
        super().__init__(arguments, environment=environment, log=log)
        self._fork: Any = None

    def start(self) -> dict[str, Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        ours, theirs = context.Pipe(duplex=False)
        environment = {**clean_environment(), **self._environment}
        self._fork = context.Process(
            target=_become, args=(self._arguments, environment, str(self._log), theirs), daemon=True
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

    def terminate(self, *, deadline_s: float = 30.0) -> int:
        if self.is_alive:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(deadline_s=deadline_s)

    def wait(self, *, deadline_s: float = 30.0) -> int:
        self._fork.join(deadline_s)
        self.kill()
        return int(self._fork.exitcode)


class WarmBridge(Bridge):
    """A bridge whose daemon restarts in a few tenths of a second."""

    def _new_daemon(self) -> Process:
        return WarmProcess(self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path)
