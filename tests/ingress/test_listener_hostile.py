"""Peers that mean harm: floods, junk instead of HTTP, forged addresses, and connections that hold on to what is not theirs."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kekbridge.config import Server
from kekbridge.errors import ConfigError, Unauthenticated
from kekbridge.ingress.http import WebhookResponse
from kekbridge.ingress.lockout import Lockout
from kekbridge.model.networks import AllowList
from tests.examples import examples
from tests.ingress.door import PATH, QUICK, Door, Reply, opened
from tests.waiting import until


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened() as it:
        yield it


# ------------------------------------------------------------------------------------------------------ junk for HTTP

POST = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
REQUEST = POST + b"Content-Length: 2\r\n\r\n{}"
JUNK = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # a TLS handshake on the plain port
    b"\r\n\r\n\r\n",
    b"\x00" * 5000,
    b"GET\r\n\r\n",
    b"POST " + PATH.encode() + b"\r\n\r\n",
    b"POST  " + PATH.encode() + b" HTTP/1.1\r\n\r\n",
    b"POST " + PATH.encode() + b" HTTP/9.9\r\n\r\n",
    b"POST " + PATH.encode() + b" HTTP/2.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    POST + b"Host x\r\n\r\n",
    POST + b": x\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: abc\r\n\r\n",
    POST + b"Content-Length: 1e3\r\n\r\n",
    POST + b"Content-Length: +5\r\n\r\nhello",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999999999\r\n\r\nx",
    POST + b"Transfer-Encoding: gzip\r\n\r\nx",
    POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    POST + b"Host: \xff\xfe\x00\r\n\r\n",
    POST + b"X-Webhook-Signature: a\x00b\r\n\r\n",
    POST + b" folded: y\r\nContent-Length: 0\r\n\r\n",
    POST + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    POST + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
    b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST //[::1/x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST http:// HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST http://a:b:c/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST \xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n" + b"x" * 1000,
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
    POST
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"Expect: the unexpected\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"POST " + PATH.encode() + b" HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"Content-Length: 2\r\n\r\n{}" + b"garbage that follows \x00\xff\r\n\r\n",
    POST + b"Content-Length: 50\r\n\r\nshort",
]


def statuses(raw: bytes) -> list[int]:
    """Every status line in what the server said."""
    return [int(status) for status in re.findall(rb"HTTP/[0-9.]+ ([0-9]{3})", raw)]


@pytest.mark.parametrize("number", range(len(JUNK)))
async def test_no_junk_gets_a_500(door: Door, number: int) -> None:
    """Whatever arrives on a public port: a 4xx, a plain answer or a closed connection; the next sender is served."""
    said = statuses(await door.raw(JUNK[number]))
    assert all(status < 500 for status in said)
    assert (await door.send()).status == 202


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    start=st.sampled_from([b"", POST, b"GET /healthz HTTP/1.1\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n"]),
    middle=st.binary(max_size=300),
    end=st.sampled_from([b"", b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n{}{}"]),
)
def test_no_random_bytes_get_a_500(start: bytes, middle: bytes, end: bytes) -> None:
    """Random bytes at random places of a request."""

    async def story() -> None:
        quick = Server(port=0, body_timeout_s=0.05, idle_timeout_s=0.05, shutdown_timeout_s=5)
        async with opened(quick) as door:
            assert all(status < 500 for status in statuses(await door.raw(start + middle + end)))

    asyncio.run(story())


async def test_junk_leaves_no_traceback_in_the_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Scanners come every minute: their junk may not bury what matters."""
    caplog.set_level(logging.INFO)
    for junk in JUNK:
        await door.raw(junk)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_bytes_after_the_body_are_not_a_second_alert(door: Door) -> None:
    """What follows a declared body is another request or junk, never part of this one."""
    raw = await door.raw(POST + b"Content-Length: 2\r\n\r\n{}" + b'{"action":"sell"}\r\n\r\n')
    assert statuses(raw) in ([202, 400], [400])  # the parser may drop both when the junk comes in the same segment
    assert [delivery.body for delivery in door.deliveries] in ([b"{}"], [])


async def test_pipelined_requests_are_served_in_order(door: Door) -> None:
    """A sender may write the next request before the answer; each body stays its own."""
    requests = b"".join(POST + b"Content-Length: 1\r\n\r\n%d" % number for number in range(9))
    assert statuses(await door.raw(requests)) == [202] * 9
    assert [delivery.body for delivery in door.deliveries] == [b"%d" % number for number in range(9)]


@pytest.mark.parametrize("rest", [b"zz\r\n\r\n", b"2\r\n{}X", b"\xff"])
async def test_chunks_that_break_midway_are_no_alert(door: Door, rest: bytes) -> None:
    """The parser stumbles while the body is being read: 400, nothing delivered."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await until(lambda: door.connections == 1)
    writer.write(rest)
    assert all(400 <= status < 500 for status in statuses(await reader.read()))
    writer.close()
    assert door.deliveries == []


async def test_a_proof_header_given_twice_fits_nothing(door: Door) -> None:
    """Two signatures: which would count? Joined, so that neither does."""
    await door.raw(
        POST + b"Connection: close\r\nX-Webhook-Signature: a\r\nX-Webhook-Signature: b\r\nContent-Length: 0\r\n\r\n"
    )
    assert door.deliveries[0].headers["x-webhook-signature"] == "a, b"


# ------------------------------------------------------------------------------------------------- peers that go away


async def test_an_alert_is_finished_though_its_sender_left(door: Door) -> None:
    """TradingView gives up after 3 s; what it sent must still be stored."""
    door.gate = asyncio.Event()
    _, writer = await asyncio.open_connection(door.host, door.port)
    writer.write(POST + b"Content-Length: 2\r\n\r\n{}")
    await until(lambda: len(door.deliveries) == 1)
    writer.transport.abort()
    await until(lambda: door.connections == 0)
    door.gate.set()
    await until(lambda: door.finished == 1)


async def test_a_sender_that_leaves_within_its_body_is_no_alert_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Half a body is nothing; it is not worth a traceback either."""
    async with opened(Server(port=0, body_timeout_s=60)) as door:
        for leave in ("abort", "close", "half-close"):
            _, writer = await asyncio.open_connection(door.host, door.port)
            writer.write(POST + b"Content-Length: 50\r\n\r\nhalf")
            await writer.drain()
            await until(lambda: door.connections == 1)
            if leave == "abort":
                writer.transport.abort()
            elif leave == "close":
                writer.close()
            else:
                writer.write_eof()
            await until(lambda: door.connections == 0)
            writer.close()
        assert door.deliveries == []
        assert door.refusals == []
    assert [record for record in caplog.records if record.exc_info] == []


# ------------------------------------------------------------------------------------------------------------- floods


async def test_silent_connections_do_not_keep_an_alert_out() -> None:
    """The cap drops the oldest idle connection for the newcomer: 200 silent ones on a cap of 50, and every alert is served."""
    patient = Server(port=0, max_connections=50, idle_timeout_s=60, body_timeout_s=60)
    async with opened(patient) as door, AsyncExitStack() as stack:
        for number in range(200):
            _, writer = await asyncio.open_connection(door.host, door.port)
            stack.callback(writer.close)
            if number % 2:
                writer.write(POST + b"Content-Length: 50\r\n\r\nslow")
        await until(lambda: door.connections <= 50)
        replies = [await door.send() for _ in range(20)]
        assert [reply.status for reply in replies] == [202] * 20
        assert door.connections <= 50


async def test_a_flood_never_pushes_out_an_alert_at_work() -> None:
    """From the moment its body is read until it is answered an alert keeps its connection."""
    patient = Server(port=0, max_connections=10, idle_timeout_s=60, body_timeout_s=60)
    async with opened(patient) as door, AsyncExitStack() as stack:
        door.gate = asyncio.Event()
        working = [asyncio.ensure_future(door.send()) for _ in range(8)]
        await until(lambda: len(door.deliveries) == 8)
        for _ in range(100):
            _, writer = await asyncio.open_connection(door.host, door.port)
            stack.callback(writer.close)
        await until(lambda: door.connections <= 10)
        door.gate.set()
        assert [reply.status for reply in await asyncio.gather(*working)] == [202] * 8


async def test_when_everybody_works_the_newcomer_goes() -> None:
    """Nothing is dropped that was begun."""
    async with opened(Server(port=0, max_connections=8, idle_timeout_s=60)) as door:
        door.gate = asyncio.Event()
        working = [asyncio.ensure_future(door.send()) for _ in range(8)]
        await until(lambda: len(door.deliveries) == 8)
        assert await door.raw(b"") == b""
        door.gate.set()
        assert [reply.status for reply in await asyncio.gather(*working)] == [202] * 8


async def test_a_peer_that_never_reads_is_dropped_when_room_is_needed() -> None:
    """Requests pipelined without reading the answers fill buffers; such a connection is the first to go."""
    patient = Server(port=0, max_connections=8, idle_timeout_s=60)
    async with opened(patient) as door, AsyncExitStack() as stack:
        deaf = socket.create_connection((door.host, door.port))
        stack.callback(deaf.close)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5000
        blocked = 0
        while blocked < 20:  # until the server has stopped taking more
            try:
                deaf.send(request)
                blocked = 0
            except BlockingIOError:
                blocked += 1
            await asyncio.sleep(0.01)
        for _ in range(20):
            _, writer = await asyncio.open_connection(door.host, door.port)
            stack.callback(writer.close)
        await until(lambda: door.connections <= 8)
        assert (await door.send()).status == 202


# ---------------------------------------------------------------------------------------------- addresses and lock-out


async def test_an_address_off_the_allowlist_is_turned_away_before_its_body() -> None:
    """403 without reading; the header of a peer that is no proxy of ours helps nobody."""
    async with opened(allowed=AllowList.parse(("tradingview",), "x")) as door:
        head = POST + b"X-Forwarded-For: 52.89.214.238\r\nContent-Length: 50000\r\n\r\n"
        reply = Reply(await door.raw(head))
        assert (reply.status, reply.json["code"]) == (403, "address_not_allowed")
        assert door.deliveries == []
        assert (await door.send(b"", method="GET", path="/healthz")).status == 200


async def test_behind_our_proxy_its_word_counts() -> None:
    """The right-most hop that is not a proxy of ours is the sender; what stands left of it is forged."""
    proxied = QUICK.model_copy(update={"behind_proxy": True, "trusted_proxies": ("127.0.0.1",)})
    async with opened(proxied, allowed=AllowList.parse(("tradingview",), "x")) as door:
        assert (await door.send(X_Forwarded_For="52.89.214.238")).status == 202
        assert (await door.send(X_Forwarded_For="52.89.214.238, 203.0.113.7")).status == 403
        assert (await door.send()).status == 403
        raw = await door.raw(
            POST
            + b"Connection: close\r\nX-Forwarded-For: 52.89.214.238\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 0\r\n\r\n"
        )
        assert statuses(raw) == [403]
        assert [delivery.remote for delivery in door.deliveries] == ["52.89.214.238"]


async def test_failed_authentications_lock_an_address_out() -> None:
    """429 with the time to wait, before the pipeline is asked; a wrong clock or order is no attack."""
    async with opened(lockout=Lockout(failures=3, window_s=60, lockout_s=300)) as door:
        for code in ("timestamp_stale", "timestamp_future", "timestamp_missing"):
            door.outcome = Unauthenticated(code, "x")
            for _ in range(5):
                assert (await door.send()).status == 401
        door.outcome = Unauthenticated("api_key_unknown", "x")
        assert [(await door.send()).status for _ in range(3)] == [401] * 3
        asked = len(door.deliveries)
        door.outcome = WebhookResponse(status=202, body={})
        reply = await door.send()
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (429, "locked_out", "300")
        assert len(door.deliveries) == asked
        assert door.refusals[-1].code == "locked_out"


async def test_a_valid_alert_forgives_earlier_failures() -> None:
    """One wrong alert among good ones from the same address never adds up to a lock-out."""
    async with opened(lockout=Lockout(failures=3, window_s=60, lockout_s=300)) as door:
        for _ in range(5):
            door.outcome = Unauthenticated("signature_invalid", "x")
            assert [(await door.send()).status for _ in range(2)] == [401, 401]
            door.outcome = WebhookResponse(status=202, body={})
            assert (await door.send()).status == 202


# ------------------------------------------------------------------------------------------------------- start and stop


async def test_a_stop_lets_work_finish_and_takes_no_more() -> None:
    """An alert under way is answered, with Connection: close; new connections are refused."""
    async with opened() as door:
        door.gate = asyncio.Event()
        working = asyncio.ensure_future(door.raw(POST + b"Content-Length: 2\r\n\r\n{}"))
        await until(lambda: len(door.deliveries) == 1)
        await door.listener.stop_accepting()
        with pytest.raises(OSError):
            await asyncio.open_connection(door.host, door.port)
        closing = asyncio.ensure_future(door.listener.close())
        door.gate.set()
        reply = Reply(await working)
        assert (reply.status, reply.headers["connection"]) == (202, "close")
        await closing


async def test_a_stop_does_not_wait_for_those_who_do_nothing() -> None:
    """Silent connections and half-sent headers are dropped a moment after their acceptance, half-sent bodies after their time."""
    patient = Server(port=0, idle_timeout_s=600, body_timeout_s=1, shutdown_timeout_s=60)
    async with opened(patient) as door, AsyncExitStack() as stack:
        for start in (b"", POST, POST + b"Content-Length: 50\r\n\r\nhalf"):
            _, writer = await asyncio.open_connection(door.host, door.port)
            stack.callback(writer.close)
            writer.write(start)
        await until(lambda: door.connections == 3)
        await asyncio.wait_for(door.listener.close(), 30)
        assert door.connections == 0
        assert door.deliveries == []


async def test_a_stop_drops_connections_that_were_answered_at_once() -> None:
    """A proxy's idle connections are no reason to wait: they had their requests. One without a request is waited for."""
    patient = Server(port=0, idle_timeout_s=600, shutdown_timeout_s=60)
    async with opened(patient) as door:
        answered, writer = await asyncio.open_connection(door.host, door.port)
        writer.write(REQUEST)
        await answered.readuntil(b"}")
        _, silent = await asyncio.open_connection(door.host, door.port)
        await until(lambda: door.connections == 2)
        closing = asyncio.ensure_future(door.listener.close())
        assert await answered.read() == b""
        assert (closing.done(), door.connections) == (False, 1)
        silent.close()
        await closing
        writer.close()


@pytest.mark.parametrize("parts", [[b"", REQUEST], [REQUEST[:30], REQUEST[30:]], [REQUEST[:-1], REQUEST[-1:]]])
async def test_an_accepted_connection_is_answered_although_a_stop_began(parts: list[bytes]) -> None:
    """Whoever was let in before the stop gets an answer, whatever part of the request had arrived by then: nobody sends it again."""
    patient = Server(port=0, idle_timeout_s=600, body_timeout_s=20, shutdown_timeout_s=60)
    async with opened(patient) as door:
        reader, writer = await asyncio.open_connection(door.host, door.port)
        writer.write(parts[0])
        await until(lambda: door.connections == 1)
        closing = asyncio.ensure_future(door.listener.close())
        await until(lambda: _refuses(door))
        writer.write(parts[1])
        reply = Reply(await reader.read())
        assert (reply.status, reply.headers["connection"]) == (202, "close")
        writer.close()
        await closing
        assert len(door.deliveries) == 1


async def _refuses(door: Door) -> bool:
    """Whether the stop has begun: nobody is let in any more."""
    try:
        _, writer = await asyncio.open_connection(door.host, door.port)
    except OSError:
        return True
    writer.close()
    return False


async def test_no_connection_is_lost_between_its_acceptance_and_a_stop() -> None:
    """Requests that stand in the door at any turn of the loop are answered, or wait in the backlog for the next daemon on the socket."""
    held = socket.create_server(("127.0.0.1", 0), backlog=1024)
    address = held.getsockname()

    async def ask() -> int:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST.replace(b"Host", b"Connection: close\r\nHost"))
        try:
            return Reply(await reader.read()).status
        except ConnectionError:
            return 0
        finally:
            writer.close()

    statuses = []
    for turns in range(30):
        door = Door(QUICK)
        await door.listener.start([held.dup()])
        asking = [asyncio.ensure_future(ask()) for _ in range(20)]
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        await door.listener.close()
        door = Door(QUICK)
        await door.listener.start([held.dup()])
        statuses += await asyncio.gather(*asking)
        await door.listener.close()
    held.close()
    assert statuses == [202] * 600


async def test_a_taken_port_is_one_helpful_line(door: Door) -> None:
    """Not a traceback: which address, why, what to do."""
    with pytest.raises(ConfigError) as caught:
        async with opened(Server(port=door.port)):
            pass
    assert f"127.0.0.1:{door.port}" in caught.value.message
    assert "--port" in caught.value.message


async def test_sockets_can_be_handed_over() -> None:
    """systemd opens port 443 and passes it on; two sockets are served alike."""
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    door = Door(QUICK)
    door.host, door.port = await door.listener.start([first, second])
    try:
        assert (door.host, door.port) == first.getsockname()
        assert (await door.send()).status == 202
        door.port = second.getsockname()[1]
        assert (await door.send()).status == 202
    finally:
        await door.listener.close()
