"""The control socket's server: run operations for commands of this machine, with the socket's file mode as the only gate.

HTTP over a Unix socket: `POST /operations/NAME` with the parameters as JSON, `GET /status`, and `GET /caught-up`, which is answered once
the tables hold all that the daemon has answered so far. Web browsers cannot reach it, and it needs no token, no port and no proxy settings.
Results may be secrets: neither parameters nor results are logged.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from kekbridge.config import Settings
from kekbridge.daemon.control_socket import ControlSocket, identity
from kekbridge.daemon.orderly_keys import OrderlyKeys
from kekbridge.daemon.resources import Resources
from kekbridge.errors import ConfigError, KekbridgeError, NotFound
from kekbridge.exchange.base import Exchange
from kekbridge.formatting import to_jsonable
from kekbridge.log import get_logger
from kekbridge.model import Mode
from kekbridge.ops.operation import RunningBridge, decode
from kekbridge.ops.operations import OPERATIONS, Operations
from kekbridge.store.database import Database
from kekbridge.vault import OpenVault, Sealer

log = get_logger("kekbridge.daemon.control")

#: Names the data directory that a command means, as `control_socket.identity` does.
DATA_DIR_HEADER: Final = "Kekbridge-Data-Dir"
_MOST_BYTES: Final = 1 << 20
_STOP_WITHIN_S: Final = 2.0


class DaemonContext:
    """What operations work on in the daemon (ops.operation.OperatorContext)."""

    def __init__(self, resources: Resources, bridge: RunningBridge) -> None:
        self.settings: Settings = resources.settings
        self.mode: Mode = resources.settings.mode
        self.data_dir: Path = resources.data_dir
        self.database: Database = resources.database
        self.vault: OpenVault = resources.vault
        self.sealer: Sealer = resources.sealer
        self.clock: Callable[[], datetime] = resources.clock
        self.keys = OrderlyKeys(resources.settings, resources.paper_url)
        self.bridge: RunningBridge | None = bridge
        self.may_write = True
        self._exchange = resources.exchange

    @asynccontextmanager
    async def open_exchange(self) -> AsyncIterator[Exchange]:
        """The daemon's own client."""
        yield self._exchange

    def report(self, line: str) -> None:
        log.info("operation_step", detail=line)


class ControlServer:
    """The server of one daemon. Call `start` once, then `close`."""

    def __init__(
        self,
        operations: Operations,
        data_dir: Path,
        environment: Mapping[str, str],
        *,
        status: Callable[[], Mapping[str, Any]],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        """`status`: what `GET /status` answers. `catch_up`: brings the tables up to date."""
        self._operations = operations
        self._status = status
        self._catch_up = catch_up
        self._identity = identity(data_dir)
        self._socket = ControlSocket(data_dir, environment)
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_get("/status", self._show_status)
        app.router.add_get("/caught-up", self._show_caught_up)
        app.router.add_post("/operations/{name}", self._run)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_WITHIN_S)

    async def start(self) -> None:
        """Serve commands. Raises ConfigError if the socket cannot be created."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket.bind()).start()

    async def close(self) -> None:
        """Remove the socket; operations under way get 2 s to finish. Commands wait for the daemon's end from here on."""
        self._socket.close()
        await self._runner.cleanup()

    async def _show_status(self, request: web.Request) -> web.Response:
        return web.json_response(to_jsonable(self._status()))

    async def _show_caught_up(self, request: web.Request) -> web.Response:
        try:
            await self._catch_up()
        except KekbridgeError as error:
            return _failure(error, 503)
        return web.json_response({})

    async def _run(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            self._check_data_dir(request)
            kind = OPERATIONS.get(name)
            if kind is None:
                raise NotFound("not_found", f"this bridge has no operation {name[:40]!r}; restart it after an upgrade")
            operation = decode(kind, await _read_body(request))
            result = await self._operations.run(operation)
        except KekbridgeError as error:
            log.info("operation_refused", operation=name[:40], code=error.code, **_peer(request))
            return _failure(error, 404 if isinstance(error, NotFound) else 422)
        except Exception:
            log.exception("operation_failed", operation=name[:40])
            bug = KekbridgeError(
                "internal_error",
                f"the bridge failed on {name[:40]}; its log has the details, and it may have taken effect",
            )
            return _failure(bug, 500)
        if kind.is_logged:
            log.info("operation", operation=name, **_peer(request))
        return web.json_response({"result": result})

    def _check_data_dir(self, request: web.Request) -> None:
        """Refuse a command that means another data directory: a link that an earlier daemon left may lead here."""
        meant = request.headers.get(DATA_DIR_HEADER)
        if meant is not None and self._identity is not None and meant != self._identity:
            raise ConfigError("the bridge at this socket uses another data directory; nothing was changed")


async def _read_body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise ConfigError(f"the parameters are over {_MOST_BYTES} bytes; nothing was changed") from None


def _failure(error: KekbridgeError, status: int) -> web.Response:
    """An error as JSON, with the exit code that the command line gives it."""
    body = {"code": error.code, "message": error.message, "exitCode": int(getattr(error, "exit_code", 1))}
    return web.json_response({"error": body}, status=status)


def _peer(request: web.Request) -> dict[str, int]:
    """Process and user of the command, for the log; empty where the system does not report them."""
    found: socket.socket | None = request.transport.get_extra_info("socket") if request.transport else None
    if found is None or not hasattr(socket, "SO_PEERCRED"):
        return {}
    try:
        pid, uid, _ = struct.unpack(
            "3i", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
    except OSError:
        return {}
    return {"process": pid, "user": uid}
