"""The listener against hostile peers: floods, junk instead of HTTP, forged addresses, and connections that are never released."""

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
from kekbridge.errors import ConfigError, Forbidden, Refused, Unauthenticated, Unreadable
from kekbridge.ingress.budget import RefusalBudget
from kekbridge.ingress.http import WebhookResponse
from kekbridge.ingress.lockout import Lockout
from kekbridge.model.networks import AllowList
from tests.examples import examples
from tests.ingress.listening import PATH, QUICK, ListeningServer, Reply, listening
from tests.waiting import until


@pytest.fixture
async def server() -> AsyncIterator[ListeningServer]:
    async with listening() as it:
        yield it


# ------------------------------------------------------------------------------------------------------ junk for HTTP

POST = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
REQUEST = POST + b"Content-Length: 2\r\n\r\n{}"
REQUEST_CLOSE = POST + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
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
    """Every status line in what the server sent."""
    return [int(status) for status in re.findall(rb"HTTP/[0-9.]+ ([0-9]{3})", raw)]


@pytest.mark.parametrize("number", range(len(JUNK)))
async def test_no_junk_gets_a_500(server: ListeningServer, number: int) -> None:
    """Whatever arrives on a public port gets a 4xx, a plain response or a closed connection; the next sender is served."""
    received = statuses(await server.send_raw(JUNK[number]))
    assert all(status < 500 for status in received)
    assert (await server.send()).status == 202


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    start=st.sampled_from([b"", POST, b"GET /healthz HTTP/1.1\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n"]),
    middle=st.binary(max_size=300),
    end=st.sampled_from([b"", b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n{}{}"]),
)
def test_no_random_bytes_get_a_500(start: bytes, middle: bytes, end: bytes) -> None:
    """Random bytes at random places of a request."""

    async def send_bytes() -> None:
        quick = Server(port=0, body_timeout_s=0.05, idle_timeout_s=0.05, shutdown_timeout_s=5)
        async with listening(quick) as server:
            assert all(status < 500 for status in statuses(await server.send_raw(start + middle + end)))

    asyncio.run(send_bytes())


async def test_junk_leaves_no_traceback_in_the_log(server: ListeningServer, caplog: pytest.LogCaptureFixture) -> None:
    """Scanners come every minute: their junk must not flood the log."""
    caplog.set_level(logging.INFO)
    for junk in JUNK:
        await server.send_raw(junk)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_what_is_not_http_gets_the_answer_of_any_refusal(server: ListeningServer) -> None:
    """Our JSON, and no name or version of the software that reads it."""
    reply = Reply(await server.send_raw(b"GET\r\n\r\n"))
    assert (reply.status, reply.json["code"], reply.headers["server"]) == (400, "invalid_http", "kekbridge")


async def test_bytes_after_the_body_are_not_a_second_alert(server: ListeningServer) -> None:
    """What follows a declared body is another request or junk, never part of this one."""
    raw = await server.send_raw(POST + b"Content-Length: 2\r\n\r\n{}" + b'{"action":"sell"}\r\n\r\n')
    assert statuses(raw) in ([202, 400], [400])  # the parser may drop both when the junk comes in the same segment
    assert [request.body for request in server.requests] in ([b"{}"], [])


async def test_pipelined_requests_are_served_in_order(server: ListeningServer) -> None:
    """A sender may write the next request before the response to the first; bodies do not mix."""
    requests = b"".join(POST + b"Content-Length: 1\r\n\r\n%d" % number for number in range(9))
    assert statuses(await server.send_raw(requests)) == [202] * 9
    assert [request.body for request in server.requests] == [b"%d" % number for number in range(9)]


@pytest.mark.parametrize("rest", [b"zz\r\n\r\n", b"2\r\n{}X", b"\xff"])
async def test_chunks_that_break_midway_are_no_alert(server: ListeningServer, rest: bytes) -> None:
    """The parser fails while the body is read: 4xx, and the receiver gets nothing."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await until(lambda: server.connections == 1)
    writer.write(rest)
    assert all(400 <= status < 500 for status in statuses(await reader.read()))
    writer.close()
    assert server.requests == []


async def test_a_proof_header_given_twice_is_never_valid(server: ListeningServer) -> None:
    """Two signatures are joined, so that neither counts."""
    await server.send_raw(
        POST + b"Connection: close\r\nX-Webhook-Signature: a\r\nX-Webhook-Signature: b\r\nContent-Length: 0\r\n\r\n"
    )
    assert server.requests[0].headers["x-webhook-signature"] == "a, b"


# ------------------------------------------------------------------------------------------------- peers that go away


async def test_an_alert_is_finished_although_its_sender_disconnected(server: ListeningServer) -> None:
    """TradingView disconnects after 3 s; what it sent must still be stored."""
    server.may_respond = asyncio.Event()
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(POST + b"Content-Length: 2\r\n\r\n{}")
    await until(lambda: len(server.requests) == 1)
    writer.transport.abort()
    await until(lambda: server.connections == 0)
    server.may_respond.set()
    await until(lambda: server.finished == 1)


async def test_a_sender_that_disconnects_within_its_body_causes_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Half a body is not passed on, and leaves no traceback."""
    async with listening(Server(port=0, body_timeout_s=60)) as server:
        for leave in ("abort", "close", "half-close"):
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(POST + b"Content-Length: 50\r\n\r\nhalf")
            await writer.drain()
            await until(lambda: server.connections == 1)
            if leave == "abort":
                writer.transport.abort()
            elif leave == "close":
                writer.close()
            else:
                writer.write_eof()
            await until(lambda: server.connections == 0)
            writer.close()
        assert server.requests == []
        assert server.rejections == []
    assert [record for record in caplog.records if record.exc_info] == []


# ------------------------------------------------------------------------------------------------------------- floods


async def test_silent_connections_do_not_keep_an_alert_out() -> None:
    """A new connection drops the oldest idle one: with 200 silent ones and a cap of 50 every alert is served."""
    patient = Server(port=0, max_connections=50, idle_timeout_s=60, body_timeout_s=60)
    async with listening(patient) as server, AsyncExitStack() as stack:
        for number in range(200):
            _, writer = await asyncio.open_connection(server.host, server.port)
            stack.callback(writer.close)
            if number % 2:
                writer.write(POST + b"Content-Length: 50\r\n\r\nslow")
        await until(lambda: server.connections <= 50)
        replies = [await server.send() for _ in range(20)]
        assert [reply.status for reply in replies] == [202] * 20
        assert server.connections <= 50


async def test_a_flood_never_drops_a_busy_connection() -> None:
    """From when its body is read until it is answered, an alert keeps its connection."""
    patient = Server(port=0, max_connections=10, idle_timeout_s=60, body_timeout_s=60)
    async with listening(patient) as server, AsyncExitStack() as stack:
        server.may_respond = asyncio.Event()
        working = [asyncio.ensure_future(server.send()) for _ in range(8)]
        await until(lambda: len(server.requests) == 8)
        for _ in range(100):
            _, writer = await asyncio.open_connection(server.host, server.port)
            stack.callback(writer.close)
        await until(lambda: server.connections <= 10)
        server.may_respond.set()
        assert [reply.status for reply in await asyncio.gather(*working)] == [202] * 8


async def test_a_new_connection_waits_if_all_others_are_busy() -> None:
    """No request that has begun is dropped, and the next one is answered as soon as there is room: TradingView does not resend it."""
    async with listening(Server(port=0, max_connections=8, idle_timeout_s=60)) as server:
        server.may_respond = asyncio.Event()
        working = [asyncio.ensure_future(server.send()) for _ in range(8)]
        await until(lambda: len(server.requests) == 8)
        waiting = asyncio.ensure_future(server.send())
        await asyncio.wait([waiting], timeout=0.2)
        assert (waiting.done(), server.connections, len(server.requests)) == (False, 8, 8)
        server.may_respond.set()
        assert [reply.status for reply in await asyncio.gather(*working, waiting)] == [202] * 9


async def test_a_peer_that_never_reads_is_dropped_at_the_cap() -> None:
    """Requests pipelined without reading the responses fill buffers; such a connection is the first to be dropped."""
    patient = Server(port=0, max_connections=8, idle_timeout_s=60)
    async with listening(patient) as server, AsyncExitStack() as stack:
        unread = socket.create_connection((server.host, server.port))
        stack.callback(unread.close)
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.settimeout(0)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5000
        blocked = 0
        while blocked < 20:  # until the server has stopped taking more
            try:
                unread.send(request)
                blocked = 0
            except BlockingIOError:
                blocked += 1
            await asyncio.sleep(0.01)
        for _ in range(20):
            _, writer = await asyncio.open_connection(server.host, server.port)
            stack.callback(writer.close)
        await until(lambda: server.connections <= 8)
        assert (await server.send()).status == 202


# ---------------------------------------------------------------------------------------------- addresses and lock-out


async def test_an_address_off_the_allowlist_is_refused_before_its_body() -> None:
    """403 without reading the body; X-Forwarded-For of a peer that is not a configured proxy does not count."""
    async with listening(allowed=AllowList.parse(("tradingview",), "x")) as server:
        head = POST + b"X-Forwarded-For: 52.89.214.238\r\nContent-Length: 50000\r\n\r\n"
        reply = Reply(await server.send_raw(head))
        assert (reply.status, reply.json["code"]) == (403, "address_not_allowed")
        assert server.requests == []
        assert (await server.send(b"", method="GET", path="/healthz")).status == 200


async def test_behind_a_trusted_proxy_its_header_counts() -> None:
    """The right-most hop that is not a trusted proxy is the sender; hops left of it may be forged."""
    proxied = QUICK.model_copy(update={"behind_proxy": True, "trusted_proxies": ("127.0.0.1",)})
    async with listening(proxied, allowed=AllowList.parse(("tradingview",), "x")) as server:
        assert (await server.send(X_Forwarded_For="52.89.214.238")).status == 202
        assert (await server.send(X_Forwarded_For="52.89.214.238, 203.0.113.7")).status == 403
        assert (await server.send()).status == 403
        raw = await server.send_raw(
            POST
            + b"Connection: close\r\nX-Forwarded-For: 52.89.214.238\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 0\r\n\r\n"
        )
        assert statuses(raw) == [403]
        assert [request.remote for request in server.requests] == ["52.89.214.238"]


async def test_failed_authentications_lock_an_address_out() -> None:
    """429 with the time to wait, before the receiver is called; a wrong clock does not count towards it."""
    async with listening(lockout=Lockout(failures=3, window_s=60, lockout_s=300)) as server:
        for code in ("timestamp_stale", "timestamp_future", "timestamp_missing"):
            server.outcome = Unauthenticated(code, "x")
            for _ in range(5):
                assert (await server.send()).status == 401
        server.outcome = Unauthenticated("api_key_unknown", "x")
        assert [(await server.send()).status for _ in range(3)] == [401] * 3
        received_before = len(server.requests)
        server.outcome = WebhookResponse(status=202, body={})
        reply = await server.send()
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (429, "locked_out", "300")
        assert len(server.requests) == received_before
        assert server.rejections[-1].code == "locked_out"


async def test_a_valid_alert_clears_earlier_failures() -> None:
    """A wrong alert among valid ones from the same address never adds up to a lockout."""
    async with listening(lockout=Lockout(failures=3, window_s=60, lockout_s=300)) as server:
        for _ in range(5):
            server.outcome = Unauthenticated("signature_invalid", "x")
            assert [(await server.send()).status for _ in range(2)] == [401, 401]
            server.outcome = WebhookResponse(status=202, body={})
            assert (await server.send()).status == 202


# -------------------------------------------------------------------------------------------------- budget of refusals


def small_budget() -> RefusalBudget:
    """Three refusals, and none after that for as long as a test lasts."""
    return RefusalBudget(burst=3, per_s=0.001)


ABORTED, BAD_HTTP = b"aborted", b"GET\r\n\r\n"
COSTLY: dict[str, bytes | Exception] = {
    "unreadable": Unreadable("invalid_json", "x"),
    "unauthenticated": Unauthenticated("api_key_unknown", "x"),
    "too large": POST + b"Content-Length: 70000\r\n\r\n",
    "slow body": POST + b"Content-Length: 50\r\n\r\nslow",
    "aborted body": ABORTED,
    "not HTTP": BAD_HTTP,
}


@pytest.mark.parametrize("kind", COSTLY)
async def test_what_an_unproven_sender_causes_costs_his_address(kind: str) -> None:
    """After its budget an address is refused before a byte of the body is read; another address is served."""
    cause = COSTLY[kind]
    async with listening(budget=small_budget()) as server:
        for _ in range(3):
            if isinstance(cause, Exception):
                server.outcome = cause
                await server.send()
            elif cause is ABORTED:
                _, writer = await asyncio.open_connection(server.host, server.port)
                writer.write(POST + b"Content-Length: 50\r\n\r\nhalf")
                await until(lambda: server.connections == 1)
                writer.transport.abort()
                await until(lambda: server.connections == 0)
            else:
                await server.send_raw(cause)
        server.outcome = WebhookResponse(status=202, body={})
        before = len(server.requests)
        reply = Reply(await server.send_raw(POST + b"Content-Length: 50000\r\n\r\n"))
        assert (reply.status, reply.json["code"]) == (429, "too_many_refused")
        assert int(reply.headers["retry-after"]) == reply.json["retryAfter"] > 0
        assert len(server.requests) == before
        assert Reply(await server.send_raw(REQUEST_CLOSE, source="127.0.0.2")).status == 202


async def test_three_hundred_are_read_at_once_and_no_more() -> None:
    """With the default budget; the response to the next one is held back, so that a flood waits."""
    server_budget = RefusalBudget(burst=300, per_s=0.001)
    async with listening(budget=server_budget) as server:
        server.outcome = Unreadable("invalid_json", "x")
        for _ in range(15):
            replies = await asyncio.gather(*(server.send() for _ in range(20)))
            assert [reply.status for reply in replies] == [400] * 20
        assert (await server.send()).status == 429


@pytest.mark.parametrize("code", ["webhook_disabled", "field_invalid", "symbol_unknown", "rate_limited"])
async def test_a_proven_sender_costs_nothing(code: str) -> None:
    """Neither his refusals nor his alerts that were stored and refused."""
    refusal = Forbidden(code, "x") if code == "webhook_disabled" else Unreadable(code, "x")
    refusal.is_proven = True
    async with listening(budget=small_budget()) as server:
        for outcome in (refusal, WebhookResponse(status=401, body={}), Refused("symbol_unknown", "x")):
            server.outcome = outcome
            assert {(await server.send()).status for _ in range(5)} <= {400, 401, 403, 422, 429}
        assert {rejection.code for rejection in server.rejections} == {code, "symbol_unknown"}
        server.outcome = WebhookResponse(status=202, body={})
        assert (await server.send()).status == 202


async def test_shared_addresses_are_never_refused_unread() -> None:
    """TradingView's customers share four addresses; one of them must not use up what the others need."""
    proxied = QUICK.model_copy(update={"behind_proxy": True, "trusted_proxies": ("127.0.0.1",)})
    async with listening(proxied, budget=small_budget()) as server:
        server.outcome = Unreadable("invalid_json", "x")
        for sender in ("52.89.214.238", "203.0.113.66"):
            for _ in range(4):
                await server.send(X_Forwarded_For=sender)
        server.outcome = WebhookResponse(status=202, body={})
        replies = [
            await server.send(X_Forwarded_For=sender) for sender in ("52.89.214.238", "203.0.113.66", "203.0.113.7")
        ]
        assert [reply.status for reply in replies] == [202, 429, 202]


async def test_an_unproven_sender_keeps_no_connection() -> None:
    """The caps of new connections apply to each of his requests; a proxy's connection stays open, its next request is another sender's."""
    refused = Unreadable("invalid_json", "x")
    async with listening() as server:
        server.outcome = refused
        assert Reply(await server.send_raw(REQUEST)).headers["connection"] == "close"
    proxied = Server(port=0, idle_timeout_s=60, behind_proxy=True, trusted_proxies=("127.0.0.1",))
    async with listening(proxied) as server:
        server.outcome = refused
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for _ in range(2):
            writer.write(REQUEST)
            reply = Reply(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int(reply.headers["content-length"]))
            assert reply.status == 400
        writer.close()


async def test_bodies_in_flight_are_bounded_for_each_sender() -> None:
    """The oldest body of a sender is dropped for a newer one of his, also behind a proxy; others are not."""
    proxied = Server(port=0, idle_timeout_s=60, body_timeout_s=60, behind_proxy=True, trusted_proxies=("127.0.0.1",))
    async with listening(proxied) as server, AsyncExitStack() as stack:

        async def begin(sender: str) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            stack.callback(writer.close)
            writer.write(POST + f"X-Forwarded-For: {sender}\r\nContent-Length: 50\r\n\r\n".encode())
            return reader

        other = await begin("203.0.113.7")
        readers = [await begin("52.89.214.238") for _ in range(80)]
        await until(lambda: server.connections == 65)

        def cut() -> list[bool]:
            return [reader.at_eof() or reader.exception() is not None for reader in readers]

        await until(lambda: sum(cut()) == 16)
        assert cut() == [True] * 16 + [False] * 64
        assert not other.at_eof()
        assert (await server.send(X_Forwarded_For="52.89.214.238")).status == 202


async def test_large_bodies_do_not_delay_an_alert() -> None:
    """A body that takes long to parse waits for its turn, while smaller ones are handled at once."""
    async with listening(Server(port=0, idle_timeout_s=60)) as server:
        large = [asyncio.ensure_future(server.send(b"x" * 30_000)) for _ in range(20)]
        await until(lambda: len(server.requests) > 0)
        assert (await server.send(b"small")).status == 202
        assert [reply.status for reply in await asyncio.gather(*large)] == [202] * 20
        bodies = [request.body for request in server.requests]
        assert bodies.index(b"small") < len(bodies) - 1


# ------------------------------------------------------------------------------------------------------- start and stop


async def test_a_shutdown_answers_requests_under_way_and_accepts_no_more() -> None:
    """An alert under way is answered with Connection: close; new connections are refused."""
    async with listening() as server:
        server.may_respond = asyncio.Event()
        working = asyncio.ensure_future(server.send_raw(POST + b"Content-Length: 2\r\n\r\n{}"))
        await until(lambda: len(server.requests) == 1)
        await server.listener.stop_accepting()
        with pytest.raises(OSError):
            await asyncio.open_connection(server.host, server.port)
        closing = asyncio.ensure_future(server.listener.close())
        server.may_respond.set()
        reply = Reply(await working)
        assert (reply.status, reply.headers["connection"]) == (202, "close")
        await closing


async def test_a_shutdown_does_not_wait_for_silent_connections() -> None:
    """Silent connections and half-sent headers are dropped a moment after their acceptance, half-sent bodies after their timeout."""
    patient = Server(port=0, idle_timeout_s=600, body_timeout_s=1, shutdown_timeout_s=60)
    async with listening(patient) as server, AsyncExitStack() as stack:
        for start in (b"", POST, POST + b"Content-Length: 50\r\n\r\nhalf"):
            _, writer = await asyncio.open_connection(server.host, server.port)
            stack.callback(writer.close)
            writer.write(start)
        await until(lambda: server.connections == 3)
        await asyncio.wait_for(server.listener.close(), 30)
        assert server.connections == 0
        assert server.requests == []


async def test_a_shutdown_drops_idle_connections_that_were_answered_at_once() -> None:
    """A proxy's idle connections have had their requests; a connection without a request is waited for."""
    patient = Server(port=0, idle_timeout_s=600, shutdown_timeout_s=60)
    async with listening(patient) as server:
        answered, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(REQUEST)
        await answered.readuntil(b"}")
        _, silent = await asyncio.open_connection(server.host, server.port)
        await until(lambda: server.connections == 2)
        closing = asyncio.ensure_future(server.listener.close())
        assert await answered.read() == b""
        assert (closing.done(), server.connections) == (False, 1)
        silent.close()
        await closing
        writer.close()


@pytest.mark.parametrize("parts", [[b"", REQUEST], [REQUEST[:30], REQUEST[30:]], [REQUEST[:-1], REQUEST[-1:]]])
async def test_an_accepted_connection_is_answered_during_a_shutdown(parts: list[bytes]) -> None:
    """A connection accepted before the shutdown is answered, whatever part of its request had arrived: the sender would not resend it."""
    patient = Server(port=0, idle_timeout_s=600, body_timeout_s=20, shutdown_timeout_s=60)
    async with listening(patient) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(parts[0])
        await until(lambda: server.connections == 1)
        closing = asyncio.ensure_future(server.listener.close())
        await until(lambda: _refuses(server))
        writer.write(parts[1])
        reply = Reply(await reader.read())
        assert (reply.status, reply.headers["connection"]) == (202, "close")
        writer.close()
        await closing
        assert len(server.requests) == 1


async def _refuses(server: ListeningServer) -> bool:
    """True once the shutdown has begun: new connections are refused."""
    try:
        _, writer = await asyncio.open_connection(server.host, server.port)
    except OSError:
        return True
    writer.close()
    return False


async def test_no_connection_is_lost_at_a_shutdown() -> None:
    """Requests that arrive at any turn of the event loop are answered, or wait in the backlog for the next daemon on the socket."""
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
        server = ListeningServer(QUICK)
        await server.listener.start([held.dup()])
        asking = [asyncio.ensure_future(ask()) for _ in range(20)]
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        await server.listener.close()
        server = ListeningServer(QUICK)
        await server.listener.start([held.dup()])
        statuses += await asyncio.gather(*asking)
        await server.listener.close()
    held.close()
    assert statuses == [202] * 600


async def test_a_taken_port_is_one_helpful_line(server: ListeningServer) -> None:
    """It names the address, the reason and the fix, without a traceback."""
    with pytest.raises(ConfigError) as caught:
        async with listening(Server(port=server.port)):
            pass
    assert f"127.0.0.1:{server.port}" in caught.value.message
    assert "--port" in caught.value.message


async def test_inherited_sockets_are_served() -> None:
    """systemd opens port 443 and hands it over; two sockets are served alike."""
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    server = ListeningServer(QUICK)
    server.host, server.port = await server.listener.start([first, second])
    try:
        assert (server.host, server.port) == first.getsockname()
        assert (await server.send()).status == 202
        server.port = second.getsockname()[1]
        assert (await server.send()).status == 202
    finally:
        await server.listener.close()
