"""The quick `kekbridge` program behaves like the installed one: streams, exit codes, working directory, and a kill."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import clean_environment, wait_until
from tests.system.launcher import program_at


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("program") / "kekbridge"
    with program_at(path):
        yield path


def _run(program: Path, script: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"KEKBRIDGE_DATA_DIR": str(data_dir), "KEKBRIDGE_VAULT_BACKEND": "key_file"}
    return subprocess.run(
        ["sh", "-c", script.replace("kekbridge", str(program))],
        cwd=data_dir.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_streams_and_exit_codes_are_the_commands(program: Path, tmp_path: Path) -> None:
    """stdout, stderr, a redirected stdin, files in the working directory and each exit code come from the command."""
    done = _run(
        program, "kekbridge webhook create w --json | grep -c apiSecret; kekbridge webhook show x", tmp_path / "data"
    )
    assert (done.returncode, done.stdout.strip()) == (3, "1")
    assert done.stderr.startswith("kekbridge:") or done.stderr.count("\n") > 1
    script = 'echo \'{"action":"buy","symbol":"BTCUSDT.P","quantity":1}\' > a.json && kekbridge webhook check a.json'
    assert _run(program, script, tmp_path / "data").returncode == 0
    assert _run(program, "echo json://127.0.0.1:1/T | kekbridge notify set", tmp_path / "data").returncode == 0


def test_a_killed_program_ends_its_command(program: Path, tmp_path: Path) -> None:
    """As with a process of its own, nothing runs on after `timeout` or a kill."""
    lock = tmp_path / "data" / "control.sock"
    script = "KEKBRIDGE_SERVER_PORT=0 KEKBRIDGE_PAPER_PORT=0 KEKBRIDGE_PAPER_PRICES=static kekbridge serve"
    environment = clean_environment() | {
        "KEKBRIDGE_DATA_DIR": str(tmp_path / "data"),
        "KEKBRIDGE_VAULT_BACKEND": "key_file",
    }
    process = subprocess.Popen(
        ["sh", "-c", "exec env " + script.replace("kekbridge", str(program))],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lock.exists, what="a running bridge")
    process.kill()
    process.wait()
    # The lock of its data directory is free again, so that another one can write there.
    wait_until(lambda: _run(program, "kekbridge halt", tmp_path / "data").returncode == 0, what="the end of the bridge")
