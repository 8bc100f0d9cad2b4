"""A `kekbridge` program for scripts that starts without the second Python spends on imports.

It passes its arguments, environment, working directory and streams to a server that has imported everything, and ends as the server's fork
does. If the program is killed, so is the fork.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.system.forked import forkserver, run_here
from tests.system.harness import wait_until

_PROGRAM = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    call = [sys.argv[1:], dict(os.environ), os.getcwd()]
    server.sendall(json.dumps(call).encode() + b"\\n")
    sys.exit(int(server.recv(16) or b"1"))
"""


@contextmanager
def program_at(program: Path) -> Iterator[None]:
    """Write the program; it works until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="kb-") as directory:  # a short path, as a socket's must be
        path = Path(directory) / "s"
        server = forkserver().Process(target=_serve, args=(str(path),))
        server.start()
        try:
            wait_until(path.exists, what="the server of forks")
            program.write_text(_PROGRAM.format(python=sys.executable, path=str(path)), encoding="utf-8")
            program.chmod(0o755)
            yield
        finally:
            server.kill()
            server.join()


def _serve(path: str) -> None:
    """Fork for each call. The zombies go with this process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        Path(f"{path}.new").rename(path)  # now it can be connected to
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run one command in another fork and send its exit code, or kill it when the program has gone. Ends this process."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as lines:
        arguments, environment, directory = json.loads(lines.readline())
    reads, writes = os.pipe()  # closed by the end of the command's process
    command = os.fork()
    if command == 0:
        connection.close()
        _run(arguments, environment, directory, streams)
    os.close(writes)
    for stream in streams:
        os.close(stream)
    with selectors.DefaultSelector() as selector:
        selector.register(reads, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        ready = {key.fileobj for key, _ in selector.select()}
    if reads not in ready:
        os.kill(command, signal.SIGKILL)
    _, status = os.waitpid(command, 0)
    with suppress(OSError):
        connection.sendall(str(abs(os.waitstatus_to_exitcode(status))).encode())
    os._exit(0)


def _run(arguments: list[str], environment: dict[str, str], directory: str, streams: list[int]) -> None:
    """Run the entry point with these streams. Ends this process."""
    code = 1
    try:
        run_here(arguments, environment, directory, streams)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for written in (sys.stdout, sys.stderr):
            with suppress(OSError):
                written.flush()
        os._exit(code)
