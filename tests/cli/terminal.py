"""Run a kekbridge command on a pseudo-terminal: read its screen, type input."""

from __future__ import annotations

import codecs
import os
import pty
import select
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.cli.processes import DEADLINE_S
from tests.system.forked import ForkOnTerminal


@dataclass
class Terminal:
    """A command on a pseudo-terminal."""

    #: The running command.
    process: ForkOnTerminal
    #: Our end of the terminal, a file descriptor.
    file: int
    #: Output that `expect` has not consumed yet.
    screen: str = ""
    #: Joins characters whose bytes arrive in two reads.
    _decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def expect(self, text: str) -> str:
        """Wait until the text appears after the last expected one; return all output up to its end."""
        end = time.monotonic() + DEADLINE_S
        while text not in self.screen:
            remaining = end - time.monotonic()
            ready, _, _ = select.select([self.file], [], [], max(remaining, 0))
            chunk = self._read() if ready else b""
            assert chunk, f"{text!r} did not appear; the screen shows {self.screen!r}"
            self.screen += self._decoder.decode(chunk)
        seen, _, self.screen = self.screen.partition(text)
        return seen + text

    def type(self, text: str) -> None:
        """Type a line and Enter."""
        os.write(self.file, text.encode() + b"\n")

    def press(self, key: str) -> None:
        """Press one key, without Enter."""
        os.write(self.file, key.encode())

    def end(self) -> tuple[int, str]:
        """Read to the end; return exit code and the rest of the screen."""
        while chunk := self._read():
            self.screen += self._decoder.decode(chunk)
        return self.process.wait(DEADLINE_S), self.screen

    @property
    def echoes_input(self) -> bool:
        """False while a hidden prompt is open."""
        return bool(termios.tcgetattr(self.file)[3] & termios.ECHO)

    def _read(self) -> bytes:
        try:
            return os.read(self.file, 65_536)
        except OSError:  # how Linux reports that the other end was closed
            return b""


@contextmanager
def at_terminal(*arguments: str, environment: Mapping[str, str], columns: int = 0) -> Iterator[Terminal]:
    """Run a kekbridge command with a terminal as stdin, stdout and stderr. `columns`: its width; 0: not known, 80 are assumed."""
    ours, theirs = pty.openpty()
    if columns:
        termios.tcsetwinsize(theirs, (50, columns))
    try:
        # A width in the environment, as test workers have one, would take precedence over the terminal's own.
        own = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        process = ForkOnTerminal(*arguments, environment=own, terminal=theirs)
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
