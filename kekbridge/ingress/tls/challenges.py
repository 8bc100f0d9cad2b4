"""The small HTTP server that a certificate authority looks at: serves the answers to its challenges, and nothing else.

It listens only while a certificate is being issued. It takes no alert and never redirects: a secret sent over plain HTTP is lost already.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from aiohttp import web

from kekbridge.errors import ConfigError

_IDLE_S = 10.0


class ChallengeServer:
    """Listens inside `async with`. `publish` may be called from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._answers: dict[str, str] = {}
        self._runner: web.ServerRunner | None = None
        self.port = port

    def publish(self, path: str, text: str) -> None:
        """Serve this text at this path until the end of the block."""
        self._answers[path] = text

    async def __aenter__(self) -> Self:
        """Raises ConfigError when the port cannot be had."""
        server = web.Server(self._handle, access_log=None, keepalive_timeout=_IDLE_S)
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host or None, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"port {self._port} cannot be opened for the certificate authority: {error.strerror}; give the service"
                " CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), stop what listens there, or set tls.acme_port"
                " and forward port 80 to it",
                field="tls.acme_port",
            ) from None
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.clear()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = self._answers.get(request.rel_url.raw_path) if request.method in ("GET", "HEAD") else None
        if answer is None:
            return web.Response(status=404, text="nothing here\n", headers={"Connection": "close"})
        return web.Response(body=answer.encode("ascii"), content_type="application/octet-stream")
