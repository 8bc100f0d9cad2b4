"""The public HTTP listener: read each POST within its bounds, pass it to the receiver, and write the response.

Knows HTTP and nothing of alerts. Keeps every connection within bounds of size, time and number, answers no input with a 500, and answers
5xx only if nothing was stored.
Rules: docs/internals/architecture.md sections 1 and 3, docs/internals/reliability.md section 8.1.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from ssl import SSLContext
from typing import Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from kekbridge.alerts.field_names import KEY_PREFIXES
from kekbridge.config import Server
from kekbridge.connections.sampling import Sampler
from kekbridge.connections.server import SERVER_NAME, BoundedServer, Peer, bind
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
from kekbridge.ingress.addresses import Client, ClientAddresses, network_key, parse_address
from kekbridge.ingress.auth import PROOF_HEADERS
from kekbridge.ingress.budget import RefusalBudget
from kekbridge.ingress.http import Readiness, WebhookRequest, WebhookResponse
from kekbridge.ingress.lockout import Lockout
from kekbridge.ingress.tls.client_certificates import PinnedCertificates
from kekbridge.log import get_logger
from kekbridge.model.networks import AllowList
from kekbridge.model.webhooks import WEBHOOK_PATH

log = get_logger("kekbridge.ingress")

_METHODS = {WEBHOOK_PATH: ("POST",), "/healthz": ("GET", "HEAD"), "/readyz": ("GET", "HEAD")}
# Whether the key is valid, and allowed in the URL, is for the authentication to say; everything else below the path does not exist.
_KEY_PATH = re.compile(re.escape(WEBHOOK_PATH) + "/((?:" + "|".join(KEY_PREFIXES) + ")[A-Za-z0-9]{1,100})")
_RESPONSE_HEADERS = {"Server": SERVER_NAME, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# Codes that count towards a lockout. A stale or missing timestamp comes with a valid proof: a wrong clock is no attack.
_LOCKOUT_CODES = frozenset(
    {"unauthorized", "signature_missing", "signature_invalid", "api_key_missing", "api_key_unknown"}
)
# Parsing takes up to 0.15 ms per KiB, and alerts have a few hundred bytes: larger bodies are parsed one after the other, with pauses.
_LARGE_BODY_BYTES = 4096
# Why a request is refused unread, by code, and for how long such a response is held back: a flood waits instead of keeping us busy.
_UNREAD = {
    "too_many_refused": "too many requests from this address were refused; further ones are read later",
    "locked_out": "too many failed authentications from this address",
}
_UNREAD_DELAY_S = 1.0
# Statuses that cost an address a part of its budget, unless the sender had proven who it is.
_COSTLY_STATUSES = frozenset({400, 401, 403, 408, 413})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerRejection:
    """A request to the webhook path that the receiver did not answer."""

    #: The sender's address as text.
    remote: str
    received_at: datetime
    #: HTTP status of the response.
    status: int
    #: The real code, which the sender may not have got.
    code: str
    #: The real reason, which the sender may not have got.
    reason: str


class Listener:
    """The HTTP server for alerts. One per process; `start` once, then `stop_accepting` and `close`."""

    def __init__(
        self,
        receive: Callable[[WebhookRequest], Awaitable[WebhookResponse]],
        readiness: Callable[[], Readiness],
        settings: Server,
        *,
        clock: Callable[[], datetime],
        on_refused: Callable[[ListenerRejection], None] | None = None,
        allowed: AllowList | None = None,
        certificates: PinnedCertificates | None = None,
        lockout: Lockout | None = None,
        budget: RefusalBudget | None = None,
        ssl_context: SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`receive` is AlertReceiver.receive; any exception besides RequestRefused and StoreUnavailable is a bug and answered 422.

        `on_refused` is called for every request to the webhook path that ended in an exception; it must not block. `allowed`: addresses
        that may send (None or empty: all). `certificates`: the client certificates that a proxy must have seen (None or empty: any).
        `budget`: how many refusals an address may cause (None: any number).
        Raises ConfigError for unreadable server.trusted_proxies.
        """
        self._receive = receive
        self._readiness = readiness
        self._settings = settings
        self._clock = clock
        self._on_refused = on_refused
        self._allowed = allowed or AllowList()
        self._certificates = certificates or PinnedCertificates(())
        self._lockout = lockout
        self._budget = budget
        self._ssl_context = ssl_context
        self._monotonic = monotonic
        self._sampler = Sampler()
        self._addresses = ClientAddresses(settings.trusted_proxies, behind_proxy=settings.behind_proxy)
        self._server: BoundedServer | None = None
        self._is_stopping = False

    # -------------------------------------------------------------------------------------------------------- life

    async def start(self, sockets: list[socket.socket] | None = None) -> tuple[str, int]:
        """Listen on server.host and server.port (0: any free one), or on inherited sockets. Returns host and port in use.

        Raises ConfigError if the address is in use or not allowed.
        """
        settings = self._settings
        try:
            listening = sockets or await bind(settings.host, settings.port)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another server.host or --port"
            ) from None
        self._server = BoundedServer(
            self._handle,
            most_connections=settings.max_connections,
            most_per_address=settings.max_connections_per_address,
            keepalive_timeout=settings.idle_timeout_s,
            lingering_time=settings.body_timeout_s,
            ssl_context=self._ssl_context,
            is_exempt=self._addresses.is_proxy,
            is_refused=self._is_refused_unread,
            answer_bad_request=self._answer_bad_request,
            on_abandoned=lambda peer: self._charge(self._addresses.of(peer.host, None)),
        )
        self._server.listen(listening)
        host, port = listening[0].getsockname()[:2]
        return str(host), int(port)

    async def stop_accepting(self) -> None:
        """Accept no new connections. Requests under way, and those on open connections, are still answered, with Connection: close.

        Connections not accepted yet stay in the backlog of an inherited socket, for the next daemon.
        """
        self._is_stopping = True
        if self._server is not None:
            self._server.stop_accepting()

    async def close(self) -> None:
        """Answer every accepted connection, even if its request is still arriving, for at most server.shutdown_timeout_s; drop the rest."""
        await self.stop_accepting()
        if self._server is not None:
            await self._server.finish(longest_s=self._settings.shutdown_timeout_s)

    @property
    def open_connections(self) -> int:
        """Number of open connections, never above server.max_connections for longer than a moment."""
        return self._server.open_connections if self._server else 0

    # ---------------------------------------------------------------------------------------------------- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        path, path_key = _split_path(request.rel_url.raw_path)
        allowed = _METHODS.get(path)
        if allowed is None:
            return self._respond(
                _refusal("not_found", f"there is nothing here; alerts go to {WEBHOOK_PATH}"), close=True
            )
        if request.method not in allowed:
            response = _refusal("method_not_allowed", f"found {request.method[:16]}, expected {' or '.join(allowed)}")
            return self._respond(response, close=True, headers={"Allow": ", ".join(allowed)})
        if path == "/healthz":
            return self._respond(WebhookResponse(status=200, body={"status": "ok"}), close=request.can_read_body)
        if path == "/readyz":
            return self._respond(self._readiness_response(), close=request.can_read_body)
        return await self._handle_webhook(request, path_key)

    async def _handle_webhook(self, request: web.BaseRequest, path_key: str | None) -> web.StreamResponse:
        """Answer a POST to the webhook path."""
        received_at = self._clock()
        client = self._addresses.of(request.remote, _joined(request, "X-Forwarded-For"))
        remote = str(client)
        try:
            await self._check_allowed(request, client, received_at)
            body = await self._read_body(request, client)
            webhook_request = WebhookRequest(
                body=body,
                headers=_proof_headers(request),
                remote=remote,
                received_at=received_at,
                path_key=path_key,
            )
            response = await self._receive(webhook_request)
            written = self._respond(response)
        except (RequestRefused, StoreUnavailable) as error:
            return self._refuse(request, client, received_at, error)
        except ConnectionError:
            # The sender closed the connection while its body was read: the response cannot be delivered.
            log.debug("sender_gone", remote=remote)
            self._charge(client)
            return self._respond(_refusal("body_timeout", "the body did not arrive"), close=True)
        except Exception as error:
            # A 5xx means "not stored, send again". After a bug that is not known, and the same bytes would hit the same bug.
            log.exception("internal_error", remote=remote)
            bug = RequestRefused("internal_error", "kekbridge failed on this request; its log has the details")
            bug.__cause__ = error
            return self._refuse(request, client, received_at, bug)
        if self._lockout:
            self._lockout.record_success(client)
        log.debug("answered", remote=remote, http_status=response.status)
        return written

    async def _check_allowed(self, request: web.BaseRequest, client: Client, now: datetime) -> None:
        """Raise Forbidden or RateLimited for a sender that may not send, before a byte of the body is read."""
        wait_s = self._wait_s(client, now)
        if wait_s is not None:
            await self._hold_back(request)
            raise _refused_unread(*wait_s)
        if not self._allowed.allows(client.address):
            raise Forbidden("address_not_allowed", f"auth.allowed_addresses does not list {client}")
        if self._certificates:
            refusal = self._certificates.refusal(
                _joined(request, self._certificates.header),
                from_proxy=self._addresses.is_trusted_proxy(parse_address(request.remote)),
            )
            if refusal is not None:
                raise Forbidden("certificate_not_allowed", refusal)

    def _wait_s(self, client: Client, now: datetime) -> tuple[str, int] | None:
        """Why the requests of an address are not read now, as a code, and for how many seconds; None if they are read."""
        wait_s = self._budget.wait_s(client, self._monotonic()) if self._budget else 0
        if wait_s:
            return "too_many_refused", wait_s
        blocked_for = self._lockout.blocked_for(client, now) if self._lockout else 0
        return ("locked_out", blocked_for) if blocked_for else None

    def _is_refused_unread(self, host: str) -> bool:
        """True if a connection's address has its requests refused unread. A proxy's never has: its senders have."""
        if not self._budget and not (self._lockout and self._lockout.address_count):
            return False
        return self._wait_s(self._addresses.of(host, None), self._clock()) is not None

    async def _hold_back(self, request: web.BaseRequest) -> None:
        """Before a request is refused unread: let its connection go when another needs the room, and wait."""
        cast(BoundedServer, self._server).release(request)
        if not self._is_stopping:
            await asyncio.sleep(_UNREAD_DELAY_S)

    def _charge(self, client: Client) -> None:
        if self._budget is not None:
            self._budget.charge(client, self._monotonic())

    async def _read_body(self, request: web.BaseRequest, client: Client) -> bytes:
        """Read the body. Raises Unreadable, TooLarge, RequestRefused(body_timeout), ConnectionError."""
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise Unreadable("invalid_encoding", "the body is compressed; send it plain, without Content-Encoding")
        largest = self._settings.max_body_bytes
        if (request.content_length or 0) > largest:
            raise TooLarge("body_too_large", f"the body has {request.content_length} bytes, expected at most {largest}")
        try:
            if request.content.is_eof():  # the whole body came with the head
                whole = request.content.read_nowait()
                _refuse_over(largest, len(whole))
                if len(whole) <= _LARGE_BODY_BYTES:
                    return whole
                self._await_body(request, client)
            else:
                self._await_body(request, client)
                async with asyncio.timeout(self._settings.body_timeout_s):
                    whole = await _read_rest(request, largest)
        except TimeoutError:
            raise RequestRefused(
                "body_timeout", f"the body did not arrive within {self._settings.body_timeout_s:g} s"
            ) from None
        except RequestPayloadError:
            raise Unreadable("invalid_encoding", "the body is cut off or wrongly chunked") from None
        server = cast(BoundedServer, self._server)
        if len(whole) > _LARGE_BODY_BYTES:
            await server.wait_for_turn(request)
        server.body_arrived(request)
        return whole

    def _await_body(self, request: web.BaseRequest, client: Client) -> None:
        cast(BoundedServer, self._server).await_body(request, str(client) if client.address else None)

    # ----------------------------------------------------------------------------------------------------- responses

    def _refuse(
        self, request: web.BaseRequest, client: Client, received_at: datetime, error: RequestRefused | StoreUnavailable
    ) -> web.StreamResponse:
        """Answer a refused request; log the real reason, count it towards a lockout and the budget, and report it to `on_refused`."""
        response = _error_response(error)
        is_locked_now = False
        if self._lockout and isinstance(error, Unauthenticated) and error.code in _LOCKOUT_CODES:
            is_locked_now = self._lockout.record_failure(client, received_at)
        is_unproven = isinstance(error, RequestRefused) and not error.is_proven
        if is_unproven and response.status in _COSTLY_STATUSES:
            self._charge(client)
        sender = network_key(client.address) if client.address else None
        count = self._sampler.due((sender, error.code), self._monotonic())
        if count:
            log.info(
                "refused",
                remote=str(client),
                http_status=response.status,
                code=error.code,
                reason=error.message,
                count=count,
            )
        if is_locked_now:
            log.warning("address_locked_out", remote=str(client))
        if self._on_refused is not None:
            rejection = ListenerRejection(
                remote=str(client),
                received_at=received_at,
                status=response.status,
                code=error.code,
                reason=error.message,
            )
            try:
                self._on_refused(rejection)
            except Exception:
                log.exception("refusal_not_recorded", code=error.code)
        # Not kept open for a sender that has proven nothing: the caps of new connections then apply to its next request.
        close = is_unproven and not self._addresses.is_proxy(request.remote or "")
        return self._respond(response, close=close or request.can_read_body)

    def _answer_bad_request(self, peer: Peer) -> web.Response:
        """Answer input that is not HTTP."""
        client = self._addresses.of(peer.host, None)
        self._charge(client)
        log.debug("not_http", remote=str(client))
        return self._respond(_refusal("invalid_http", "this is not a valid HTTP/1.1 request"), close=True)

    def _readiness_response(self) -> WebhookResponse:
        try:
            readiness = self._readiness()
        except Exception:
            log.exception("readiness_unknown")
            return WebhookResponse(status=503, body={"status": "unknown"})
        status = "ready" if readiness.is_ready else "not_ready"
        return WebhookResponse(status=200 if readiness.is_ready else 503, body={**readiness.detail, "status": status})

    def _respond(
        self, response: WebhookResponse, *, close: bool = False, headers: dict[str, str] | None = None
    ) -> web.Response:
        written = web.Response(
            status=response.status,
            body=to_json(response.body).encode(),
            content_type="application/json",
            charset="utf-8",
            headers={**_RESPONSE_HEADERS, **response.headers, **(headers or {})},
        )
        if response.retry_after_s is not None:
            written.headers["Retry-After"] = str(response.retry_after_s)
        if close or self._is_stopping:
            written.force_close()
        return written


def _split_path(path: str) -> tuple[str, str | None]:
    """The path, and the webhook key at its end, if it has one."""
    match = _KEY_PATH.fullmatch(path)
    return (WEBHOOK_PATH, match.group(1)) if match else (path, None)


def _error_response(error: RequestRefused | StoreUnavailable) -> WebhookResponse:
    if isinstance(error, RequestRefused):
        return responses.refusal_response(error)
    return WebhookResponse(
        status=503, body={"success": False, "code": error.code, "error": error.message}, retry_after_s=5
    )


def _refusal(code: str, message: str) -> WebhookResponse:
    return responses.refusal_response(RequestRefused(code, message))


def _refused_unread(code: str, wait_s: int) -> RateLimited:
    return RateLimited(code, _UNREAD[code], retry_after_s=wait_s)


def _proof_headers(request: web.BaseRequest) -> dict[str, str]:
    """The headers that can carry a proof. One that comes twice is joined, so that it is never valid: neither of the two may count."""
    headers = request.headers
    return {name: ", ".join(headers.getall(name)) for name in PROOF_HEADERS if name in headers}


def _joined(request: web.BaseRequest, name: str) -> str | None:
    """A header's value; all values joined by commas if it comes more than once."""
    headers = request.headers
    return ", ".join(headers.getall(name)) if name in headers else None


def _refuse_over(largest: int, size: int) -> None:
    if size > largest:
        raise TooLarge("body_too_large", f"the body is over {largest} bytes")


async def _read_rest(request: web.BaseRequest, largest: int) -> bytes:
    """Read a body that did not come with the head. Raises TooLarge, RequestPayloadError, ConnectionError."""
    body = bytearray()
    await _continue_if_asked(request)
    async for chunk in request.content.iter_any():
        body += chunk
        _refuse_over(largest, len(body))
    return bytes(body)


async def _continue_if_asked(request: web.BaseRequest) -> None:
    """Send "100 Continue" to a sender that waits for it before it sends its body (curl does, over 1 KiB)."""
    if request.headers.get("Expect", "").strip().lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp would count these bytes as the start of the response.
        request.writer.output_size = 0


# json.dumps would create a new encoder for each value.
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def to_json(value: object) -> str:
    """Encode as compact ASCII JSON, Decimals with every digit. Raises TypeError for what JSON cannot hold, ValueError for NaN, infinity."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("JSON has no NaN and no infinity")
        return format(value, "f")
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is int:
        return str(value)
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join([f"{encode_basestring_ascii(str(key))}:{to_json(inner)}" for key, inner in value.items()])
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ",".join([to_json(inner) for inner in value]) + "]"
    return _encode(value)
