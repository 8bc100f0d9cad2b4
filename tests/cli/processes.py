"""Run kekbridge as a process and read its output line by line; shared by tests of `serve` and of the documents."""

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

from tests.system.forked import Fork, run_forked
from tests.system.harness import clean_environment

KEKBRIDGE = (sys.executable, "-m", "kekbridge")
DEADLINE_S = 60.0


class Served:
    """A running `kekbridge` process with the lines it has printed so far: stdout in `printed`, stderr in `log`."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.environment = environment
        self.process = Fork(*arguments, environment=environment)
        self.printed: list[str] = []
        self.log: list[str | None] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        for stream, target in ((self.process.stdout, self._lines.put), (self.process.stderr, self.log.append)):
            threading.Thread(target=_pump, args=(stream, target), daemon=True).start()

    def line(self, matches: Callable[[str], bool]) -> str:
        """Wait for the first line on stdout that matches, and return it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            match = next((text for text in self.printed if matches(text)), None)
            if match is not None:
                return match
            try:
                text = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                text = None
            errors = "\n".join(line for line in self.log if line is not None)
            assert text is not None, f"not printed:\n{self.printed}\n{errors}"
            self.printed.append(text)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()

    @property
    def has_printed(self) -> bool:
        """True if a line on stdout is not read yet."""
        return not self._lines.empty()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same data directory."""
        return run_forked(*arguments, environment=self.environment)

    def data(self, *arguments: str) -> Any:
        """Run another command with --json and return its data."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def _pump(stream: IO[str], put: Callable[[str | None], None]) -> None:
    for text in stream:
        put(text.rstrip("\n"))
    put(None)


def bare_environment(data_dir: Path) -> dict[str, str]:
    """Return an environment with free ports, static prices and this data directory, without keyring or the machine's settings."""
    environment = clean_environment()
    environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    return environment | {
        "KEKBRIDGE_DATA_DIR": str(data_dir),
        "KEKBRIDGE_SERVER_PORT": "0",
        "KEKBRIDGE_PAPER_PORT": "0",
        "KEKBRIDGE_PAPER_PRICES": "static",
    }


@contextmanager
def starting(environment: dict[str, str]) -> Iterator[Callable[..., Served]]:
    """Yield a function that starts processes; those still running at the end are killed."""
    started: list[Served] = []

    def start(*arguments: str, **changes: str) -> Served:
        started.append(Served(environment | changes, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for served in started:
            served.close()


@contextmanager
def serving(environment: dict[str, str], **changes: str) -> Iterator[Served]:
    """Run a bridge, from its announcement on."""
    with starting(environment) as start:
        bridge = start("serve", "--json", **changes)
        bridge.line(lambda text: text.startswith("{"))
        yield bridge


@contextmanager
def serving_as_service(root: Path, **changes: str) -> Iterator[Served]:
    """Run a bridge as the service does below a directory that stands for `/`: the data and the runtime directory of its unit."""
    runtime = root / "run/kekbridge"
    runtime.mkdir(parents=True, mode=0o750, exist_ok=True)
    runtime.chmod(0o750)
    with serving(bare_environment(root / "var/lib/kekbridge"), RUNTIME_DIRECTORY=str(runtime), **changes) as bridge:
        yield bridge


def shells() -> list[str]:
    """Return the installed shells, sh first."""
    return [shell for shell in ("sh", "bash", "zsh", "dash") if shutil.which(shell)]


def paste(shell: str, line: str) -> dict[str, Any]:
    """Run a line in a shell, as if pasted, and return the JSON that it prints."""
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    response: dict[str, Any] = json.loads(done.stdout)
    return response
