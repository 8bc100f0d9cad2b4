"""The listener keeps to the status table; nothing a peer sends or withholds gets a 500, a redirect, a secret or unbounded resources."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.errors import Forbidden, RateLimited, Refused, StoreUnavailable, Unauthenticated, Unreadable
from kekbridge.ingress.http import Readiness, WebhookResponse
from kekbridge.ingress.listener import ListenerRejection, to_json
from kekbridge.model import OrderStatus
from tests.ingress.listening import NOW, PATH, ListeningServer, Reply, listening


@pytest.fixture
async def server() -> AsyncIterator[ListeningServer]:
    async with listening() as it:
        yield it


# ----------------------------------------------------------------------------------------------------- the status table


async def test_the_receiver_gets_the_exact_bytes_and_only_the_proof_headers(server: ListeningServer) -> None:
    """Whatever the Content-Type is; cookies and other headers are dropped."""
    body = b'  {"symbol":"\xc3\xa9"}\r\n'
    reply = await server.send(
        body, Content_Type="text/plain", X_Webhook_Signature="ab", X_Api_Key="k", Cookie="a=b", Idempotency_Key="i"
    )
    assert reply.status == 202
    assert reply.json == {"success": True, "status": "queued"}
    (request,) = server.requests
    assert request.body == body
    assert request.headers == {"x-webhook-signature": "ab", "x-api-key": "k", "idempotency-key": "i"}
    assert request.remote == "127.0.0.1"
    assert request.received_at == NOW


async def test_amounts_are_exact_json_numbers(server: ListeningServer) -> None:
    """executedPrice is a number with every digit, neither a float nor a string."""
    server.outcome = WebhookResponse(
        status=200, body={"executedPrice": Decimal("65000.10"), "executedQuantity": Decimal("1E-8")}
    )
    reply = await server.send()
    assert reply.body == b'{"executedPrice":65000.10,"executedQuantity":0.00000001}'


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unreadable("invalid_json", "line 1 column 2: found x, expected a quote"), 400, "invalid_json"),
        (Forbidden("webhook_disabled", "off"), 403, "webhook_disabled"),
        (Refused("symbol_unknown", "no such market", field="symbol"), 422, "symbol_unknown"),
        (Refused("orderly:-1102", "the exchange received so"), 422, "orderly:-1102"),
        (RateLimited("rate_limited", "too many", retry_after_s=7), 429, "rate_limited"),
        (StoreUnavailable("store_unavailable", "disk full"), 503, "store_unavailable"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_refusals_keep_their_status_code_and_reason(
    server: ListeningServer, error: Exception, status: int, code: str
) -> None:
    """The table of docs/internals/architecture.md section 3; each one is reported to `on_refused`."""
    server.outcome = error
    reply = await server.send()
    assert reply.status == status
    assert reply.json["success"] is False
    assert reply.json["code"] == code
    assert reply.json["error"] == str(error)
    assert reply.json.get("field") == getattr(error, "field", None)
    assert [(each.status, each.code, each.remote) for each in server.rejections] == [(status, code, "127.0.0.1")]


async def test_a_rate_limited_response_has_the_time_to_wait(server: ListeningServer) -> None:
    """In the body and in the header."""
    server.outcome = RateLimited("rate_limited", "too many", retry_after_s=7)
    reply = await server.send()
    assert reply.json["retryAfter"] == 7
    assert reply.headers["retry-after"] == "7"


async def test_every_401_is_the_same_to_the_byte(server: ListeningServer) -> None:
    """Unknown key, wrong signature, stale timestamp: the sender cannot distinguish them, the daemon can."""
    codes = ["api_key_unknown", "api_key_missing", "signature_missing", "signature_invalid", "timestamp_stale"]
    replies = []
    for code in codes:
        server.outcome = Unauthenticated(code, f"the real reason is {code}", field="apiKey")
        replies.append(await server.send())
    assert {reply.status for reply in replies} == {401}
    assert len({reply.body for reply in replies}) == 1
    assert len({frozenset(reply.headers.items() - {("date", reply.headers["date"])}) for reply in replies}) == 1
    assert replies[0].json["code"] == "unauthorized"
    assert [each.code for each in server.rejections] == codes


async def test_a_bug_is_answered_422(server: ListeningServer) -> None:
    """An unexpected exception may come after the alert was stored, so the sender must not send again: 4xx, no traceback, no detail."""
    server.outcome = ValueError("secret detail")
    reply = await server.send()
    assert reply.status == 422
    assert reply.json["code"] == "internal_error"
    assert b"secret detail" not in reply.body
    assert [each.code for each in server.rejections] == ["internal_error"]


async def test_a_response_that_is_no_valid_json_is_a_bug_too(server: ListeningServer) -> None:
    """Never a 500, whatever the receiver returns."""
    server.outcome = WebhookResponse(status=200, body={"executedPrice": Decimal("NaN")})
    assert (await server.send()).status == 422


async def test_an_error_in_on_refused_does_not_change_the_response() -> None:
    """Recording refused requests must not break the listener."""

    def broken(_rejection: ListenerRejection) -> None:
        raise RuntimeError("disk full")

    async with listening(on_refused=broken) as server:
        server.outcome = Unauthenticated("api_key_unknown", "x")
        assert (await server.send()).status == 401


# ----------------------------------------------------------------------------------------------------- paths and methods


async def test_health_and_readiness(server: ListeningServer) -> None:
    """healthz: the process answers; readyz: whether alerts can become orders, and why not."""
    reply = await server.send(b"", method="GET", path="/healthz")
    assert (reply.status, reply.json) == (200, {"status": "ok"})
    reply = await server.send(b"", method="GET", path="/readyz")
    assert (reply.status, reply.json) == (200, {"exchange": "reachable", "status": "ready"})
    server.readiness = Readiness(is_ready=False, detail={"reason": "no marks"})
    reply = await server.send(b"", method="GET", path="/readyz?x=1")
    assert (reply.status, reply.json) == (503, {"reason": "no marks", "status": "not_ready"})
    server.readiness = RuntimeError("bug")
    assert (await server.send(b"", method="GET", path="/readyz")).status == 503
    assert (await server.send(b"", method="HEAD", path="/healthz")).body == b""


@pytest.mark.parametrize(
    "path",
    [
        "/",
        PATH + "/",
        "//api/webhooks/tradingview",
        "/api/webhooks",
        "/API/webhooks/tradingview",
        PATH + "/../tradingview",
        "/api%2Fwebhooks/tradingview",
        PATH + "%00",
        "/metrics",
        "/.env",
        "*",
        "/%ff%fe",
        "http://[::1/x",
    ],
)
async def test_anything_else_is_404_and_never_a_redirect(server: ListeningServer, path: str) -> None:
    """TradingView treats a redirect as an error; a trailing slash is another path. (Targets that are not valid HTTP are 400.)"""
    for method in ("POST", "GET"):
        reply = await server.send(b"", method=method, path=path)
        assert reply.status in (404, 400)
        assert "location" not in reply.headers
        if reply.status == 404:
            assert reply.json["code"] == "not_found"
    assert server.requests == []


async def test_a_key_at_the_end_of_the_path_goes_to_the_receiver(server: ListeningServer) -> None:
    """For texts that cannot be edited; whether the webhook allows it is for the receiver to say. Nothing else lies below the path."""
    assert (await server.send(path=f"{PATH}/wh_test_abc123")).status == 202
    assert (await server.send(path=f"{PATH}/wh_live_abc123?a=1")).status == 202
    assert (await server.send(path=PATH)).status == 202
    assert [request.path_key for request in server.requests] == ["wh_test_abc123", "wh_live_abc123", None]
    for path in ("/abc123", "/wh_test_", "/wh_test_a/b", "/wh_test_a%2Fb", "/whs_abc", "/wh_test_" + "a" * 101):
        assert (await server.send(path=PATH + path)).status == 404
    assert (await server.send(path=f"{PATH}/wh_test_abc123", method="GET")).status == 405
    assert len(server.requests) == 3


@pytest.mark.parametrize("path", [PATH, PATH + "?token=secret", "http://elsewhere" + PATH])
async def test_query_and_absolute_form_do_not_change_the_path(server: ListeningServer, path: str) -> None:
    """Proxies use the absolute form; a query is ignored."""
    assert (await server.send(path=path)).status == 202


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "PROPFIND", "post"])
async def test_other_methods_are_405_with_allow(server: ListeningServer, method: str) -> None:
    """The response names the allowed method."""
    reply = await server.send(b"", method=method)
    assert reply.status in (
        (400, 405) if method == "post" else (405,)
    )  # a lower-case method may be no HTTP to the parser
    if reply.status == 405:
        assert reply.headers["allow"] == "POST"
    assert (await server.send(b"", method="POST", path="/healthz")).headers["allow"] == "GET, HEAD"
    assert server.requests == []


async def test_responses_reveal_no_version_and_are_not_cached(server: ListeningServer) -> None:
    """The Server header is the bare name; Cache-Control forbids storing."""
    reply = await server.send()
    assert reply.headers["server"] == "kekbridge"
    assert reply.headers["cache-control"] == "no-store"


# ---------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("size", "status"), [(0, 202), (1, 202), (65_535, 202), (65_536, 202), (65_537, 413), (10**9, 413)]
)
async def test_the_cap_is_64_kib_to_the_byte(server: ListeningServer, size: int, status: int) -> None:
    """A declared length over the cap is refused before a byte of it is read."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    reply = Reply(await server.send_raw(head + b"x" * min(size, 65_537)))
    assert reply.status == status
    assert [len(each.body) for each in server.requests] == ([size] if status == 202 else [])
    if status == 413:
        assert reply.json["code"] == "body_too_large"


@pytest.mark.parametrize(("size", "status"), [(65_536, 202), (65_537, 413), (5_000_000, 413)])
async def test_the_cap_holds_for_chunked_bodies(server: ListeningServer, size: int, status: int) -> None:
    """Without a declared length the bytes are counted as they arrive."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(size)) + b"0\r\n\r\n"
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert Reply(await server.send_raw(head + chunks)).status == status


def _parts(size: int) -> list[bytes]:
    return [b"x" * min(9_999, size - start) for start in range(0, size, 9_999)]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x"])
async def test_compressed_bodies_are_refused_without_unpacking(server: ListeningServer, encoding: str) -> None:
    """TradingView never compresses, so a gzip bomb is not even unpacked."""
    bomb = gzip.compress(b"0" * 10_000_000)
    reply = await server.send(bomb, Content_Encoding=encoding)
    assert (reply.status, reply.json["code"]) == (400, "invalid_encoding")
    assert server.requests == []


async def test_identity_is_no_compression(server: ListeningServer) -> None:
    """Content-Encoding: identity is accepted."""
    assert (await server.send(Content_Encoding="identity")).status == 202


async def test_a_body_that_does_not_arrive_is_408(server: ListeningServer) -> None:
    """3 of 50 bytes and then silence: the connection is cut, not kept open."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n".encode()
    reply = Reply(await server.send_raw(head + b"abc"))
    assert (reply.status, reply.json["code"]) == (408, "body_timeout")
    assert server.requests == []


async def test_a_dripping_body_is_408(server: ListeningServer) -> None:
    """A byte every now and then does not extend the timeout."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n".encode())
    reply = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    for _ in range(2000):
        if reply.done():
            break
        writer.write(b"x")
        await asyncio.sleep(0.01)
    assert b" 408 " in await reply
    writer.close()


@pytest.mark.parametrize(
    "start",
    [b"", b"P", b"POST /api", f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-".encode()],
    ids=["nothing", "a letter", "half a line", "half a header"],
)
async def test_a_connection_without_a_request_is_closed(server: ListeningServer, start: bytes) -> None:
    """Silent connections and unfinished headers are cut by the idle timer."""
    assert await server.send_raw(start) == b""
    assert server.requests == []


async def test_dripping_headers_are_cut(server: ListeningServer) -> None:
    """A header line every now and then does not extend the idle timer."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    received = asyncio.ensure_future(reader.read())
    writer.write(f"POST {PATH} HTTP/1.1\r\n".encode())
    async with asyncio.timeout(20):
        while not received.done():
            writer.write(b"X-A: y\r\n")
            await asyncio.wait([received], timeout=0.05)
    writer.close()
    assert (received.exception() is not None) or received.result() == b""
    assert server.requests == []


async def test_a_connection_is_kept_alive_and_closed_when_idle(server: ListeningServer) -> None:
    """Several requests on one connection are answered; then the idle timer closes it."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    for _ in range(3):
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert Reply(head).status == 202
        await reader.readexactly(int(Reply(head).headers["content-length"]))
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    assert len(server.requests) == 3


async def test_expect_100_continue_is_answered_before_the_body(server: ListeningServer) -> None:
    """curl waits for it; a body over the cap is refused instead."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {{}}\r\n\r\n"
    )
    writer.write(head.format(2).encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert Reply(await reader.read()).status == 202
    writer.close()
    assert Reply(await server.send_raw(head.format(70_000).encode())).status == 413


# --------------------------------------------------------------------------------------------------------------- to_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("65000.10"), "65000.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-8"), "0.00000001"),
        (Decimal("-0.5"), "-0.5"),
        (Decimal("9007199254740993.1"), "9007199254740993.1"),
        (OrderStatus.FILLED, '"filled"'),
        (True, "true"),
        (None, "null"),
        (1768473005123, "1768473005123"),
    ],
)
def test_json_scalars(value: object, expected: str) -> None:
    """Decimals are plain numbers without float noise or exponents, enums their values."""
    assert to_json({"value": value}) == f'{{"value":{expected}}}'


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), float("nan")])
def test_nan_and_infinity_are_no_json(value: object) -> None:
    """NaN in a response would break the sender's parser."""
    with pytest.raises(ValueError):
        to_json([value])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_reads_back_as_the_same_value(value: object) -> None:
    """Standard JSON, ASCII only; amounts exactly."""

    def exact(item: object) -> object:
        if isinstance(item, int) and not isinstance(item, bool):
            return Decimal(item)
        if isinstance(item, list):
            return [exact(inner) for inner in item]
        if isinstance(item, dict):
            return {key: exact(inner) for key, inner in item.items()}
        return item

    text = to_json(value)
    assert text.isascii()
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal) == exact(value)
