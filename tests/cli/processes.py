"""kekbridge as a process whose lines are read as they come; what tests of `serve` and of the README share."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.system.harness import clean_environment

KEKBRIDGE = (sys.executable, "-m", "kekbridge")
DEADLINE_S = 60.0


def _hear_interrupts() -> None:
    """A shell starts what runs in its background deaf to SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Served:
    """A running `kekbridge` process and the lines that it has printed on stdout so far."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.environment = environment
        self.process = subprocess.Popen(
            [*KEKBRIDGE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=_hear_interrupts,
        )
        self.printed: list[str] = []
        self.log: list[str | None] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        for stream, target in ((self.process.stdout, self._lines.put), (self.process.stderr, self.log.append)):
            assert stream is not None
            threading.Thread(target=_pump, args=(stream, target), daemon=True).start()

    def line(self, wanted: Callable[[str], bool]) -> str:
        """The first line on stdout for which `wanted` holds, waited for."""
        until = time.monotonic() + DEADLINE_S
        while True:
            found = next((text for text in self.printed if wanted(text)), None)
            if found is not None:
                return found
            try:
                text = self._lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                text = None
            said = "\n".join(line for line in self.log if line is not None)
            assert text is not None, f"not printed:\n{self.printed}\n{said}"
            self.printed.append(text)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Kill it if it still runs, and give its pipes back."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    @property
    def has_printed(self) -> bool:
        """Whether a line waits that nobody has read."""
        return not self._lines.empty()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same data directory, while it runs."""
        return subprocess.run(
            [*KEKBRIDGE, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=DEADLINE_S,
            check=False,
        )

    def data(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def _pump(stream: IO[str], put: Callable[[str | None], None]) -> None:
    for text in stream:
        put(text.rstrip("\n"))
    put(None)


def bare_environment(data_dir: Path) -> dict[str, str]:
    """Free ports, static prices, a data directory of its own, no keyring, none of the machine's settings."""
    kept = clean_environment()
    kept.pop("DBUS_SESSION_BUS_ADDRESS", None)
    return kept | {
        "KEKBRIDGE_DATA_DIR": str(data_dir),
        "KEKBRIDGE_SERVER_PORT": "0",
        "KEKBRIDGE_PAPER_PORT": "0",
        "KEKBRIDGE_PAPER_PRICES": "static",
    }


@contextmanager
def starting(environment: dict[str, str]) -> Iterator[Callable[..., Served]]:
    """A function that starts processes; whatever still runs at the end is killed."""
    started: list[Served] = []

    def begin(*arguments: str, **changes: str) -> Served:
        started.append(Served(environment | changes, *arguments))
        return started[-1]

    try:
        yield begin
    finally:
        for served in started:
            served.close()


def shells() -> list[str]:
    return [shell for shell in ("sh", "bash", "zsh", "dash") if shutil.which(shell)]


def paste(shell: str, line: str) -> dict[str, Any]:
    """What the line answers when it is pasted into a terminal."""
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
