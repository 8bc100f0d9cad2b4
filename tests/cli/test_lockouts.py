"""`kekbridge lockouts` beside a running bridge: list lockouts, lift one, and the error when no bridge runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from kekbridge.cli.main import run_command
from tests.bridge import Bridge, running_bridge
from tests.system.forked import run_forked
from tests.system.harness import clean_environment


def command(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    return run_forked(*arguments, "--data-dir", str(data_dir), environment=clean_environment())


async def guess(bridge: Bridge, times: int) -> list[int]:
    """Send alerts with an unknown key; return their HTTP statuses."""
    body = json.dumps({"apiKey": "wh_test_" + "x" * 43, "action": "buy"}).encode()
    return [(await bridge.post(body))[0] for _ in range(times)]


async def test_a_lockout_is_listed_and_lifted(tmp_path: Path) -> None:
    """Three wrong keys lock this machine out; the command lists it and lifts it once."""
    async with running_bridge(tmp_path, admin__port=0, auth__lockout_failures=3) as bridge:
        bridge.add_webhook("main")
        assert await guess(bridge, 4) == [401, 401, 401, 429]
        listed = await asyncio.to_thread(command, "lockouts", "list", "--json", data_dir=bridge.data_dir)
        (one,) = json.loads(listed.stdout)
        assert (one["address"], one["count"]) == ("127.0.0.1", 3)
        table = await asyncio.to_thread(command, "lockouts", "list", data_dir=bridge.data_dir)
        assert "127.0.0.1" in table.stdout
        lifted = await asyncio.to_thread(command, "lockouts", "lift", "127.0.0.1", data_dir=bridge.data_dir)
        assert (lifted.returncode, lifted.stderr) == (0, "")
        assert (await bridge.send(action="ping"))[0] == 200
        again = await asyncio.to_thread(command, "lockouts", "lift", "127.0.0.1", data_dir=bridge.data_dir)
        assert again.returncode == 3
        assert "not locked out" in again.stderr
        empty = await asyncio.to_thread(command, "lockouts", "list", data_dir=bridge.data_dir)
        assert (empty.stdout, empty.stderr) == ("", "No address is locked out.\n")


def test_without_a_bridge_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lockouts exist only in the running bridge; an invalid address is refused before the bridge is called."""
    assert run_command(["lockouts", "lift", "nobody", "--data-dir", str(tmp_path)]) == 2
    assert "is not an address" in capsys.readouterr().err
    assert run_command(["lockouts", "list", "--data-dir", str(tmp_path / "none")]) == 3
    assert "kekbridge serve" in capsys.readouterr().err
