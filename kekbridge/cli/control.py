"""Run an operation for a command: in the running daemon, over its control socket, or here while none runs.

While a daemon runs, only it writes: a daemon that is starting or hangs is an error, never bypassed. Without one, the command takes the
daemon's lock for as long as the operation takes.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, Self

from kekbridge.cli.options import ARGUMENTS
from kekbridge.daemon.control_socket import NAME, find_socket, identity, service_place
from kekbridge.errors import ConfigError, NotFound, OperatorError
from kekbridge.store.lock import DaemonLock, LockOwner, lock_owner

if TYPE_CHECKING:
    from kekbridge.cli.context import CliContext
    from kekbridge.config import Settings
    from kekbridge.exchange.base import Exchange
    from kekbridge.model import Mode
    from kekbridge.ops.operation import ExchangeKeys, Operation
    from kekbridge.store.database import Database
    from kekbridge.vault import OpenVault, Sealer

# How long a command waits for a daemon that starts, or for another command that writes.
START_WITHIN_S: Final = 10.0
_CONNECT_WITHIN_S: Final = 2.0
_CATCH_UP_WITHIN_S: Final = 1.0
_RETRY_EVERY_S: Final = 0.05
_SHOW_WAITING_EVERY_S: Final = 1.0


class NoBridge(ConfigError):
    """No daemon runs, and the operation needs one."""


class BridgeUnavailable(OperatorError):
    """A daemon runs and does not answer; exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__("bridge_unavailable", message)


class NoAccess(OperatorError):
    """The bridge belongs to another user."""

    exit_code = 3

    def __init__(self, path: Path, *, needs_files: bool = False) -> None:
        """`path`: the control socket, or the data directory of a bridge that does not answer; `needs_files`: the socket is not enough."""
        service = service_place()
        if needs_files:
            fix = f"run `{sudo_line(None if path == service.data_dir else path)}`: it needs the files of the bridge"
        elif path in (service.socket, service.data_dir):
            group = "join the group kekbridge (sudo usermod -aG kekbridge USER, then log in again)"
            start = "" if path == service.socket else "start the service (sudo systemctl start kekbridge) and "
            fix = f"run `{sudo_line()}`, or {start}{group}; a bridge of your own is named with --data-dir"
        else:
            data_dir = path.parent if path.name == NAME else path
            fix = f"run `{sudo_line(data_dir)}`, or the command as {_owner_of(path)}"
        super().__init__("no_access", f"{path}: permission denied; {fix}")


def sudo_line(data_dir: Path | None = None) -> str:
    """The command line that runs now, as root has to type it. `data_dir`: not the service's, and sudo keeps no variable that names it."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    line = ["kekbridge"]
    if program.name == "__main__.py":
        line = [sys.executable, "-m", "kekbridge"]
    elif program.name == "kekbridge" and program.is_absolute() and str(program.parent) not in _ROOTS_PATH:
        line = [str(program)]
    directory = [] if data_dir is None or "--data-dir" in ARGUMENTS else ["--data-dir", str(data_dir)]
    return shlex.join(["sudo", *line, *ARGUMENTS, *directory])


#: Where sudo looks for programs.
_ROOTS_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class VaultOutOfReach(OperatorError):
    """No daemon runs, and only its user can open the vault that it reads."""

    exit_code = 3

    def __init__(self, data_dir: Path) -> None:
        if data_dir == service_place().data_dir:
            text = "the service does not run, and only it can open its vault; start it (sudo systemctl start kekbridge)"
            fix = "and run the command again; nothing was changed"
        else:
            owner = _owner_of(data_dir)
            text = f"no bridge runs on {data_dir}, and what is stored there belongs to {owner}; start it"
            fix = f"or run the command as {owner}; nothing was changed"
        super().__init__("vault_out_of_reach", f"{text} {fix}")


class OperationFailed(OperatorError):
    """The daemon refused an operation; code, message and exit code are those of its error."""

    def __init__(self, code: str, message: str, *, exit_code: int) -> None:
        super().__init__(code, message)
        self.exit_code = exit_code


def run_operation(
    context: CliContext,
    operation: Operation,
    *,
    start_within_s: float = START_WITHIN_S,
    answer_within_s: float | None = None,
    shows_waiting: bool = True,
) -> Any:
    """Run one operation and return its result, as JSON types.

    `start_within_s`: how long to wait for a daemon that holds the lock but has not opened its socket; `answer_within_s`: for its answer
    (None: the operation's own); `shows_waiting`: a terminal may show that it waits. Raises KekbridgeError: the operation's, NoBridge,
    BridgeUnavailable or NoAccess.
    """
    here = _CommandContext(context, operation)
    deadline = time.monotonic() + start_within_s
    is_shown = shows_waiting and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    with _Waiting(is_shown=is_shown) as waiting:
        while True:
            connection = _connect(context)
            if connection is not None:
                waiting.begin()
                return connection.run(operation, answer_within_s or operation.answer_within_s)
            owner = lock_owner(context.data_dir)
            if operation.needs_daemon and (owner is None or not owner.is_daemon):
                here.require_data()
                raise NoBridge(f"no bridge runs on {context.data_dir}; start it with `kekbridge serve`")
            if owner is None or not (operation.writes or operation.needs_daemon):
                waiting.end()  # it may ask, and report
                is_done, result = here.run()
                if is_done:
                    return result
            if time.monotonic() >= deadline:
                raise BridgeUnavailable(_unavailable(context.data_dir, owner, start_within_s))
            waiting.begin()
            time.sleep(_RETRY_EVERY_S)


def run_beside_hung_bridge(context: CliContext, operation: Operation) -> Any:
    """Run an operation here although a bridge holds the lock, which does not answer; it must not write to the database (`may_write`).

    For an emergency: the account can be closed whatever the bridge does. Raises KekbridgeError.
    """
    return _CommandContext(context, operation, may_write=False).run()[1]


def daemon_status(context: CliContext) -> dict[str, Any] | None:
    """What the running daemon says about itself (process, version, mode, dataDir, ready…); None if none answers."""
    connection = _connect(context)
    return None if connection is None else connection.status()


def catch_up(context: CliContext) -> None:
    """Have the daemon bring the tables up to date, which lag behind its answers; they are read as they are if it does not answer."""
    with suppress(NoAccess):
        connection = _connect(context)
        if connection is not None:
            connection.catch_up()


def bridge_status(context: CliContext) -> dict[str, Any] | None:
    """What the bridge of a context says about itself; None if none runs, or if it does not answer. Raises NoAccess."""
    connected = _connect(context)
    return None if connected is None else connected.status()


def status_at(path: Path) -> dict[str, Any] | None:
    """What the bridge that listens at a control socket says about itself; empty if it does not answer, None if none listens.

    Raises NoAccess.
    """
    connected = _open(path)
    return None if connected is None else _DaemonConnection(connected).status() or {}


class _Waiting:
    """Says on a terminal's stderr, after a second, that the command waits for the bridge. Nothing of it stays on the screen."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._thread: Thread | None = None
        self._is_over = Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        if self._is_shown and self._thread is None:
            self._is_over.clear()
            self._thread = Thread(target=self._show, daemon=True)
            self._thread.start()

    def end(self) -> None:
        if self._thread is not None:
            self._is_over.set()
            self._thread.join()
            self._thread = None

    def _show(self) -> None:
        began = time.monotonic()
        clear = ""
        while not self._is_over.wait(_SHOW_WAITING_EVERY_S):
            clear = "\r\x1b[K"
            sys.stderr.write(f"{clear}Waiting for the bridge, {time.monotonic() - began:.0f} s")
            sys.stderr.flush()
        sys.stderr.write(clear)
        sys.stderr.flush()


# ---------------------------------------------------------------------------------------------------------- in the daemon


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a connected Unix socket. No proxy, no name, no port."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("bridge")
        self.sock = connected


class _DaemonConnection:
    """An open connection to a daemon's control socket, for one request."""

    def __init__(self, connected: socket.socket, meant: str | None = None) -> None:
        """`meant`: `identity` of the data directory that the bridge must use; None: any."""
        self._socket = connected
        self._http = _UnixConnection(connected)
        self._headers = {"Content-Type": "application/json"} | ({"Kekbridge-Data-Dir": meant} if meant else {})

    def run(self, operation: Operation, answer_within_s: float) -> Any:
        """Raises OperationFailed, or BridgeUnavailable when it is not known whether it took effect."""
        import msgspec

        unknown = f"whether `{operation.operation}` took effect is not known; look, and run it again if needed"
        self._socket.settimeout(answer_within_s)
        try:
            self._http.request(
                "POST", f"/operations/{operation.operation}", msgspec.json.encode(operation), self._headers
            )
            response = self._http.getresponse()
            status, reply = response.status, json.loads(response.read())
        except TimeoutError:
            raise BridgeUnavailable(f"the bridge did not answer within {answer_within_s:g} s; {unknown}") from None
        except (OSError, http.client.HTTPException, ValueError):
            raise BridgeUnavailable(f"the bridge ended before it answered; {unknown}") from None
        finally:
            self._http.close()
        if status == 200:
            return reply["result"]
        error = reply["error"]
        raise OperationFailed(error["code"], error["message"], exit_code=error["exitCode"])

    def status(self) -> dict[str, Any] | None:
        return self._get("/status", _CONNECT_WITHIN_S)

    def catch_up(self) -> None:
        self._get("/caught-up", _CATCH_UP_WITHIN_S)

    def _get(self, path: str, within_s: float) -> dict[str, Any] | None:
        self._socket.settimeout(within_s)
        try:
            self._http.request("GET", path, headers=self._headers)
            found: dict[str, Any] = json.loads(self._http.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            self._http.close()
        return found


def _connect(context: CliContext) -> _DaemonConnection | None:
    """Connect to the bridge of a context; None if none listens. Raises NoAccess."""
    if context.control_socket is not None:  # of the very bridge that was found
        connected = _open(context.control_socket)
        return None if connected is None else _DaemonConnection(connected)
    data_dir = context.data_dir
    try:
        path = find_socket(data_dir)
    except PermissionError:
        raise NoAccess(data_dir) from None
    connected = None if path is None else _open(path)
    if connected is None:
        return None
    # The link or the service's socket may lead to a bridge on another data directory.
    return _DaemonConnection(connected, identity(data_dir) if path != data_dir / NAME else None)


def _open(path: Path) -> socket.socket | None:
    """Connect to a control socket; None if no bridge listens there. Raises NoAccess."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(_CONNECT_WITHIN_S)
    try:
        connected.connect(str(path))
    except PermissionError:
        connected.close()
        raise NoAccess(path) from None
    except OSError:  # left by a daemon that was killed, or its backlog is full
        connected.close()
        return None
    return connected


def _unavailable(data_dir: Path, owner: LockOwner | None, waited_s: float) -> str:
    if owner is not None and not owner.is_daemon:
        return (
            f"another command (process {owner.pid or 'unknown'}) has been changing {data_dir} for {waited_s:g} s;"
            " nothing was changed, run this one again"
        )
    pid = owner.pid if owner is not None and owner.pid else None
    who, stop = (f"the bridge (process {pid})", f"kill {pid}") if pid else ("the bridge", "stop it")
    return (
        f"{who} is starting, stopping or hangs: it did not accept the command within {waited_s:g} s; nothing was changed."
        f" Run the command again, or end the bridge first ({stop})"
    )


def _owner_of(path: Path) -> str:
    try:
        return pwd.getpwuid(os.stat(path).st_uid).pw_name
    except (OSError, KeyError):
        return "the user that runs the bridge"


# ------------------------------------------------------------------------------------------------------- in the command


def require_own(data_dir: Path) -> None:
    """Raise VaultOutOfReach if a vault opened by this user would be none that the bridge of the data directory reads."""
    try:
        is_own = data_dir.stat().st_uid == os.geteuid()
    except OSError:  # a new one
        is_own = data_dir != service_place().data_dir
    if not is_own:
        raise VaultOutOfReach(data_dir)


class _CommandContext:
    """What an operation works on while no daemon runs (ops.operation.OperatorContext). Everything is opened when it is needed."""

    bridge = None

    def __init__(self, context: CliContext, operation: Operation, *, may_write: bool = True) -> None:
        self.may_write = may_write
        self._context = context
        self._operation = operation
        self.settings: Settings = context.settings
        self.data_dir: Path = context.data_dir

    def run(self) -> tuple[bool, Any]:
        """Run the operation; False if another process holds the lock that it needs."""
        import asyncio

        operation = self._operation
        if operation.needs_data and not operation.creates:
            self.require_data()
        if operation.opens_vault:
            self.vault  # noqa: B018 - asks for a passphrase now: not under the lock, and where Ctrl-C ends the question
        lock = DaemonLock(self.data_dir, is_daemon=False)
        if operation.writes and self.may_write and not lock.try_acquire():
            return False, None
        try:
            return True, asyncio.run(self._run())
        finally:
            lock.release()

    async def _run(self) -> Any:
        from kekbridge.ops.operations import Operations

        try:
            return await Operations(self).run(self._operation)
        finally:
            if "database" in self.__dict__:
                await self.database.close()

    def require_data(self) -> None:
        """Raise NotFound, with the fix, if there is no database."""
        self.database  # noqa: B018 - opens it

    @cached_property
    def database(self) -> Database:
        from kekbridge.store.database import Database

        return Database.open(self.data_dir, create=self._operation.creates, migrate=self.may_write)

    @cached_property
    def mode(self) -> Mode:
        from kekbridge.cli.context import mode_in_force

        given: Mode | None = getattr(self._operation, "mode", None)  # of the venue that a key is for
        if given is not None:
            return given
        try:
            return mode_in_force(self._context, self.database)
        except NotFound:
            return self.settings.mode

    @cached_property
    def vault(self) -> OpenVault:
        """The vault that the daemon will open on this data directory. Raises VaultOutOfReach, VaultError."""
        from kekbridge.cli.context import open_vault
        from kekbridge.vault import master_key
        from kekbridge.vault.master import recorded_vault

        require_own(self.data_dir)
        vault = open_vault(self._context, self.mode)
        if self._operation.writes or recorded_vault(self.data_dir) is not None:
            master_key(vault)  # raises for another vault than the daemon's
        return vault

    @cached_property
    def sealer(self) -> Sealer:
        from kekbridge.vault import Sealer, master_key

        return Sealer(master_key(self.vault))

    @cached_property
    def keys(self) -> ExchangeKeys:
        from kekbridge.daemon.orderly_keys import OrderlyKeys

        return OrderlyKeys(self.settings)

    @property
    def clock(self) -> Callable[[], datetime]:
        from kekbridge.cli.context import now

        return now

    @asynccontextmanager
    async def open_exchange(self) -> AsyncIterator[Exchange]:
        from kekbridge.daemon import resources
        from kekbridge.store import daemon_addresses

        settings = self.settings.model_copy(update={"mode": self.mode})
        with self.database.snapshot() as connection:
            resources.check_account(connection, settings, self.data_dir)
            address = daemon_addresses.exchange_address(connection, settings)
        exchange = resources.exchange_client(settings, self.vault, address, self.clock)
        try:
            await exchange.start()
            yield exchange
        finally:
            await exchange.close()

    def report(self, line: str) -> None:
        from kekbridge.cli import render

        render.note(line)
