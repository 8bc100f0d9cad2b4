"""`kekbridge health`: exit code 0 only if the bridge of this data directory answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli.processes import bare_environment, serving


def test_without_a_bridge_it_fails(run: Any) -> None:
    """Neither an empty directory nor one that was used is a bridge that runs; nothing is created."""
    done = run("health")
    assert done.code == 1
    assert "no bridge answers" in done.out
    assert run("health", "--json").data == {"ok": False, "answer": {}}


def test_it_asks_the_running_bridge(tmp_path: Path) -> None:
    """At the address that receives alerts, whatever port that is; --ready asks whether it agrees with the exchange."""
    with serving(bare_environment(tmp_path / "data")) as bridge:
        assert bridge.run("health").stdout == "ok\n"
        assert bridge.data("health") == {"ok": True, "answer": {"status": "ok"}}
        ready = bridge.data("health", "--ready")
        assert ready["answer"]["reconciled"] is True
        bridge.stop()
        assert bridge.run("health").returncode == 1


def test_it_is_cheap() -> None:
    """A container asks every 30 s: neither the web server nor the client of the exchange is imported."""
    code = "import sys, kekbridge.cli.health, kekbridge.ops.health, kekbridge.webhooks.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert {"aiohttp", "asyncio", "kekbridge.ops.doctor"}.isdisjoint(done.stdout.split())
