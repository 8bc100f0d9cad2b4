"""Attacks on a running daemon: no forged alert is admitted, responses reveal nothing, and the owner's alerts are served meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp
import pytest

from kekbridge.alerts import signature
from tests.system.forked import forked_bridge, run_cli
from tests.system.harness import WEBHOOK_PATH, BridgeProcess, timestamp
from tests.timing import median_interval
from tests.waiting import DEADLINE_S

ENVIRONMENT = {
    "KEKBRIDGE_AUTH_LOCKOUT_FAILURES": "100000000",
    "KEKBRIDGE_AUTH_REFUSAL_BURST": "100000000",
    "KEKBRIDGE_LOG_LEVEL": "error",
}
SIGNED = ("apiKey", "action", "symbol", "quantity")


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeProcess]:
    """Run a daemon whose webhook requires a signature, which is the default."""
    arguments = ("--rate-per-minute", "100000")
    directory = tmp_path_factory.mktemp("attacks")
    with forked_bridge(directory, environment=ENVIRONMENT, webhook_arguments=arguments) as running:
        yield running


def message(bridge: BridgeProcess, **fields: Any) -> dict[str, Any]:
    """Build a signed order of the owner, with the fields that an attacker changed afterwards."""
    order = {"apiKey": bridge.webhook["apiKey"], "action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.001"}
    signed = signature.sign(bridge.webhook["apiSecret"], {name: order[name] for name in SIGNED})
    return {**order, "timestamp": timestamp(), "signature": signed, **fields}


def post(bridge: BridgeProcess, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    request = Request(bridge.url + WEBHOOK_PATH, data=body, headers=headers or {})  # noqa: S310 - loopback http only
    try:
        with urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def placed(bridge: BridgeProcess) -> int:
    return sum(event["event"] == "order_received" for event in bridge.journal())


ALTERED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("wrong key", {"apiKey": "wh_test_" + "A" * 32}),
    ("no key", {"apiKey": None}),
    ("no signature", {"signature": None}),
    ("empty signature", {"signature": ""}),
    ("signature of nothing", {"signature": "v1::" + "0" * 64}),
    ("signature without hash", {"signature": "v1:apiKey,action,symbol,quantity:"}),
    ("fewer fields claimed", {"signature": "v1:apiKey:" + "0" * 64}),
    ("altered quantity", {"quantity": "0.002"}),
    ("altered side", {"action": "sell"}),
    ("altered symbol", {"symbol": "ETHUSDT.P"}),
    ("added leverage", {"leverage": "50"}),
    ("added quantity type", {"quantityType": "percent_equity"}),
    ("added stop", {"stopLoss": "1"}),
    ("added reduceOnly", {"reduceOnly": True}),
    ("added order type", {"orderType": "limit", "limitPrice": "1"}),
    ("added steps", {"steps": [{"action": "buy", "symbol": "ETHUSDT.P", "quantity": "1"}]}),
    ("stale", {"timestamp": "2026-01-15T10:30:03Z"}),
    ("future", {"timestamp": "2099-01-15T10:30:03Z"}),
    ("no timestamp", {"timestamp": None}),
)


@pytest.mark.parametrize(("name", "changes"), ALTERED, ids=[name for name, _ in ALTERED])
def test_an_altered_message_is_rejected(bridge: BridgeProcess, name: str, changes: dict[str, Any]) -> None:
    """Each forged message is answered with the same 401, and no order follows."""
    before = placed(bridge)
    status, answer = post(bridge, json.dumps(message(bridge, **changes)).encode())
    assert (status, json.loads(answer)["code"]) == (401, "unauthorized")
    assert b"wh_" not in answer
    assert placed(bridge) == before


def test_a_stolen_message_is_one_order(bridge: BridgeProcess) -> None:
    """A recorded message that is sent again is a duplicate, and never a second order."""
    recorded = json.dumps(message(bridge)).encode()
    assert post(bridge, recorded)[0] == 200
    before = placed(bridge)
    replayed = [post(bridge, recorded) for _ in range(5)]
    assert {status for status, _ in replayed} == {200}
    assert all(json.loads(answer)["duplicate"] for _, answer in replayed)
    assert placed(bridge) == before


def test_a_header_signature_is_valid_for_its_body_only(bridge: BridgeProcess) -> None:
    """An HMAC of another body, or with another secret, is rejected."""
    body = json.dumps(message(bridge, signature=None, alertId="header")).encode()
    other = body.replace(b"0.001", b"0.009")
    digest = hmac.new(bridge.webhook["apiSecret"].encode(), body, hashlib.sha256).hexdigest()
    before = placed(bridge)
    assert post(bridge, other, {"X-Webhook-Signature": digest})[0] == 401
    wrong = hmac.new(b"whs_wrong", body, hashlib.sha256).hexdigest()
    assert post(bridge, body, {"X-Webhook-Signature": wrong})[0] == 401
    assert placed(bridge) == before
    assert post(bridge, body, {"X-Webhook-Signature": f"sha256={digest}"})[0] == 200


def test_a_disabled_webhook_is_rejected(bridge: BridgeProcess) -> None:
    """Disabling takes effect with the next alert: 403 with its key, and 401 after deletion."""
    webhook = json.loads(
        run_cli("webhook", "create", "disabled", "--no-require-signature", "--json", data_dir=bridge.data_dir)
    )
    run_cli("webhook", "disable", "disabled", data_dir=bridge.data_dir)
    alert = message(bridge, apiKey=webhook["apiKey"], signature=None)
    assert post(bridge, json.dumps(alert).encode())[0] == 403
    run_cli("webhook", "delete", "disabled", "--yes", data_dir=bridge.data_dir)
    assert post(bridge, json.dumps(alert).encode())[0] == 401


def test_forged_addresses_do_not_help(tmp_path: Path) -> None:
    """With an allowlist, headers that claim an allowed address are ignored unless the peer is a trusted proxy."""
    environment = {**ENVIRONMENT, "KEKBRIDGE_AUTH_ALLOWED_ADDRESSES": "tradingview"}
    with forked_bridge(tmp_path, environment=environment) as bridge:
        for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP", "True-Client-IP"):
            value = "for=52.89.214.238" if header == "Forwarded" else "52.89.214.238"
            assert post(bridge, json.dumps(bridge.alert()).encode(), {header: value})[0] == 403
        assert placed(bridge) == 0


def test_unknown_key_and_wrong_signature_take_the_same_time(bridge: BridgeProcess) -> None:
    """The response time does not show whether a key exists: the medians differ by at most a quarter of a response time.

    The bound is relative because a slow machine stretches both. It is about half a millisecond, which is what an attacker resolves
    with a millisecond of jitter in the 20 attempts that an address has before it is locked out. If both cases take equally long, the
    random order makes the sign of each difference random under any load: fewer than one run in a million fails by chance.
    """
    known = json.dumps(message(bridge, quantity="0.5")).encode()
    unknown = json.dumps(message(bridge, quantity="0.5", apiKey="wh_test_" + "B" * 32)).encode()

    async def measure() -> list[dict[bytes, float]]:
        async with aiohttp.ClientSession() as session:

            async def response_time(body: bytes) -> float:
                started = time.perf_counter()
                async with session.post(bridge.url + WEBHOOK_PATH, data=body) as answer:
                    await answer.read()
                return time.perf_counter() - started

            await response_time(known)  # the first one is slower
            return [
                {body: await response_time(body) for body in random.sample((known, unknown), 2)} for _ in range(400)
            ]

    pairs = asyncio.run(measure())
    bound = statistics.median(pair[unknown] for pair in pairs) / 4
    low, high = median_interval([pair[known] - pair[unknown] for pair in pairs])
    assert low <= bound, "a known key is answered more slowly"
    assert high >= -bound, "an unknown key is answered more slowly"


def test_the_owner_is_served_through_flood_and_slow_connections(bridge: BridgeProcess) -> None:
    """Signed alerts are answered with their fill despite 500 unfinished connections and a flood of forged messages."""
    forged = json.dumps(message(bridge, quantity="7")).encode()

    async def flood(session: aiohttp.ClientSession, until: asyncio.Event) -> int:
        count = 0
        while not until.is_set():
            async with session.post(bridge.url + WEBHOOK_PATH, data=forged) as answer:
                count += answer.status == 401
                await answer.read()
        return count

    async def attack() -> tuple[list[tuple[int, dict[str, Any]]], int]:
        done = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=20)
        async with aiohttp.ClientSession(connector=connector) as strangers, aiohttp.ClientSession() as owner:
            floods = [asyncio.create_task(flood(strangers, done)) for _ in range(20)]
            answers = []
            for number in range(10):
                alert = message(bridge, alertId=f"through-{number}")
                async with owner.post(bridge.url + WEBHOOK_PATH, data=json.dumps(alert).encode()) as answer:
                    answers.append((answer.status, await answer.json()))
            done.set()
            return answers, sum(await asyncio.gather(*floods))

    with ExitStack() as stack:
        for number in range(500):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port)))
            slow.sendall((b"", b"POST ", b"POST / HTTP/1.1\r\nHost: x\r\nX-A: ")[number % 3])
        answers, refused = asyncio.run(attack())
    assert [status for status, _ in answers] == [200] * 10
    assert {answer["status"] for _, answer in answers} == {"filled"}
    assert refused > 0
