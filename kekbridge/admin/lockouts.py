"""The lock-outs of the running bridge over the admin API: seen and lifted by `kekbridge lockouts`. They live in memory only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from kekbridge.admin.auth import SESSION
from kekbridge.errors import ConfigError
from kekbridge.formatting import jsonable
from kekbridge.ingress.lockout import Lockout, read_address
from kekbridge.log import get_logger

log = get_logger("kekbridge.admin.lockouts")


class LockoutDesk:
    """Routes over the one lock-out of the daemon."""

    def __init__(self, lockout: Lockout, clock: Callable[[], datetime]) -> None:
        self._lockout = lockout
        self._clock = clock

    def register(self, router: web.UrlDispatcher) -> None:
        router.add_get("/api/lockouts", self._list)
        router.add_post("/api/lockouts/lift", self._lift)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(jsonable(self._lockout.locked(self._clock())))

    async def _lift(self, request: web.Request) -> web.Response:
        """`{"address": "203.0.113.7"}`, bearer token only. `lifted` is false when that address was not locked out."""
        if SESSION in request:
            return web.json_response({"success": False, "error": "use the token"}, status=403)
        try:
            address = read_address((await request.json())["address"])
        except ConfigError as error:
            return web.json_response({"success": False, "error": error.message}, status=400)
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.json_response({"success": False, "error": 'expected {"address": "203.0.113.7"}'}, status=400)
        is_lifted = self._lockout.release(address)
        log.info("lockout_lifted", remote=str(address), lifted=is_lifted)
        return web.json_response({"address": str(address), "lifted": is_lifted})
