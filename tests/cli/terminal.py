"""A command at a terminal of its own: what it shows is read as a person sees it, what a person types is written."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cli.processes import DEADLINE_S, KEKBRIDGE


@dataclass
class Terminal:
    """Both ends: the process, and the screen so far."""

    process: subprocess.Popen[bytes]
    file: int
    screen: str = ""

    def expect(self, text: str) -> str:
        """Wait until the text appears after what was expected before; returns everything up to its end."""
        end = time.monotonic() + DEADLINE_S
        while text not in self.screen:
            left = end - time.monotonic()
            ready, _, _ = select.select([self.file], [], [], max(left, 0))
            chunk = self._read() if ready else b""
            assert chunk, f"{text!r} did not come; the screen says {self.screen!r}"
            self.screen += chunk.decode()
        seen, _, self.screen = self.screen.partition(text)
        return seen + text

    def type(self, text: str) -> None:
        """A line and Enter."""
        os.write(self.file, text.encode() + b"\n")

    def end(self) -> tuple[int, str]:
        """Read to the end: exit code and the rest of the screen."""
        while chunk := self._read():
            self.screen += chunk.decode()
        return self.process.wait(DEADLINE_S), self.screen

    @property
    def shows_what_is_typed(self) -> bool:
        """False while a hidden prompt is open."""
        return bool(termios.tcgetattr(self.file)[3] & termios.ECHO)

    def _read(self) -> bytes:
        try:
            return os.read(self.file, 65_536)
        except OSError:  # Linux tells the end of the other side this way
            return b""


@contextmanager
def at_terminal(*arguments: str, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a kekbridge command with a terminal as stdin, stdout and stderr."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*KEKBRIDGE, *arguments],
            env=dict(environment),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
