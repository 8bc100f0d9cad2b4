"""The listener: the status table, and nothing a peer sends or withholds gets a 500, a redirect, a secret or more than its share."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from kekbridge.errors import Conflict, Forbidden, RateLimited, Refused, StoreUnavailable, Unauthenticated, Unreadable
from kekbridge.ingress.http import Readiness, WebhookResponse
from kekbridge.ingress.listener import ListenerRejection
from tests.ingress.door import NOW, PATH, Door, Reply, opened


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened() as it:
        yield it


# ----------------------------------------------------------------------------------------------------- the status table


async def test_a_delivery_is_the_exact_bytes_and_the_proof_headers_only(door: Door) -> None:
    """Whatever the Content-Type says, the pipeline gets the bytes; cookies and the like are nobody's business."""
    body = b'  {"symbol":"\xc3\xa9"}\r\n'
    reply = await door.send(body, Content_Type="text/plain", X_Webhook_Signature="ab", X_Api_Key="k", Cookie="a=b")
    assert reply.status == 202
    assert reply.json == {"success": True, "status": "queued"}
    (delivery,) = door.deliveries
    assert delivery.body == body
    assert delivery.headers == {"x-webhook-signature": "ab", "x-api-key": "k"}
    assert delivery.remote == "127.0.0.1"
    assert delivery.received_at == NOW


async def test_amounts_are_exact_json_numbers(door: Door) -> None:
    """executedPrice is a number with every digit, not a float and not a text."""
    door.outcome = WebhookResponse(
        status=200, body={"executedPrice": Decimal("65000.10"), "executedQuantity": Decimal("1E-8")}
    )
    reply = await door.send()
    assert reply.body == b'{"executedPrice":65000.10,"executedQuantity":0.00000001}'


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unreadable("invalid_json", "line 1 column 2: found x, expected a quote"), 400, "invalid_json"),
        (Forbidden("webhook_disabled", "off"), 403, "webhook_disabled"),
        (Conflict("alert_id_reused", "again"), 409, "alert_id_reused"),
        (Refused("symbol_unknown", "no such market", field="symbol"), 422, "symbol_unknown"),
        (Refused("orderly:-1102", "the exchange said so"), 422, "orderly:-1102"),
        (RateLimited("rate_limited", "too many", retry_after_s=7), 429, "rate_limited"),
        (StoreUnavailable("store_unavailable", "disk full"), 503, "store_unavailable"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_refusals_keep_their_status_code_and_reason(door: Door, error: Exception, status: int, code: str) -> None:
    """The table of docs/internals/architecture.md section 3; the daemon hears of each one."""
    door.outcome = error
    reply = await door.send()
    assert reply.status == status
    assert reply.json["success"] is False
    assert reply.json["code"] == code
    assert reply.json["error"] == str(error)
    assert reply.json.get("field") == getattr(error, "field", None)
    assert [(each.status, each.code, each.remote) for each in door.refusals] == [(status, code, "127.0.0.1")]


async def test_a_rate_limit_says_when_to_come_back(door: Door) -> None:
    """In the body and in the header."""
    door.outcome = RateLimited("rate_limited", "too many", retry_after_s=7)
    reply = await door.send()
    assert reply.json["retryAfter"] == 7
    assert reply.headers["retry-after"] == "7"


async def test_every_401_is_the_same_to_the_byte(door: Door) -> None:
    """Unknown key, wrong signature, stale timestamp: the sender cannot tell them apart, the daemon can."""
    codes = ["api_key_unknown", "api_key_missing", "signature_missing", "signature_invalid", "timestamp_stale"]
    replies = []
    for code in codes:
        door.outcome = Unauthenticated(code, f"the real reason is {code}", field="apiKey")
        replies.append(await door.send())
    assert {reply.status for reply in replies} == {401}
    assert len({reply.body for reply in replies}) == 1
    assert len({frozenset(reply.headers.items() - {("date", reply.headers["date"])}) for reply in replies}) == 1
    assert replies[0].json["code"] == "unauthorized"
    assert [each.code for each in door.refusals] == codes


async def test_a_bug_is_not_a_request_to_send_again(door: Door) -> None:
    """An unexpected exception may strike after the alert was stored: 4xx, no traceback, no detail."""
    door.outcome = ValueError("secret detail")
    reply = await door.send()
    assert reply.status == 422
    assert reply.json["code"] == "internal_error"
    assert b"secret detail" not in reply.body
    assert [each.code for each in door.refusals] == ["internal_error"]


async def test_an_answer_that_cannot_be_written_as_json_is_a_bug_too(door: Door) -> None:
    """Never a 500, whatever the pipeline hands over."""
    door.outcome = WebhookResponse(status=200, body={"executedPrice": Decimal("NaN")})
    assert (await door.send()).status == 422


async def test_a_failing_record_of_a_refusal_does_not_change_the_answer() -> None:
    """Book-keeping about strangers must not break the door."""

    def broken(_refusal: ListenerRejection) -> None:
        raise RuntimeError("no room")

    async with opened(refused=broken) as door:
        door.outcome = Unauthenticated("api_key_unknown", "x")
        assert (await door.send()).status == 401


# ----------------------------------------------------------------------------------------------------- paths and methods


async def test_health_and_readiness(door: Door) -> None:
    """healthz says the process answers; readyz whether alerts can become orders, and why not."""
    reply = await door.send(b"", method="GET", path="/healthz")
    assert (reply.status, reply.json) == (200, {"status": "ok"})
    reply = await door.send(b"", method="GET", path="/readyz")
    assert (reply.status, reply.json) == (200, {"exchange": "reachable", "status": "ready"})
    door.readiness = Readiness(is_ready=False, detail={"reason": "no marks"})
    reply = await door.send(b"", method="GET", path="/readyz?x=1")
    assert (reply.status, reply.json) == (503, {"reason": "no marks", "status": "not_ready"})
    door.readiness = RuntimeError("bug")
    assert (await door.send(b"", method="GET", path="/readyz")).status == 503
    assert (await door.send(b"", method="HEAD", path="/healthz")).body == b""


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
async def test_anything_else_is_404_and_never_a_redirect(door: Door, path: str) -> None:
    """TradingView takes a redirect for an error; a trailing slash is another path. (Targets that are no HTTP at all are 400.)"""
    for method in ("POST", "GET"):
        reply = await door.send(b"", method=method, path=path)
        assert reply.status in (404, 400)
        assert "location" not in reply.headers
        if reply.status == 404:
            assert reply.json["code"] == "not_found"
    assert door.deliveries == []


@pytest.mark.parametrize("path", [PATH, PATH + "?token=secret", "http://elsewhere" + PATH])
async def test_query_and_absolute_form_do_not_change_the_path(door: Door, path: str) -> None:
    """Proxies use the absolute form; a query is ignored."""
    assert (await door.send(path=path)).status == 202


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "PROPFIND", "post"])
async def test_other_methods_are_405_with_allow(door: Door, method: str) -> None:
    """The answer names the method that works."""
    reply = await door.send(b"", method=method)
    assert reply.status in (
        (400, 405) if method == "post" else (405,)
    )  # a lower-case method may be no HTTP to the parser
    if reply.status == 405:
        assert reply.headers["allow"] == "POST"
    assert (await door.send(b"", method="POST", path="/healthz")).headers["allow"] == "GET, HEAD"
    assert door.deliveries == []


async def test_the_server_says_nothing_of_its_insides(door: Door) -> None:
    """No versions in the headers, nothing cached on the way."""
    reply = await door.send()
    assert reply.headers["server"] == "kekbridge"
    assert reply.headers["cache-control"] == "no-store"


# ---------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("size", "status"), [(0, 202), (1, 202), (65_535, 202), (65_536, 202), (65_537, 413), (10**9, 413)]
)
async def test_the_cap_is_64_kib_to_the_byte(door: Door, size: int, status: int) -> None:
    """A declared length over the cap is refused before a byte of it is read."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    reply = Reply(await door.raw(head + b"x" * min(size, 65_537)))
    assert reply.status == status
    assert [len(each.body) for each in door.deliveries] == ([size] if status == 202 else [])
    if status == 413:
        assert reply.json["code"] == "body_too_large"


@pytest.mark.parametrize(("size", "status"), [(65_536, 202), (65_537, 413), (5_000_000, 413)])
async def test_the_cap_holds_for_chunked_bodies(door: Door, size: int, status: int) -> None:
    """Without a declared length the bytes are counted while they come."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(size)) + b"0\r\n\r\n"
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert Reply(await door.raw(head + chunks)).status == status


def _parts(size: int) -> list[bytes]:
    return [b"x" * min(9_999, size - start) for start in range(0, size, 9_999)]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x"])
async def test_compressed_bodies_are_refused_unopened(door: Door, encoding: str) -> None:
    """TradingView never compresses, so a gzip bomb is not even unpacked."""
    bomb = gzip.compress(b"0" * 10_000_000)
    reply = await door.send(bomb, Content_Encoding=encoding)
    assert (reply.status, reply.json["code"]) == (400, "invalid_encoding")
    assert door.deliveries == []


async def test_identity_is_no_compression(door: Door) -> None:
    """A sender may say so."""
    assert (await door.send(Content_Encoding="identity")).status == 202


async def test_a_body_that_does_not_come_is_408(door: Door) -> None:
    """3 of 50 bytes and then silence: the connection is cut, not kept for ever."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n".encode()
    reply = Reply(await door.raw(head + b"abc"))
    assert (reply.status, reply.json["code"]) == (408, "body_timeout")
    assert door.deliveries == []


async def test_a_dripping_body_is_408(door: Door) -> None:
    """One byte now and then does not extend the time."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
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
async def test_a_connection_that_does_not_ask_is_closed(door: Door, start: bytes) -> None:
    """Silent connections and headers that never end are cut by the idle timer."""
    assert await door.raw(start) == b""
    assert door.deliveries == []


async def test_dripping_headers_are_cut(door: Door) -> None:
    """A header line now and then does not extend the idle timer."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    said = asyncio.ensure_future(reader.read())
    writer.write(f"POST {PATH} HTTP/1.1\r\n".encode())
    async with asyncio.timeout(20):
        while not said.done():
            writer.write(b"X-A: y\r\n")
            await asyncio.wait([said], timeout=0.05)
    writer.close()
    assert (said.exception() is not None) or said.result() == b""
    assert door.deliveries == []


async def test_a_kept_connection_serves_again_and_ends_by_itself(door: Door) -> None:
    """Keep-alive works, and an idle connection is closed."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    for _ in range(3):
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert Reply(head).status == 202
        await reader.readexactly(int(Reply(head).headers["content-length"]))
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    assert len(door.deliveries) == 3


async def test_curl_is_told_to_go_on(door: Door) -> None:
    """Expect: 100-continue is answered before the body is sent; a body over the cap is refused instead."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {{}}\r\n\r\n"
    )
    writer.write(head.format(2).encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert Reply(await reader.read()).status == 202
    writer.close()
    assert Reply(await door.raw(head.format(70_000).encode())).status == 413
