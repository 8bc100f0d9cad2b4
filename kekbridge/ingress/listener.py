"""The public door: takes POSTs apart into deliveries, hands them to the pipeline and puts its answers on the wire.

Knows HTTP and nothing of alerts. Keeps every connection within bounds of size, time and number, answers no input with a 500, and
promises with a 5xx only that nothing was stored.
Rules: docs/internals/architecture.md sections 1 and 3, docs/internals/reliability.md section 8.1.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from json.encoder import encode_basestring_ascii as _quoted
from ssl import SSLContext
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from kekbridge.config import Server
from kekbridge.errors import (
    ConfigError,
    Forbidden,
    RateLimited,
    RequestRefused,
    StoreUnavailable,
    TooLarge,
    Unauthenticated,
    Unreadable,
)
from kekbridge.ingress import responses
from kekbridge.ingress.addresses import Client, ClientAddresses, parse_address
from kekbridge.ingress.auth import PROOF_HEADERS
from kekbridge.ingress.http import Readiness, WebhookRequest, WebhookResponse
from kekbridge.ingress.lockout import Lockout
from kekbridge.ingress.server import BoundedServer
from kekbridge.ingress.tls.client_certificates import CERTIFICATE_HEADER, FINGERPRINT_HEADER, PinnedCertificates
from kekbridge.log import get_logger
from kekbridge.model.networks import AllowList
from kekbridge.model.webhooks import WEBHOOK_PATH

log = get_logger("kekbridge.ingress")

_METHODS = {WEBHOOK_PATH: ("POST",), "/healthz": ("GET", "HEAD"), "/readyz": ("GET", "HEAD")}
_BACKLOG = 1024
_HANDSHAKE_TIMEOUT_S = 5.0
_SPARE_FILES = 256  # database, logs, the exchange's connections
_HEADERS = {"Server": "kekbridge", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# A stale or missing timestamp comes with a valid proof: a wrong clock is no attack.
_GUESSES = frozenset({"unauthorized", "signature_missing", "signature_invalid", "api_key_missing", "api_key_unknown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerRejection:
    """A request to the webhook path that the pipeline did not answer: `code` and `reason` are the real ones, not the sender's."""

    remote: str
    received_at: datetime
    status: int
    code: str
    reason: str


class Listener:
    """The HTTP server for TradingView. One per process; start() once, then stop_accepting() and close()."""

    def __init__(
        self,
        receive: Callable[[WebhookRequest], Awaitable[WebhookResponse]],
        readiness: Callable[[], Readiness],
        settings: Server,
        *,
        clock: Callable[[], datetime],
        refused: Callable[[ListenerRejection], None] | None = None,
        allowed: AllowList | None = None,
        certificates: PinnedCertificates | None = None,
        lockout: Lockout | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        """`receive` is the pipeline; what it raises besides RequestRefused and StoreUnavailable is a bug and answered 422.

        `refused` hears of every request to the webhook path that ended in an exception; it must not block. `allowed` is the allowlist of
        the whole listener (empty: everybody), `certificates` what a proxy must have seen (empty: nothing).
        Raises ConfigError for unreadable server.trusted_proxies.
        """
        self._receive = receive
        self._readiness = readiness
        self._settings = settings
        self._clock = clock
        self._refused = refused
        self._allowed = allowed or AllowList()
        self._certificates = certificates or PinnedCertificates(())
        self._lockout = lockout
        self._ssl_context = ssl_context
        self._addresses = ClientAddresses(settings.trusted_proxies, behind_proxy=settings.behind_proxy)
        self._server: BoundedServer | None = None
        self._sites: list[asyncio.Server] = []
        self._is_stopping = False

    # -------------------------------------------------------------------------------------------------------- life

    async def start(self, sockets: list[socket.socket] | None = None) -> tuple[str, int]:
        """Listen on server.host and server.port (0: any free one), or on sockets that were handed over. Returns host and port in use.

        Raises ConfigError when the address is taken or not allowed.
        """
        settings = self._settings
        _allow_files(settings.max_connections + _SPARE_FILES)
        self._server = BoundedServer(
            self._handle,
            max_connections=settings.max_connections,
            keepalive_timeout=settings.idle_timeout_s,
            lingering_time=settings.body_timeout_s,
        )
        try:
            for given in sockets or (None,):
                self._sites.append(await self._listen(self._server, given))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another server.host or --port"
            ) from None
        host, port = self._sites[0].sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def _listen(self, server: BoundedServer, given: socket.socket | None) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self._ssl_context is not None:
            # A handshake that never ends is not a connection yet, so no other limit would reach it.
            handshake_s = min(_HANDSHAKE_TIMEOUT_S, self._settings.idle_timeout_s)
            tls = {"ssl": self._ssl_context, "ssl_handshake_timeout": handshake_s, "ssl_shutdown_timeout": handshake_s}
        if given is not None:
            return await loop.create_server(server, sock=given, backlog=_BACKLOG, **tls)
        return await loop.create_server(server, self._settings.host, self._settings.port, backlog=_BACKLOG, **tls)

    async def stop_accepting(self) -> None:
        """Take no new connections. Requests under way, and those on open connections, are still answered, with Connection: close.

        What nobody has accepted yet waits in the backlog of a socket that was handed over, for the next daemon.
        """
        self._is_stopping = True
        loop = asyncio.get_running_loop()
        for site in self._sites:
            for listening in site.sockets:
                loop.remove_reader(listening.fileno())
        # asyncio drops a connection that was accepted in this very turn of the loop when its server is closed before the next one.
        await asyncio.sleep(0)
        for site in self._sites:
            site.close()

    async def close(self) -> None:
        """Answer what was accepted, also when its request is still on its way, at most server.shutdown_timeout_s; then drop the rest."""
        await self.stop_accepting()
        if self._server is not None:
            await self._server.finish(longest_s=self._settings.shutdown_timeout_s)
        self._sites.clear()

    @property
    def open_connections(self) -> int:
        """How many connections are open now, never more than server.max_connections for longer than a moment."""
        return self._server.open_connections if self._server else 0

    # ---------------------------------------------------------------------------------------------------- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request to its response. The one `except Exception` of the door stands in _take."""
        path = request.rel_url.raw_path
        allowed = _METHODS.get(path)
        if allowed is None:
            return self._respond(
                _door_answer("not_found", f"there is nothing here; alerts go to {WEBHOOK_PATH}"), close=True
            )
        if request.method not in allowed:
            answer = _door_answer("method_not_allowed", f"found {request.method[:16]}, expected {' or '.join(allowed)}")
            return self._respond(answer, close=True, headers={"Allow": ", ".join(allowed)})
        if path == "/healthz":
            return self._respond(WebhookResponse(status=200, body={"status": "ok"}), close=request.can_read_body)
        if path == "/readyz":
            return self._respond(self._ready_answer(), close=request.can_read_body)
        return await self._take(request)

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        """One POST to the webhook path."""
        received_at = self._clock()
        client = self._addresses.of(request.remote, _joined(request, "X-Forwarded-For"))
        remote = str(client)
        try:
            self._check_admitted(request, client, received_at)
            body = await self._read_body(request)
            delivery = WebhookRequest(
                body=body, headers=_proof_headers(request), remote=remote, received_at=received_at
            )
            with self._protected(request):
                answer = await self._receive(delivery)
            response = self._respond(answer)
        except (RequestRefused, StoreUnavailable) as error:
            return self._refuse(request, client, received_at, error)
        except ConnectionError:
            # The sender went away while its body was read: nobody is left to answer.
            log.debug("sender_gone", remote=remote)
            return self._respond(_door_answer("body_timeout", "the body did not arrive"), close=True)
        except Exception as error:
            # A 5xx would say "not stored, send again". After a bug that is not known, and the same bytes would meet the same bug.
            log.exception("internal_error", remote=remote)
            bug = RequestRefused("internal_error", "kekbridge failed on this request; its log has the details")
            bug.__cause__ = error
            return self._refuse(request, client, received_at, bug)
        if self._lockout:
            self._lockout.succeeded(client)
        log.debug("answered", remote=remote, http_status=answer.status)
        return response

    def _check_admitted(self, request: web.BaseRequest, client: Client, now: datetime) -> None:
        """Turn away, before a byte of the body is read, who may not knock."""
        if not self._allowed.allows(client.address):
            raise Forbidden("address_not_allowed", f"auth.allowed_addresses does not list {client}")
        if self._certificates and not self._certificates.allows(
            _joined(request, FINGERPRINT_HEADER),
            _joined(request, CERTIFICATE_HEADER),
            from_proxy=self._addresses.is_trusted_proxy(parse_address(request.remote)),
        ):
            raise Forbidden(
                "certificate_not_allowed", "no client certificate of auth.client_certificates was presented"
            )
        blocked_for = self._lockout.blocked_for(client, now) if self._lockout else 0
        if blocked_for:
            raise RateLimited(
                "locked_out", "too many failed authentications from this address", retry_after_s=blocked_for
            )

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        """The body's bytes. Raises Unreadable, TooLarge, RequestRefused(body_timeout), ConnectionError."""
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise Unreadable("invalid_encoding", "the body is compressed; send it plain, without Content-Encoding")
        largest = self._settings.max_body_bytes
        if (request.content_length or 0) > largest:
            raise TooLarge(
                "body_too_large", f"the body has {request.content_length} bytes, at most {largest} are taken"
            )
        try:
            if request.content.is_eof():  # the whole body came with the head
                whole = request.content.read_nowait()
                _refuse_over(largest, len(whole))
                return whole
            body = bytearray()
            async with asyncio.timeout(self._settings.body_timeout_s):
                await _continue_if_asked(request)
                async for chunk in request.content.iter_any():
                    body += chunk
                    _refuse_over(largest, len(body))
        except TimeoutError:
            raise RequestRefused(
                "body_timeout", f"the body did not arrive within {self._settings.body_timeout_s:g} s"
            ) from None
        except RequestPayloadError:
            raise Unreadable("invalid_encoding", "the body is cut off or wrongly chunked") from None
        return bytes(body)

    def _protected(self, request: web.BaseRequest) -> BoundedServer.Busy:
        server = cast(BoundedServer, self._server)
        return server.busy(request.protocol)

    # ----------------------------------------------------------------------------------------------------- answers

    def _refuse(
        self, request: web.BaseRequest, client: Client, received_at: datetime, error: RequestRefused | StoreUnavailable
    ) -> web.StreamResponse:
        """The answer to a refused request, the log's line with the real reason, and the count towards a lock-out."""
        answer = _answer_of(error)
        is_locked_now = False
        if self._lockout and isinstance(error, Unauthenticated) and error.code in _GUESSES:
            is_locked_now = self._lockout.failed(client, received_at)
        # Those who are locked out already may not fill the log as well.
        write = log.debug if error.code == "locked_out" else log.info
        write("refused", remote=str(client), http_status=answer.status, code=error.code, reason=error.message)
        if is_locked_now:
            log.warning("address_locked_out", remote=str(client))
        if self._refused is not None:
            refusal = ListenerRejection(
                remote=str(client), received_at=received_at, status=answer.status, code=error.code, reason=error.message
            )
            try:
                self._refused(refusal)
            except Exception:
                log.exception("refusal_not_recorded", code=error.code)
        return self._respond(answer, close=request.can_read_body)

    def _ready_answer(self) -> WebhookResponse:
        try:
            readiness = self._readiness()
        except Exception:
            log.exception("readiness_unknown")
            return WebhookResponse(status=503, body={"status": "unknown"})
        status = "ready" if readiness.is_ready else "not_ready"
        return WebhookResponse(status=200 if readiness.is_ready else 503, body={**readiness.detail, "status": status})

    def _respond(
        self, answer: WebhookResponse, *, close: bool = False, headers: dict[str, str] | None = None
    ) -> web.Response:
        response = web.Response(
            status=answer.status,
            body=to_json(answer.body).encode(),
            content_type="application/json",
            charset="utf-8",
            headers={**_HEADERS, **answer.headers, **(headers or {})},
        )
        if answer.retry_after_s is not None:
            response.headers["Retry-After"] = str(answer.retry_after_s)
        if close or self._is_stopping:
            response.force_close()
        return response


def _answer_of(error: RequestRefused | StoreUnavailable) -> WebhookResponse:
    if isinstance(error, RequestRefused):
        return responses.refusal_response(error)
    return WebhookResponse(
        status=503, body={"success": False, "code": error.code, "error": error.message}, retry_after_s=5
    )


def _door_answer(code: str, message: str) -> WebhookResponse:
    return responses.refusal_response(RequestRefused(code, message))


def _proof_headers(request: web.BaseRequest) -> dict[str, str]:
    """The headers that can carry a proof. One that comes twice is joined, so that it fits nothing: which of the two would count?"""
    headers = request.headers
    return {name: ", ".join(headers.getall(name)) for name in PROOF_HEADERS if name in headers}


def _joined(request: web.BaseRequest, name: str) -> str | None:
    """A header's value, all of them when it comes more than once."""
    headers = request.headers
    return ", ".join(headers.getall(name)) if name in headers else None


def _refuse_over(largest: int, size: int) -> None:
    if size > largest:
        raise TooLarge("body_too_large", f"the body is over {largest} bytes")


async def _continue_if_asked(request: web.BaseRequest) -> None:
    """Tell a sender that waits for it (curl does over 1 KiB) to go on with its body."""
    if request.headers.get("Expect", "").strip().lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp takes bytes already written for a response already begun.
        request.writer.output_size = 0


def _allow_files(needed: int) -> None:
    """Raise the soft limit of open files, 1024 on most systems, to what the connections need, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# One encoder for all: json.dumps with options of its own makes a new one for each value.
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def to_json(value: object) -> str:
    """Compact JSON, ASCII only. Raises TypeError for what JSON cannot hold, ValueError for NaN and infinity."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("JSON has no NaN and no infinity")
        return format(value, "f")
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is int:
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_quoted(str(key))}:{to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(to_json(inner) for inner in value) + "]"
    return _encode(value)
