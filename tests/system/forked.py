"""Processes that start without the second Python spends on imports: forked from a server that has imported everything.

As with a new interpreter, all state comes from disk: the server has imported modules and run nothing. A kill -9 hits the fork only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from tests.system.harness import BridgeProcess, Process, clean_environment, running
from tests.waiting import DEADLINE_S

_PRELOAD = [
    "kekbridge.daemon.app",
    "kekbridge.daemon.control",
    "kekbridge.log",
    "kekbridge.alerts.template",
    "rich.console",
    "sqlite_utils.migrations",
    # What a daemon imports once it listens, and the paper exchange in it.
    *("kekbridge.admin.lazy_server", "kekbridge.daemon.operator", "kekbridge.ops.jobs", "kekbridge.paper.server"),
    *(f"kekbridge.cli.{name}" for name in ("app", "bridges", "explain", "logs", "orders", "paper", "render")),
    *(f"kekbridge.cli.{name}" for name in ("send", "serve", "stats", "takeover", "webhook")),
    "kekbridge.ops.operations",
]
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, 2**64 - 1
_MAINS = ("pytest.", "tests.system.campaigns.")
# multiprocessing reads the exit codes of all forks whenever one starts, and gives 255 to the second thread that reads the same one.
_EXIT_CODES = threading.Lock()


def forkserver() -> ForkServerContext:
    """The server, which starts with the first fork."""
    context = multiprocessing.get_context("forkserver")
    # Each fork imports the main module again, which costs nothing if the server has imported it.
    context.set_forkserver_preload([*_PRELOAD, *(name for name in sys.modules if f"{name}.".startswith(_MAINS))])
    return context


def _start(fork: ForkServerProcess) -> None:
    with _EXIT_CODES:
        fork.start()


def _exit_code(fork: ForkServerProcess, timeout_s: float | None = 0.0) -> int | None:
    """Wait for the end of a fork that was started (None: however long that takes); return its exit code, None if it still runs."""
    wait([fork.sentinel], timeout_s)
    with _EXIT_CODES:
        return fork.exitcode


def run_forked(
    *arguments: str, environment: Mapping[str, str], stdin: str = "", timeout_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a fork; return its exit code, stdout and stderr. `environment` is all it gets; it has no terminal."""
    with tempfile.TemporaryDirectory(prefix="kekbridge-fork-") as name:
        directory = Path(name)
        (directory / "0").write_text(stdin, encoding="utf-8")
        fork = forkserver().Process(
            target=_run_to_the_end, args=(list(arguments), dict(environment), name, str(Path.cwd()))
        )
        _start(fork)
        code = _exit_code(fork, timeout_s)
        if code is None:
            fork.kill()
            _exit_code(fork, None)
            raise subprocess.TimeoutExpired(list(arguments), timeout_s)
        out, err = ((directory / stream).read_text(encoding="utf-8") for stream in ("1", "2"))
        with _EXIT_CODES:
            fork.close()
    return subprocess.CompletedProcess(list(arguments), code, out, err)


def _run_to_the_end(arguments: list[str], environment: dict[str, str], directory: str, working_directory: str) -> None:
    """In the fork: take over streams, environment and working directory, then run the command."""
    os.setsid()
    streams = [os.open(f"{directory}/0", os.O_RDONLY)]
    streams += [os.open(f"{directory}/{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for number in (1, 2)]
    run_here(arguments, environment, working_directory, streams)


def run_here(arguments: list[str], environment: Mapping[str, str], directory: str, streams: list[int]) -> None:
    """Become a command: take over stdin, stdout, stderr, environment and working directory, then do what the entry point does.

    Raises SystemExit with the command's exit code.
    """
    _take_over(["kekbridge", *arguments], environment, directory, streams)
    from kekbridge.cli import main

    main.run()


def _take_over(arguments: list[str], environment: Mapping[str, str], directory: str, streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = arguments
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so do its children


class _Started:
    """A fork that runs; the part of subprocess.Popen that tests need."""

    def __init__(self, fork: ForkServerProcess) -> None:
        """Start it."""
        _start(fork)
        self._fork = fork

    @property
    def pid(self) -> int:
        return int(self._fork.pid or 0)

    def poll(self) -> int | None:
        return _exit_code(self._fork)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._fork.kill()

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the exit code, negative for a signal; raises subprocess.TimeoutExpired."""
        code = _exit_code(self._fork, timeout_s)
        if code is None:
            raise subprocess.TimeoutExpired("kekbridge", timeout_s or 0)
        return code


class Fork(_Started):
    """A command that runs in a fork, with its output on two pipes."""

    def __init__(self, *arguments: str, environment: Mapping[str, str]) -> None:
        """Start it. `environment` is all it gets; its stdin is empty."""
        context = forkserver()
        (out, out_end), (err, err_end) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        given = (list(arguments), dict(environment), str(Path.cwd()), out_end, err_end)
        super().__init__(context.Process(target=_run_on_pipes, args=given))
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno()), encoding="utf-8") for end in (out, err))
        for end in (out, out_end, err, err_end):
            end.close()


def _run_on_pipes(
    arguments: list[str], environment: dict[str, str], directory: str, out: Connection, err: Connection
) -> None:
    """In the fork: run the command with its output on these pipes."""
    run_here(arguments, environment, directory, [os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno()])


class ForkOnTerminal(_Started):
    """A command that runs in a fork, in a session of its own, with a terminal as stdin, stdout and stderr."""

    def __init__(self, *arguments: str, environment: Mapping[str, str], terminal: int) -> None:
        """Start it. `environment` is all it gets; `terminal` is a file descriptor, which stays open here."""
        given = (list(arguments), dict(environment), str(Path.cwd()))
        super().__init__(forkserver().Process(target=_run_on_terminal, args=(*given, _Passed(terminal))))


class _Passed:
    """A file descriptor for the fork that is about to start."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._file),)


def _received(duplicate: Any) -> int:
    return int(duplicate.detach())


def _run_on_terminal(arguments: list[str], environment: dict[str, str], directory: str, terminal: int) -> None:
    """In the fork: run the command on this terminal."""
    os.setsid()
    run_here(arguments, environment, directory, [terminal] * 3)


class ForkedModule(_Started):
    """`python -m MODULE ARGUMENT…` in a fork and a session of its own, without stdin and stdout, its stderr appended to `log`."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str], log: Path | None = None) -> None:
        """Start it. `environment` is all it gets."""
        self.args = ["-m", module, *arguments]
        given = ([module, *arguments], dict(environment), str(Path.cwd()), str(log or os.devnull))
        super().__init__(forkserver().Process(target=_run_module, args=given))


def _run_module(arguments: list[str], environment: dict[str, str], directory: str, log: str) -> None:
    """In the fork: run the module as the main program."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    _take_over(
        arguments, environment, directory, [null, null, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
    )
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def run_cli(*arguments: str, data_dir: Path, stdin: str | None = None, check: bool = True) -> str:
    """Like harness.run_cli, in a fork."""
    directory = {"KEKBRIDGE_DATA_DIR": str(data_dir), "KEKBRIDGE_VAULT_BACKEND": "key_file"}
    done = run_forked(*arguments, environment={**clean_environment(), **directory}, stdin=stdin or "")
    if check and done.returncode != 0:
        raise AssertionError(f"kekbridge {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _run_in_fork(
    arguments: list[str],
    environment: dict[str, str],
    log: str,
    stdout: Connection,
    listener: socket.socket | None,
    tracer: tuple[str, ...],
) -> None:
    """In the fork: take over streams, environment and the supervisor's socket, then run the command."""
    os.setsid()
    if tracer:
        _attach_tracer(tracer)
    os.environ.clear()
    os.environ.update(environment)
    if listener is not None:
        moved = os.dup(stdout.fileno())  # the pipe may be file 3 now, which the socket needs
        os.dup2(listener.fileno(), 3)
        os.dup2(moved, 1)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    if listener is None:
        os.dup2(stdout.fileno(), 1)
    from kekbridge.cli.main import run_command

    sys.exit(run_command(arguments))


def _attach_tracer(tracer: tuple[str, ...]) -> None:
    """Start the tracer and return once it is attached. It ends by itself after this process's last call."""
    # Under Yama only a parent may trace, so permit any process.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(_PR_SET_PTRACER_ANY), 0, 0, 0)
    subprocess.Popen([*tracer, "-p", str(os.getpid())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        if time.monotonic() > end:
            raise AssertionError("strace could not attach")
        time.sleep(0.005)


class ForkedProcess(Process):
    """A harness.Process that is forked instead of executed."""

    def __init__(
        self,
        arguments: list[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        listener: socket.socket | None = None,
        tracer: tuple[str, ...] = (),
    ) -> None:
        """`listener`: a socket to pass on as systemd does; `tracer`: a command that is started with `-p PID` to trace the process."""
        super().__init__(arguments, environment=environment, log=log)
        self._listener = listener
        self._tracer = tracer
        self._fork: Any = None

    def start(self) -> dict[str, Any]:
        context = forkserver()
        read_end, write_end = context.Pipe(duplex=False)
        environment = {**clean_environment(), **self._environment}
        self._fork = context.Process(
            target=_run_in_fork,
            args=(self._arguments, environment, str(self._log), write_end, self._listener, self._tracer),
            daemon=True,
        )
        _start(self._fork)
        write_end.close()
        with os.fdopen(os.dup(read_end.fileno()), encoding="utf-8") as printed:
            line = printed.readline()
        read_end.close()
        if line:
            self.started = self._decode(line)
        # Without a line it died before it was ready, as some failpoints intend.
        return self.started

    @property
    def pid(self) -> int:
        return int(self._fork.pid)

    @property
    def is_alive(self) -> bool:
        return self._fork is not None and _exit_code(self._fork) is None

    def kill(self) -> None:
        if self._fork is None:
            return
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)
        _exit_code(self._fork, None)

    def terminate(self, *, deadline_s: float = DEADLINE_S) -> int:
        if self.is_alive:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(deadline_s=deadline_s)

    def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        _exit_code(self._fork, deadline_s)
        self.kill()
        code = _exit_code(self._fork)
        assert code is not None
        return code


class ForkedBridge(BridgeProcess):
    """A bridge of forked processes: it starts and restarts in a few tenths of a second."""

    def start(self) -> None:
        super().start()
        if not self.daemon.started:
            raise AssertionError(f"the daemon did not start: {self.log_path.read_text()[-2000:]}")

    def _new_paper(self) -> Process:
        return ForkedProcess(self.paper_options(), environment={}, log=self.directory / "paper.log")

    def run(self, *arguments: str) -> str:
        return run_cli(*arguments, data_dir=self.data_dir)

    def _new_daemon(self) -> Process:
        return ForkedProcess(self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path)


@contextmanager
def forked_bridge(directory: Path, **options: Any) -> Iterator[BridgeProcess]:
    """Like harness.bridge_process, with forked processes."""
    with running(ForkedBridge(directory, **options)) as bridge:
        yield bridge


class SocketBridge(ForkedBridge):
    """A bridge whose listening socket is held by this process, as by systemd: connections wait in the backlog between two daemons."""

    def __post_init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1024)
        super().__post_init__()
        self.port = int(self.listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.daemon = self._new_daemon()

    def _new_daemon(self) -> Process:
        return ForkedProcess(
            self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path, listener=self.listener
        )

    def stop(self) -> None:
        super().stop()
        self.listener.close()
