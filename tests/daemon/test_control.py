"""The control socket of a running bridge: what it runs and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.daemon.control_socket import find_socket
from kekbridge.ops.operations import OPERATIONS
from kekbridge.store import journal
from tests.bridge import Bridge, running_bridge


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path, admin__enabled=False) as opened:
        opened.add_webhook("main")
        yield opened


async def call(
    bridge: Bridge, path: str, body: bytes | BytesIO | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """POST a body to the control socket, or GET without one; return status and JSON."""
    socket = find_socket(bridge.data_dir)
    assert socket is not None
    method = "GET" if body is None else "POST"
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.request(method, f"http://bridge{path}", data=body, headers=headers or {}) as answer,
    ):
        return answer.status, await answer.json()


async def run(bridge: Bridge, name: str, /, **parameters: Any) -> Any:
    """Run an operation; return its result."""
    status, answer = await call(bridge, f"/operations/{name}", json.dumps(parameters).encode())
    assert status == 200, answer
    return answer["result"]


async def test_halt_is_in_force_when_it_is_answered(bridge: Bridge) -> None:
    """The very next alert is denied, and after resume the next one trades, however quickly they follow."""
    for _ in range(5):
        assert (await run(bridge, "halt", reason="storm"))["state"] == "halted"
        status, answer = await bridge.send(action="buy", quantity="0.01")
        assert (status, answer["code"]) == (422, "trading_halted")
        assert (await run(bridge, "exits-only"))["state"] == "exits_only"
        assert (await bridge.send(action="buy", quantity="0.01"))[1]["code"] == "exits_only"
        assert (await run(bridge, "resume"))["state"] == "running"
        assert (await bridge.send(action="buy", quantity="0.01"))[0] == 200


async def test_status_names_the_bridge(bridge: Bridge) -> None:
    """Process, version, mode, data directory and readiness, so that a command can name its target."""
    status, answer = await call(bridge, "/status")
    assert status == 200
    assert (answer["mode"], answer["dataDir"], answer["ready"]) == ("paper", str(bridge.data_dir), True)
    assert answer["process"] > 0


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("halt", b"{", "found no JSON, expected an object with its parameters"),
        ("halt", b"\xff\xfe", "found no JSON"),
        ("halt", b"[]", "body: found array, expected object"),
        ("halt", b'{"reason": 5}', "reason: found int, expected str"),
        ("halt", b'{"why": "storm"}', "'why' is not a parameter; expected reason, by"),
        ("webhook-rotate", b'{"webhook": "main"}', "graceS is missing; expected webhook, graceS"),
        ("webhook-rotate", b'{"webhook": "main", "graceS": -1}', "graceS: found another value, expected int >= 0"),
        ("webhook-create", b'{"name": "a b"}', "webhook name 'a b' cannot be used"),
        ("webhook-create", b'{"name": "a", "options": {"max_leverage": "200"}}', "expected a number from 1 to 100"),
        ("webhook-create", b'{"name": "a", "options": {"max_leverage": 5}}', "found int, expected"),
        ("keys-list", b'{"mode": "real", "accountId": "0x1"}', "mode: found a value that is not accepted"),
        ("lockouts-lift", b'{"address": "nobody"}', "is not an address"),
        ("flatten", b'{"deadlineS": 0}', "deadlineS: found another value, expected int >= 1"),
    ],
)
async def test_wrong_parameters_are_one_line(bridge: Bridge, name: str, body: bytes, expected: str) -> None:
    """What was found and what is expected, with the exit code of wrong usage; nothing is changed."""
    status, answer = await call(bridge, f"/operations/{name}", body)
    assert (status, answer["error"]["exitCode"]) == (422, 2)
    assert expected in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]
    assert (await bridge.send(action="ping"))[0] == 200


async def test_what_it_does_not_know_is_an_error(bridge: Bridge) -> None:
    """An operation of a newer version, a webhook that does not exist, and a body that is too large."""
    status, answer = await call(bridge, "/operations/moon", b"{}")
    assert (status, answer["error"]["exitCode"]) == (404, 3)
    assert "restart it after an upgrade" in answer["error"]["message"]
    status, answer = await call(bridge, "/operations/webhook-disable", b'{"webhook": "mian"}')
    assert (status, answer["error"]["exitCode"]) == (404, 3)
    assert "did you mean main?" in answer["error"]["message"]
    status, answer = await call(bridge, "/operations/halt", BytesIO(b'{"reason": "' + b"x" * (1 << 21) + b'"}'))
    assert (status, answer["error"]["exitCode"]) == (422, 2)


async def test_a_command_for_another_data_directory_is_refused(bridge: Bridge) -> None:
    """A link that an old daemon left may lead to a bridge that the command does not mean."""
    status, answer = await call(bridge, "/operations/halt", b"{}", {"Kekbridge-Data-Dir": "1:2"})
    assert status == 422
    assert "uses another data directory; nothing was changed" in answer["error"]["message"]
    assert (await bridge.send(action="buy", quantity="0.01"))[0] == 200


async def test_many_at_once_are_all_done(bridge: Bridge) -> None:
    """Twenty commands at the same moment: each change is made once, and the history stays a chain."""
    made = await asyncio.gather(*(run(bridge, "webhook-create", name=f"w{number}") for number in range(20)))
    assert len({one["id"] for one in made}) == 20
    await asyncio.gather(
        *(run(bridge, "webhook-edit", webhook="w1", options={"max_notional": str(n)}) for n in range(1, 9))
    )
    assert await bridge.daemon.database.read(journal.verify) is None


async def test_every_operation_can_be_asked_for(bridge: Bridge) -> None:
    """Each row of the table is reached by its name: without parameters it runs, or says which is missing."""
    harmful = {"flatten"}  # `close` and `cancel` name what they mean
    for name in OPERATIONS.keys() - harmful:
        status, answer = await call(bridge, f"/operations/{name}", b"{}")
        assert status in (200, 404, 422), (name, answer)
        if status == 422:
            assert "internal" not in answer["error"]["code"]


async def test_jobs_and_lockouts_of_the_running_bridge(bridge: Bridge) -> None:
    """A job runs now and its record is returned; an unknown one is named; lockouts are those of this process."""
    assert (await run(bridge, "jobs-run", job="disk"))["error"] is None
    status, answer = await call(bridge, "/operations/jobs-run", b'{"job": "disc"}')
    assert (status, answer["error"]["exitCode"]) == (404, 3)
    assert "did you mean disk?" in answer["error"]["message"]
    assert await run(bridge, "lockouts-list") == []
    assert await run(bridge, "lockouts-lift", address="203.0.113.7") == {"address": "203.0.113.7", "lifted": False}
    assert (await run(bridge, "state"))["mode"] == "paper"


async def test_the_peak_is_reset_with_the_resume(bridge: Bridge) -> None:
    """It becomes the last equity, so that drawdown restarts at zero."""
    await bridge.daemon.operator_services.equity.run()
    resumed = await run(bridge, "resume", resetPeak=True)
    assert (resumed["state"], resumed["equityPeak"]) == ("running", "100000")


async def test_flatten_closes_what_is_open(bridge: Bridge) -> None:
    """The running bridge halts, closes and verifies; the result is that of the command."""
    await bridge.send(action="buy", quantity="0.01")
    await bridge.until_settled()
    result = await run(bridge, "flatten", deadlineS=20)
    assert (result["flat"], result["positionsClosed"], result["positionsLeft"]) == (True, 1, [])
    assert await bridge.positions() == {}
    assert (await bridge.send(action="buy", quantity="0.01"))[1]["code"] == "trading_halted"
