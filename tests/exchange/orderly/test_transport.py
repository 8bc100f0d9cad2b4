"""The transport against servers that misbehave: what provably never left, what may have arrived, and the exact bytes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from kekbridge import __version__
from kekbridge.exchange.orderly.rate_limiter import Endpoint, Rate, RateLimiter
from kekbridge.exchange.orderly.replies import HttpReply, NoReply, NotSent
from kekbridge.exchange.orderly.transport import APPLIED_FROM_MS, ClockOffset, Transport
from tests.exchange.orderly.raw_server import SIGNER, YES, Handler, answer, headers_of, sends, serving


@asynccontextmanager
async def connected(url: str, timeout_s: float = 5.0) -> AsyncIterator[Transport]:
    transport = Transport(url, SIGNER, timeout_s=timeout_s)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b'{"success":true,"timestamp":' + b"9" * 400 + b"}", "X: y"),
        (b'{"success":true,"timestamp":-' + b"9" * 30 + b"}", "X: y"),
        (b'{"success":true,"timestamp":1e400}', "X: y"),
        (b'{"success":true,"timestamp":1e99999999999999999999}', "X: y"),
        (b'{"success":true,"timestamp":' + b"9" * 5000 + b"}", "X: y"),
        (b'{"success":false,"code":' + b"9" * 400 + b',"message":"x"}', "X: y"),
        (b'{"success":true,"timestamp":"' + b"9" * 19 + b'"}', "X: y"),
        (b"{}", "Date: Thu, 01 Jan 99999999999999999999 00:00:00 GMT"),
        (b"{}", "Retry-After: " + "9" * 400),
    ],
)
async def test_no_number_in_a_reply_raises(body: bytes, header: str) -> None:
    """Whatever the exchange or something in between answers, it is a result, and the clock's offset stays as it was."""
    async with serving(sends(answer(body, "200 OK", header))) as server, connected(server.url) as transport:
        result = await transport.send("GET", "/v1/public/info")
        assert isinstance(result, HttpReply)
        assert result.timestamp_ms is None
        assert transport.offset.ms is None


async def test_exact_bytes_signed_and_sent() -> None:
    """Path and body arrive byte for byte as signed: no percent-encoding, no second serialization; plain user agent."""
    body = b'{"symbol":"PERP_ETH_USDC","order_quantity":"0.5"}'
    async with serving() as server, connected(server.url) as transport:
        await transport.send("POST", "/v1/order", body=body)
        await transport.send("DELETE", "/v1/batch-order?order_ids=1,2")
        await transport.send("GET", "/v1/get_orderly_key?orderly_key=ed25519:abc", is_signed=False)
    post, delete, public = server.requests
    assert post.startswith(b"POST /v1/order HTTP/1.1\r\n")
    assert post.endswith(b"\r\n\r\n" + body)
    assert delete.startswith(b"DELETE /v1/batch-order?order_ids=1,2 HTTP/1.1\r\n")
    assert public.startswith(b"GET /v1/get_orderly_key?orderly_key=ed25519:abc HTTP/1.1\r\n")
    assert b"orderly-signature" not in public.lower()
    for request, method, path, sent in (
        (post, "POST", "/v1/order", body),
        (delete, "DELETE", "/v1/batch-order?order_ids=1,2", b""),
    ):
        headers = headers_of(request)
        assert headers["user-agent"] == f"kekbridge/{__version__}"
        message = f"{headers['orderly-timestamp']}{method}{path}".encode() + sent
        key = VerifyKey(base58.b58decode(headers["orderly-key"].removeprefix("ed25519:")))
        key.verify(message, base64.urlsafe_b64decode(headers["orderly-signature"]))
    assert headers_of(post)["content-type"] == "application/json"
    assert headers_of(delete)["content-type"] == "application/x-www-form-urlencoded"


async def test_consecutive_requests_share_a_connection() -> None:
    """A new connection costs a round trip or more."""
    async with serving() as server, connected(server.url) as transport:
        for _ in range(5):
            await transport.send("GET", "/v1/positions")
    assert server.connections == 1


async def test_connection_refused_is_not_sent() -> None:
    """No listener: proof that nothing was sent."""
    async with serving() as server:
        url = server.url
    async with connected(url) as transport:
        assert isinstance(await transport.send("POST", "/v1/order", body=b"{}"), NotSent)


async def test_unknown_host_is_not_sent() -> None:
    """No address: proof that nothing was sent."""
    async with connected("http://kekbridge.invalid") as transport:
        assert isinstance(await transport.send("POST", "/v1/order", body=b"{}"), NotSent)


async def test_not_open_is_not_sent() -> None:
    """A transport that is not open sends nothing and returns NotSent."""
    transport = Transport("http://127.0.0.1:9", SIGNER, timeout_s=1)
    assert isinstance(await transport.send("POST", "/v1/order", body=b"{}"), NotSent)


@pytest.mark.parametrize(
    "reply",
    [
        sends(b""),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
        sends(b"HTTP/1.1 200"),
        sends(b"\x00\x01\x02\x03 nonsense\r\n\r\n"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
    ],
    ids=["closed", "cut inside the answer", "cut inside the head", "not HTTP", "broken gzip"],
)
async def test_broken_replies_are_no_reply(reply: Handler) -> None:
    """After the first byte was sent, an error proves nothing."""
    async with serving(reply) as server, connected(server.url) as transport:
        assert isinstance(await transport.send("POST", "/v1/order", body=b"{}"), NoReply)
        assert len(server.requests) == 1


async def test_timeout_is_no_reply() -> None:
    """The server reads the request and stays silent."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with serving(silent) as server, connected(server.url, timeout_s=1) as transport:
        assert isinstance(await transport.send("POST", "/v1/order", body=b"{}"), NoReply)


async def test_create_is_never_sent_twice_on_a_dead_connection() -> None:
    """A pooled connection that dies under a POST: one request arrives, outcome unknown (docs/internals/reliability.md section 8.1)."""
    answered = 0

    async def once_then_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        answered += 1
        if answered == 1:
            writer.write(answer(YES))
            await writer.drain()
        else:
            writer.close()

    async with serving(once_then_cut) as server, connected(server.url) as transport:
        assert isinstance(await transport.send("GET", "/v1/positions"), HttpReply)
        assert isinstance(await transport.send("POST", "/v1/order", body=b"{}"), NoReply)
    assert sum(request.startswith(b"POST") for request in server.requests) == 1


async def test_redirects_are_not_followed() -> None:
    """A redirect would send a signed order a second time, elsewhere."""
    async with serving() as other:
        target = f"Location: {other.url}/v1/order"
        async with (
            serving(sends(answer(b"", "307 Temporary Redirect", target))) as server,
            connected(server.url) as transport,
        ):
            reply = await transport.send("POST", "/v1/order", body=b"{}")
        assert isinstance(reply, HttpReply)
        assert reply.status == 307
        assert other.requests == []


async def test_paths_that_would_be_encoded_are_refused() -> None:
    """Characters that clients and server encode differently never get into a signed path (section 2)."""
    async with connected("http://127.0.0.1:9") as transport:
        for path in ("/v1/order?x=a b", "/v1/order?x=ä", "/v1/order?x=a%20b", "/v1/order?x=a+b"):
            with pytest.raises(ValueError):
                await transport.send("GET", path)


async def test_html_is_a_reply_without_json() -> None:
    """A page from a proxy is not the exchange's reply."""
    async with (
        serving(sends(answer(b"<html>no</html>", "403 Forbidden"))) as server,
        connected(server.url) as transport,
    ):
        reply = await transport.send("GET", "/v1/positions")
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.is_json) == (403, False)


async def test_clock_offset_is_learned_and_applied() -> None:
    """Replies of an exchange whose clock is far off correct the next signature."""
    async with serving() as server, connected(server.url) as transport:
        await transport.send("GET", "/v1/positions")
        await transport.send("GET", "/v1/positions")
    assert abs(int(headers_of(server.requests[1])["orderly-timestamp"]) - 1790000000123) < 10_000


async def test_clock_offset_is_learned_from_the_date_header() -> None:
    """A rejection without a timestamp still has the time in its Date header."""
    refusal = answer(b'{"success":false,"code":-1001}', "401 Unauthorized", "Date: Mon, 21 Sep 2026 14:13:20 GMT")
    async with serving(sends(refusal, then_close=False)) as server, connected(server.url) as transport:
        await transport.send("GET", "/v1/positions")
        assert abs(transport.signing_time_ms() - 1790000000000) < 10_000


@pytest.mark.parametrize("is_up", [True, False])
async def test_permit_is_used_by_sent_requests_only(is_up: bool) -> None:
    """A request that was sent uses up its permit; one that was not releases it."""
    rate_limiter = RateLimiter({Endpoint.ORDER_CREATE: Rate(1, 1000)})
    async with serving() as server:
        url = server.url if is_up else "http://127.0.0.1:9"
        async with connected(url) as transport:
            permit = await rate_limiter.acquire(Endpoint.ORDER_CREATE)
            await transport.send("POST", "/v1/order", body=b"{}", permit=permit)
            assert (permit.sent_at is not None) is is_up
    next_one = asyncio.create_task(rate_limiter.acquire(Endpoint.ORDER_CREATE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert next_one.done() is not is_up
    await rate_limiter.close()
    await asyncio.gather(next_one, return_exceptions=True)


# ------------------------------------------------------------------------------------------------------- ClockOffset


def test_no_offset_before_the_first_reply() -> None:
    """Nothing is known, so nothing is corrected."""
    offset = ClockOffset()
    assert offset.ms is None
    assert offset.correct(123) == 123


@given(
    true=st.integers(-(10**7), 10**7),
    answers=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 800)), min_size=1, max_size=30),
)
def test_offset_error_is_at_most_the_shortest_round_trip(true: int, answers: list[tuple[int, int]]) -> None:
    """With a constant difference the estimate is never farther off."""
    offset, now = ClockOffset(), 10**12
    for out, back in answers:
        offset.observe(sent_ms=now, server_ms=now + out + true, received_ms=now + out + back)
        now += 10_000
    assert offset.ms is not None
    assert abs(offset.ms - true) <= min(out + back for out, back in answers) + 1


def test_a_contradicting_reply_replaces_the_offset() -> None:
    """After a clock jump of ten minutes the next request is signed correctly."""
    offset = ClockOffset()
    offset.observe(sent_ms=1_000_000, server_ms=1_000_010, received_ms=1_000_020)
    offset.observe(sent_ms=1_600_000, server_ms=1_000_110, received_ms=1_600_020)
    assert abs(offset.correct(1_600_020) - 1_000_120) < 20


def test_small_offsets_are_not_applied() -> None:
    """The round trip alone could explain them."""
    offset = ClockOffset()
    offset.observe(sent_ms=1_000_000, server_ms=1_000_000 + APPLIED_FROM_MS // 2, received_ms=1_000_002)
    assert offset.correct(5_000_000) == 5_000_000


def test_a_reply_before_its_request_is_ignored() -> None:
    """The local clock was set back in between: no measurement."""
    offset = ClockOffset()
    offset.observe(sent_ms=1_000_000, server_ms=1_000_000, received_ms=400_000)
    assert offset.ms is None


def test_a_wrong_clock_is_set_once_the_replies_prove_it() -> None:
    """A clock an hour behind is set by an hour, and the offset that is left is zero: ages use the exchange's time."""
    steps: list[int] = []
    offset = ClockOffset(set_clock=steps.append)
    offset.observe(sent_ms=1_000_000, server_ms=4_600_010, received_ms=1_000_020)
    assert steps == []  # one reply may have a bad timestamp
    offset.observe(sent_ms=1_000_030, server_ms=4_600_040, received_ms=1_000_050)
    assert [round(step, -2) for step in steps] == [3_600_000]
    assert offset.ms is not None
    assert abs(offset.ms) <= 11
    assert offset.learned_ms is not None
    assert abs(offset.learned_ms - 3_600_000) <= 11
    # Requests sent before the clock was set and answered after it prove nothing new.
    for sent_ms in (1_000_005, 1_000_006):
        offset.observe(sent_ms=sent_ms, server_ms=4_600_025, received_ms=4_600_030)
    assert len(steps) == 1


def test_a_single_bad_timestamp_does_not_set_the_clock() -> None:
    """One reply of a proxy's cache, years off, between good ones: no alert becomes too old by it."""
    steps: list[int] = []
    offset = ClockOffset(set_clock=steps.append)
    for sent_ms in (1_000_000, 2_000_000, 3_000_000):
        offset.observe(sent_ms=sent_ms, server_ms=sent_ms + 10, received_ms=sent_ms + 20)
        offset.observe(sent_ms=sent_ms + 30, server_ms=40, received_ms=sent_ms + 50)
    assert steps == []


def test_a_slow_network_does_not_set_the_clock() -> None:
    """A reply after four seconds could have been written at any time in between; a proxy's Date header is no proof either."""
    steps: list[int] = []
    offset = ClockOffset(set_clock=steps.append)
    for sent_ms in (1_000_000, 1_100_000):
        offset.observe(sent_ms=sent_ms, server_ms=sent_ms + 100, received_ms=sent_ms + 4_000)
    for sent_ms in (2_000_000, 2_100_000):
        offset.observe(sent_ms=sent_ms, server_ms=sent_ms + 7_000_000, received_ms=sent_ms + 20, is_exchange=False)
    assert steps == []
