"""Which bridge, vault and settings a command works with: those of the bridge that runs, beside the service too."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.main import run_command
from tests.cli.conftest import Run
from tests.cli.processes import DEADLINE_S, Served, bare_environment, serving, serving_as_service

#: Commands that need the vault: their arguments and their stdin.
VAULT_COMMANDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("webhook", "create", "second"), ""),
    (("webhook", "rotate", "default"), ""),
    (("webhook", "show", "default", "--secret"), ""),
    (("template", "default"), ""),
    (("notify", "set"), "json://127.0.0.1:1/TOKEN\n"),
    (("notify", "channels"), ""),
    (("keys", "generate", "--mode", "live"), ""),
    (("vault", "status"), ""),
)


@pytest.fixture
def credentials(root: Path) -> dict[str, str]:
    """The environment that systemd gives the service: a master key as a credential."""
    directory = root / "credentials"
    directory.mkdir(mode=0o700)
    (directory / "master-key").write_bytes(base64.b64encode(bytes(range(32))))
    (directory / "master-key").chmod(0o400)
    return {"CREDENTIALS_DIRECTORY": str(directory), "KEKBRIDGE_VAULT_BACKEND": "directory"}


@pytest.fixture
def protected(root: Path, credentials: dict[str, str]) -> Iterator[Served]:
    """The service with a vault that only it can open."""
    with serving_as_service(root, **credentials) as bridge:
        yield bridge


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith((".lock", "-wal", "-shm"))
    }


def test_beside_the_service_its_vault_is_used(
    run: Run, protected: Served, root: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command made works there at once and after a restart; nothing appears in the command's own directory."""
    created = run("webhook", "create", "w", "--json").data
    assert run("webhook", "test", "w", "--json").data["httpStatus"] == 200
    assert run("webhook", "show", "w", "--secret", "--json").data["apiSecret"] == created["apiSecret"]
    rotated = run("webhook", "rotate", "w", "--grace", "0", "--json").data
    assert rotated["apiKey"] in run("template", "w").out
    monkeypatch.setattr(sys, "stdin", io.StringIO("json://127.0.0.1:1/TOKEN\n"))
    assert run("notify", "set", "--json").code == 0
    generated = run("keys", "generate", "--mode", "live", "--json").data
    assert generated["vault"] == "directory"
    status = run("vault", "status", "--json").data
    assert (status["isWritable"], status["names"]) == (True, ["master-key", "orderly-pending", "notify-urls"])
    service_dir = root / "var/lib/kekbridge"
    assert b"TOKEN" not in b"".join(files_below(service_dir).values())
    assert not data_dir.exists()
    assert protected.stop() == 0
    with serving(protected.environment):
        assert len(run("notify", "channels", "--json").data) == 1
        assert run("webhook", "test", "w", "--json").data["httpStatus"] == 200


@pytest.mark.parametrize(("command", "stdin"), VAULT_COMMANDS, ids=lambda value: " ".join(value) or None)
def test_a_stopped_services_vault_is_out_of_reach(
    run: Run, root: Path, command: tuple[str, ...], stdin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for root: another vault would be none that the service reads. Exit code 3, and nothing is changed."""
    data_dir = root / "var/lib/kekbridge"
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    done = run(*command, "--data-dir", str(data_dir))
    assert (done.code, done.out, data_dir.exists()) == (3, "", False)
    if os.geteuid() != 0:
        return
    assert run("webhook", "create", "default", "--data-dir", str(root / "made")).code == 0
    (root / "var/lib").mkdir(parents=True)
    (root / "made").rename(data_dir)
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, 65_534, 65_534)
    before = files_below(data_dir)
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    done = run(*command)
    assert (done.code, done.out) == (3, "")
    assert "only it can open its vault; start it (sudo systemctl start kekbridge)" in done.err
    assert files_below(data_dir) == before


def _as_another_user(lines: list[list[str]], groups: list[int], stdin: str, results: Any) -> None:
    os.setgroups(groups)
    os.setgid(65_534)
    os.setuid(65_534)
    found = []
    for line in lines:
        sys.stdin = io.StringIO(stdin)
        with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as printed:
            found.append((run_command(line), printed.getvalue(), errors.getvalue()))
    results.put(found)


def as_another_user(lines: list[list[str]], groups: list[int], stdin: str = "") -> list[tuple[int, str, str]]:
    """Run command lines as the user 65534 with these additional groups: exit codes, stdout and stderr."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_as_another_user, args=(lines, groups, stdin, results))
    child.start()
    found: list[tuple[int, str, str]] = results.get(timeout=DEADLINE_S)
    child.join(DEADLINE_S)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_services_group_needs_no_sudo(
    run: Run, protected: Served, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of the group reads and uses the vault over the socket; everybody else is refused with the line to type."""
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(root / "own"))
    for command, _ in VAULT_COMMANDS:
        run(*command, "--help")  # imports what the other user may not be able to read
    run("orders")
    importlib.import_module("kekbridge.cli.bridge_database")
    run("doctor")
    lines = [[*command] for command, _ in VAULT_COMMANDS]
    stdin = "json://127.0.0.1:1/TOKEN\n"
    group = [(root / "run/kekbridge/control.sock").stat().st_gid]
    members = as_another_user([*lines, ["doctor", "--json"], ["orders"]], group, stdin)
    assert [(code, error) for code, _, error in members[: len(lines)] if code != 0] == []
    doctor = members[-2]
    assert '"name":"vault","level":"ok"' in doctor[1].replace(" ", ""), doctor
    assert members[-1] == (0, "", "No orders yet. `kekbridge logs` shows the alerts received.\n")
    strangers = as_another_user(lines, [], stdin)
    assert {code for code, _, _ in strangers} == {3}
    assert all(
        f"{root / 'run/kekbridge/control.sock'}: permission denied; run `sudo kekbridge {' '.join(line)}`, or join"
        in each[2]
        for line, each in zip(lines, strangers, strict=True)
    )
    assert run("webhook", "list", "--json").data[-1]["name"] == "second"


def test_the_environment_chooses_between_two_that_run(run: Run, data_dir: Path, service: Served, root: Path) -> None:
    """$KEKBRIDGE_DATA_DIR names a bridge; without it, a command wants --data-dir."""
    with serving(bare_environment(data_dir)):
        assert run("webhook", "create", "mine").code == 0
        theirs = ("--data-dir", str(root / "var/lib/kekbridge"))
        assert run("webhook", "create", "theirs", *theirs).code == 0
        names = [[each["name"] for each in run("webhook", "list", *place, "--json").data] for place in ((), theirs)]
        assert ["mine" in found for found in names] == [True, False]
        assert ["theirs" in found for found in names] == [False, True]


@pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="needs the kernel's list of sockets")
def test_nothing_is_made_where_no_bridge_reads_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge runs in another directory, and nothing names one: an error, instead of a webhook that it does not know."""
    with serving(bare_environment(tmp_path / "elsewhere")):
        monkeypatch.delenv("KEKBRIDGE_DATA_DIR")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
        done = run("webhook", "create", "w")
        assert (done.code, done.out, (tmp_path / "home").exists()) == (3, "", False)
        assert "running elsewhere: " in done.err
        assert f"PAPER, {tmp_path / 'elsewhere'} (process" in done.err, "beside bridges of other tests, in any order"


def test_a_vault_that_the_bridge_will_not_open_takes_nothing(
    run: Run, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory's master key is in another vault than the one that this command may open: refused, not stored beside it."""
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "master-key").write_bytes(base64.b64encode(bytes(range(32))))
    (secrets / "master-key").chmod(0o400)
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "directory")
    monkeypatch.setenv("KEKBRIDGE_VAULT_SECRETS_DIR", str(secrets))
    assert run("webhook", "create", "default").code == 0
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    for command, stdin in VAULT_COMMANDS:
        if command[0] == "keys":
            continue  # another mode, which the key file is not for
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        done = run(*command)
        assert (done.code, done.out) == (2, ""), command
        assert "created in the vault 'directory'" in done.err
    assert not (data_dir / "vault").exists()
