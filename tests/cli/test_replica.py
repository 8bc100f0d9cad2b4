"""`kekbridge replica`: how far the replica has come, beside a bridge and without one; its configuration; keys that are never printed."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from kekbridge.admin import metrics
from tests.bridge import running_bridge
from tests.cli.conftest import Run
from tests.paths import ROOT
from tests.replication import needs_litestream
from tests.system.forked import run_forked
from tests.system.harness import clean_environment
from tests.waiting import until

DOCUMENT = (ROOT / "kekbridge" / "docs" / "standby.md").read_text(encoding="utf-8").partition("## How far")[0]


def test_without_a_replica_the_setting_is_named(run: Run) -> None:
    """Neither a status nor a configuration without a place."""
    for arguments in (("replica",), ("replica", "status"), ("replica", "--print")):
        done = run(*arguments)
        assert done.code == 2
        assert "set replica.url to where the database is to be copied" in done.err


def test_the_settings_of_the_document_are_settings(run: Run, data_dir: Path) -> None:
    """As they are printed, to copy."""
    (block,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    data_dir.mkdir()
    (data_dir / "config.toml").write_text(textwrap.dedent(block), encoding="utf-8")
    assert run("config", "check").code == 0
    assert 'host-key: "ssh-ed25519' in run("replica", "--print").out


def test_the_configuration_is_printed_for_this_database(
    run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stdout, as the bridge uses it."""
    monkeypatch.setenv("KEKBRIDGE_REPLICA_URL", "sftp://me@host/srv/k")
    found = yaml.safe_load(run("replica", "--print").out)
    assert found["dbs"][0]["path"] == str(data_dir / "kekbridge.db")
    assert found["dbs"][0]["replica"]["url"] == "sftp://me@host/srv/k"


def test_keys_go_to_the_vault_and_nowhere_else(run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines from stdin; neither is printed, and the vault lists them."""
    monkeypatch.setattr("sys.stdin", io.StringIO("AKIAEXAMPLE\nSECRETKEY\n"))
    done = run("replica", "keys")
    assert (done.code, done.out.endswith("; restart the bridge to use it\n")) == (0, True)
    assert "AKIAEXAMPLE" not in done.out + done.err
    assert "SECRETKEY" not in done.out + done.err
    listed = run("vault", "status", "--json").out
    assert "replica-access-key-id" in listed
    assert "replica-secret-access-key" in listed
    monkeypatch.setattr("sys.stdin", io.StringIO("AKIAEXAMPLE\n"))
    assert "nothing entered" in run("replica", "keys").err


@needs_litestream
async def test_status_beside_a_bridge_and_without_one(tmp_path: Path) -> None:
    """Complete up to a moment ago, then the newest change at the target; exit code 1 once it is too old, or if nothing is there."""
    url = f"file://{tmp_path}/replica"

    async def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**clean_environment(), "KEKBRIDGE_REPLICA_URL": url, **more}
        named = ("--data-dir", str(tmp_path / "data"))
        return await asyncio.to_thread(run_forked, "replica", *arguments, *named, environment=environment)

    async def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await run("status", "--json")).stdout)
        return found

    async with running_bridge(tmp_path, replica__url=url, replica__sync_s=0.2) as bridge:

        async def is_copied() -> bool:
            return bool((await status())["upTo"])

        await until(is_copied)
        found = await status()
        assert (found["url"], found["isRunning"], found["problem"], found["lagS"] >= 0) == (url, True, "", True)
        done = await run()
        assert (done.returncode, [line.split()[0] for line in done.stdout.splitlines()]) == (
            0,
            ["replica", "complete", "Litestream"],
        )
        for line in re.findall(r"```sh\nkekbridge replica(.*)\n```", DOCUMENT):
            assert (await run(*line.split())).returncode == 0, line
        state = await bridge.daemon.state()
        assert state["replica"]["url"] == url
        (lag,) = (family for family in metrics.replica_families(state))
        assert (lag.name, lag.samples[0].value) == ("kekbridge_replica_lag_seconds", state["replica"]["lagS"])
    done = await run()
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["replica", "newest", "problem"]
    late = await run("--json", KEKBRIDGE_REPLICA_WARN_AFTER_S="0.001")
    assert (late.returncode, json.loads(late.stdout)["lagS"] > 0) == (1, True)
    nothing = await run("--json", KEKBRIDGE_REPLICA_URL=f"file://{tmp_path}/nothing")
    assert (nothing.returncode, json.loads(nothing.stdout)["upTo"]) == (1, None)
