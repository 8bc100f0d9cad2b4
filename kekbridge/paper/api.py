"""REST requests: read, verify the signature, apply rate limit and faults, run the handler, respond.

Handlers are functions of a `Call`. They never await, so that a request changes the exchange in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from kekbridge.paper.auth import SignatureVerifier
from kekbridge.paper.codec import ApiError, decode_object, failure, parse_integer, success
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.faults import Faults
from kekbridge.paper.models import ApiKey
from kekbridge.paper.rate_limits import TEN_PER_SECOND, Limit, RequestLimiter
from kekbridge.paper.settings import PAPER_ACCOUNT_ID

MAX_BODY: Final = 1 << 20
_JSON: Final = "application/json"
_HTML: Final = "<html><head><title>403 Forbidden</title></head><body><h1>403 Forbidden</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and authenticated, as its handler sees it."""

    #: The exchange.
    exchange: SimulatedExchange
    #: Query string.
    query: Mapping[str, str]
    #: Variable parts of the path.
    path: Mapping[str, str]
    #: JSON body of a POST or PUT; empty otherwise.
    body: dict[str, Any]
    #: Key that signed the request; None for public endpoints.
    key: ApiKey | None
    #: Time of arrival, ms.
    now: int
    #: IP address of the client.
    peer: str
    #: Rate limiter, for handlers that count a request more than once.
    limiter: RequestLimiter

    @property
    def account_id(self) -> str:
        """Account of the key that signed the request."""
        return PAPER_ACCOUNT_ID if self.key is None else self.key.account_id

    def query_int(self, name: str) -> int | None:
        """Return a whole number of the query string, None if not given; ApiError -1005 otherwise."""
        return parse_integer(self.query.get(name), name)

    def paging(self, default: int = 25, most: int = 500, *, kind: str = "") -> tuple[int, int]:
        """Return (page, size) of the query string; ApiError -1005 if out of range.

        `most` is the largest size that may be asked for, `kind` the list, whose pages may be smaller (`POST /paper/pages`).
        """
        number, size = self.query_int("page") or 1, self.query_int("size") or default
        if number < 1 or not 1 <= size <= most:
            raise ApiError(-1005, f"page must be at least 1 and size between 1 and {most}.")
        return number, min(size, self.exchange.page_sizes.get(kind, size))


Handler = Callable[[Call], object]


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One endpoint."""

    #: HTTP method.
    method: str
    #: Path, with {names} of variable parts.
    path: str
    #: Function that returns the data of the response.
    handler: Handler
    #: Scope that the key needs; None: public, unsigned.
    scope: str | None = None
    #: Rate limit.
    limit: Limit = TEN_PER_SECOND
    #: What it creates, for the journal: order, batch or algo; None: nothing.
    creates: str | None = None
    #: Whether the handler returns the whole response text (UDF endpoints).
    raw: bool = False


class RestApi:
    """Serves the REST endpoints of one exchange."""

    def __init__(self, exchange: SimulatedExchange, verifier: SignatureVerifier, limiter: RequestLimiter) -> None:
        self.exchange = exchange
        self.verifier = verifier
        self.limiter = limiter

    def mount(self, app: web.Application, routes: Iterable[ApiRoute]) -> None:
        """Add endpoints to an application."""
        for route in routes:
            app.router.add_route(route.method, route.path, self._endpoint(route))

    def _endpoint(self, route: ApiRoute) -> Callable[[web.Request], Any]:
        async def endpoint(request: web.Request) -> web.StreamResponse:
            return await self._serve(request, route)

        return endpoint

    @property
    def faults(self) -> Faults:
        """The armed faults."""
        return self.exchange.faults

    # --- request handling ---------------------------------------------------------------------------------

    async def _serve(self, request: web.Request, route: ApiRoute) -> web.StreamResponse:
        method, path = request.method, request.path
        if self.faults.hit("reset_before", method=method, path=path):
            return _abort(request)
        body = await _read(request)
        if fault := self.faults.hit("delay", method=method, path=path, when="before"):
            await asyncio.sleep(fault.delay_ms / 1000)
        status, text, headers = self._respond(request, route, body)
        if fault := self.faults.hit("delay", method=method, path=path, when="after"):
            await asyncio.sleep(fault.delay_ms / 1000)
        if self.faults.hit("lose_answer", method=method, path=path):
            return _abort(request)
        if self.faults.hit("reset_inside", method=method, path=path):
            return await _send_half(request, text)
        kind = "text/html" if text is _HTML else _JSON
        return web.Response(status=status, text=text, content_type=kind, headers=headers)

    def _respond(self, request: web.Request, route: ApiRoute, body: bytes) -> tuple[int, str, dict[str, str]]:
        """Handle a request; return status, text and headers of the response."""
        method, path = request.method, request.path
        state = self.exchange.state
        now = state.clock()
        try:
            with state.transaction():
                data = self._handle(request, route, body, now)
            if fault := self.faults.hit("server_error", method=method, path=path, when="after"):
                raise ApiError(fault.code, fault.message, status=fault.status or 500, retry_after_s=fault.retry_after_s)
            if self.faults.hit("html", method=method, path=path, when="after"):
                return 403, _HTML, {}
        except ApiError as error:
            if error.status == 403:
                return 403, _HTML, {}
            headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
            return error.status, failure(error, now), headers
        if route.raw:
            return 200, str(data), {}
        return 200, success(data, state.clock()), {}

    def _handle(self, request: web.Request, route: ApiRoute, body: bytes, now: int) -> object:
        method, path = request.method, request.path
        key = None
        if route.scope is not None:
            if self.faults.hit("key_revoked", method=method, path=path):
                raise ApiError(-1002, "The key is not registered for this account.")
            key = self.verifier.check_request(request.headers, method, request.raw_path, body, route.scope)
        call = Call(
            exchange=self.exchange,
            query=request.query,
            path=request.match_info,
            body={},
            key=key,
            now=now,
            peer=request.remote or "",
            limiter=self.limiter,
        )
        if route.creates is None:
            self._apply_request_faults(route, method, path, {})
            self.limiter.check(f"{key.orderly_key if key else 'ip'} {method} {route.path}", route.limit, now)
            _fill_body(call, request, body)
            return route.handler(call)
        return self._create(call, route, request, body)

    def _create(self, call: Call, route: ApiRoute, request: web.Request, body: bytes) -> object:
        """Handle a create request, which is in the journal as received before any check can reject it."""
        method, path, state = request.method, request.path, self.exchange.state
        # The journal must show every signed create, also one with an invalid body.
        with contextlib.suppress(ApiError):
            call.body.update(decode_object(body))
        orders = _orders_of(call.body)
        for order in orders:
            state.record_event("order_received", **_order_facts(order, route.creates))
        try:
            _check_age(request, call.now)
            self._apply_request_faults(route, method, path, call.body)
            assert call.key is not None  # noqa: S101  create routes are signed
            bucket = f"{call.key.orderly_key} {method} {route.path}"
            self.limiter.check(bucket, route.limit, call.now)
            _fill_body(call, request, body)
            return route.handler(call)
        except ApiError as error:
            for order in orders:
                facts = _order_facts(order, route.creates)
                state.record_event("order_refused", code=error.code, message=error.message, **facts)
            raise

    def _apply_request_faults(self, route: ApiRoute, method: str, path: str, body: Mapping[str, Any]) -> None:
        """Raise the ApiError of faults that reject a request before it is checked."""
        hit = self.faults.hit
        if fault := hit("rate_limit", method=method, path=path):
            raise ApiError(-1003, "Too many requests.", retry_after_s=fault.retry_after_s)
        if fault := hit("server_error", method=method, path=path, when="before"):
            raise ApiError(fault.code, fault.message, status=fault.status or 500, retry_after_s=fault.retry_after_s)
        if hit("html", method=method, path=path, when="before"):
            raise ApiError(-1000, "403 Forbidden", status=403)
        if self.exchange.in_maintenance() and (route.scope == "trading"):
            raise ApiError(-1011, "The system is under maintenance.")
        if route.creates is not None:
            kind, symbol = (str(body[name]) if body.get(name) else None for name in ("algo_type", "symbol"))
            if fault := hit("refuse", method=method, path=path, algo_type=kind, symbol=symbol):
                raise ApiError(fault.code, fault.message, status=fault.status)


def _check_age(request: web.Request, now: int) -> None:
    """Reject a create older than its `x-recv-window` header in ms; ApiError -1005."""
    window = parse_integer(request.headers.get("x-recv-window"), "x-recv-window")
    stamp = parse_integer(request.headers.get("orderly-timestamp"), "orderly-timestamp")
    if window is not None and stamp is not None and now - stamp > window:
        raise ApiError(-1005, f"The request is older than its x-recv-window of {window} ms.")


def _fill_body(call: Call, request: web.Request, body: bytes) -> None:
    if request.method not in ("POST", "PUT"):
        return
    if body and request.content_type != _JSON:
        raise ApiError(-1005, f"Content-Type is {request.content_type}; expected {_JSON}.")
    call.body.update(decode_object(body))


def _orders_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = body.get("orders")
    if isinstance(rows, list):
        return [row for row in rows if isinstance(row, Mapping)] or [body]
    return [body]


def _order_facts(order: Mapping[str, Any], creates: str | None) -> dict[str, object]:
    """Return the fields of a create request for the journal, as unchecked text."""

    def text(*names: str) -> str | None:
        for name in names:
            value = order.get(name)
            if value is not None and not isinstance(value, dict | list):
                return str(value)[:200]
        return None

    facts: dict[str, object] = {
        "symbol": text("symbol"),
        "client_order_id": text("client_order_id"),
        "order_id": None,
        "type": text("order_type", "type"),
        "side": text("side"),
        "quantity": text("order_quantity", "quantity"),
        "amount": text("order_amount"),
        "price": text("order_price", "price"),
        "reduce_only": order.get("reduce_only") is True or str(order.get("reduce_only")).lower() == "true",
    }
    if creates == "algo":
        facts |= {
            "algo": True,
            "algo_type": text("algo_type"),
            "trigger_price": text("trigger_price"),
            "child_orders": _children(order),
        }
    elif creates == "batch":
        facts["batch"] = True
    return facts


def _children(order: Mapping[str, Any]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    listed = order.get("child_orders")
    for child in listed if isinstance(listed, list) else []:
        if isinstance(child, Mapping):
            trigger = child.get("trigger_price")
            found.append(
                {
                    "algo_type": str(child.get("algo_type")),
                    "trigger_price": None if trigger is None else str(trigger),
                    "child_orders": _children(child),
                }
            )
    return found[:4]


# --- connection---------------------------------------------------------------------------------------------


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except ConnectionError:  # also when the body took too long (server.py)
        raise web.HTTPBadRequest from None


def _abort(request: web.Request) -> web.Response:
    """Cut the connection without a response."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _send_half(request: web.Request, text: str) -> web.StreamResponse:
    """Send half of a response, then cut the connection."""
    data = text.encode()
    response = web.StreamResponse(headers={"Content-Type": _JSON, "Content-Length": str(len(data))})
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response
