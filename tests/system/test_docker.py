"""The container: built, and used as the operations document says, by Podman with what compose.yaml says (tests/system/compose.py).

KEKBRIDGE_TEST_MACHINE names an empty machine that `.ci/empty-machine DIR` has made: no registry is asked, it is the base image. Without it
these tests are skipped, since making one and building an image take minutes. Docker itself, its restarts after a crash or a reboot, its log
rotation and its automatic health checks are not tried; tests/cli/test_container_files.py looks at the files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.cli.processes import paste
from tests.paths import ROOT
from tests.system.harness import clean_environment, free_port

_MACHINE = Path(os.environ.get("KEKBRIDGE_TEST_MACHINE") or "/nonexistent")
_RELEASE = Path(os.environ.get("KEKBRIDGE_RELEASE") or "/nonexistent")
_MISSING = [name for name in ("podman", "buildah", "runc", "curl") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(
        not _MACHINE.is_dir(), reason="KEKBRIDGE_TEST_MACHINE names no directory that .ci/empty-machine has made"
    ),
    pytest.mark.skipif(bool(_MISSING), reason=f"needs {', '.join(_MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(2400),
]

DOCUMENT = (ROOT / "kekbridge" / "docs" / "operations.md").read_text(encoding="utf-8")
START, BACKUP, UPGRADE = (
    block
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT.split("## In Docker\n")[1].split("\n## ")[0], re.DOTALL)
    if "docker compose" in block
)


class Shell:
    """A directory with the commands of the document: kekbridge in one of its forms, docker, and sudo for somebody who is root."""

    _SCRIPTS: ClassVar[dict[str, str]] = {
        "docker": 'PYTHONPATH="{root}" exec "{python}" -m tests.system.compose "$@"',
        "sudo": 'exec "$@"',
    }

    def __init__(self, directory: Path, environment: dict[str, str], kekbridge: str) -> None:
        self._directory = directory
        commands = directory / "commands"
        commands.mkdir()
        self.environment = environment | {"PATH": f"{commands}:{os.environ['PATH']}", "HOME": str(directory)}
        for name, script in {**self._SCRIPTS, "kekbridge": kekbridge}.items():
            text = script.replace("{root}", str(ROOT)).replace("{python}", sys.executable)
            (commands / name).write_text(f"#!/bin/sh\n{text}\n")
            (commands / name).chmod(0o755)

    def run(self, block: str, *, inside: str = "") -> str:
        """Run lines as they are printed, in the directory or one inside; return stdout."""
        done = subprocess.run(
            ["sh", "-e", "-c", block],
            cwd=self._directory / inside,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, (block, done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout

    def bridge(self, *arguments: str) -> str:
        """Output of a command in the container."""
        return self.run(f"docker compose exec bridge {' '.join(arguments)}", inside="bridge")

    def data(self, *arguments: str) -> Any:
        """JSON of a kekbridge command in the container."""
        return json.loads(self.bridge("kekbridge", *arguments, "--json"))


@pytest.fixture(scope="module")
def base() -> Iterator[dict[str, str]]:
    """An environment in which Podman has the empty machine as an image, in a store of its own."""
    with tempfile.TemporaryDirectory(prefix="kb-podman-", ignore_cleanup_errors=True) as name:
        store = Path(name)
        configuration = store / "storage.conf"
        configuration.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{store}/store"\nrunroot = "{store}/run"\n'
        )
        environment = clean_environment() | {
            "CONTAINERS_STORAGE_CONF": str(configuration),
            "COMPOSE_BASE": "localhost/empty-machine",
            "BRIDGE_PORT": str(free_port()),
            "BRIDGE_PAGES_PORT": str(free_port()),
        }
        archive = f"tar --directory {_MACHINE} --create . | nice -n 10 podman import - localhost/empty-machine"
        try:
            subprocess.run(["sh", "-c", archive], env=environment, check=True, capture_output=True, timeout=1200)
            yield environment
        finally:
            for words in (("rm", "--all", "--force", "--time", "0"), ("network", "rm", "--force", "kbtest-bridge")):
                subprocess.run(["podman", *words], env=environment, check=False, capture_output=True, timeout=120)
            for mounted in ("store/overlay", "run/overlay", "store", "run"):
                subprocess.run(["umount", "--lazy", str(store / mounted)], check=False, capture_output=True)


def _program(form: str) -> str:
    if form == "package":
        return 'PYTHONPATH="{root}" exec "{python}" -m kekbridge "$@"'
    (executable,) = _RELEASE.glob("kekbridge-*-linux-*[!z]")
    return f'exec "{executable}" "$@"'


@pytest.mark.parametrize(
    "form",
    [
        "package",
        pytest.param(
            "executable", marks=pytest.mark.skipif(not _RELEASE.is_dir(), reason="KEKBRIDGE_RELEASE names no release")
        ),
    ],
)
def test_the_container_as_the_document_says(base: dict[str, str], tmp_path: Path, form: str) -> None:
    """Started, used, halted, backed up, restored, upgraded and stopped: without rights, without loss, and within the time it has."""
    shell = Shell(tmp_path, base, _program(form))
    shell.run("kekbridge docker bridge")
    try:
        _story(shell, form)
    finally:
        # The next form has another master key: it would not open what this one has stored.
        shell.run("docker compose down --volumes", inside="bridge")


def _story(shell: Shell, form: str) -> None:
    port, pages = shell.environment["BRIDGE_PORT"], shell.environment["BRIDGE_PAGES_PORT"]
    shown = shell.run(START)
    assert " filled at " in shown
    name = "Python package" if form == "package" else "one-file executable"
    assert f"({name} in a container, Python 3." in shell.bridge("kekbridge", "--version")

    # No rights: of the process, and on its files.
    status = dict(line.split(":\t", 1) for line in shell.bridge("cat", "/proc/1/status").splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == {"10001"}
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0000000000000000"}
    assert status["NoNewPrivs"] == "1"
    written = shell.bridge(
        "sh", "-c", "'for d in / /opt /etc /usr/bin; do touch $d/x 2>/dev/null && echo $d; done; true'"
    )
    assert written == ""
    assert "secrets directory /run/secrets" in shell.bridge("kekbridge", "vault", "status")

    # Alerts and pages, from this machine through published ports.
    logged = shell.run("docker compose logs 2>&1", inside="bridge")
    line = next(text for text in logged.splitlines() if text.startswith("curl "))
    assert paste("sh", line.replace("0.0.0.0:8080", f"127.0.0.1:{port}"))["status"] == "filled"
    link = shell.bridge("kekbridge", "web", "link").strip()
    assert link.startswith("http://127.0.0.1:8081/")
    with urllib.request.urlopen(link.replace(":8081", f":{pages}"), timeout=30) as page:  # noqa: S310 - http, see above
        assert page.status == 200
    # The executable's loader is process 1, and the bridge its child.
    (process,) = re.findall(r"\bprocess (\d+)\b", shell.bridge("kekbridge", "doctor", "||", "true"))
    assert (process == "1") is (form == "package")

    # Halted by a command beside it; a stop takes effect at SIGTERM, and the next start has all of it.
    shell.bridge("kekbridge", "halt")
    orders = shell.data("orders")
    assert [each["status"] for each in orders] == ["filled", "filled"]
    shell.run("docker compose stop", inside="bridge")
    assert shell.run("docker compose inspect '{{.State.ExitCode}}'", inside="bridge") == "0\n"
    assert "forced_stop" not in shell.run("docker compose logs 2>&1", inside="bridge")
    shell.run("docker compose up --wait", inside="bridge")
    assert shell.data("orders") == orders
    assert "the account is halted" in shell.bridge("kekbridge", "doctor", "||", "true")
    shell.bridge("kekbridge", "resume")

    shell.run(BACKUP, inside="bridge")
    assert shell.data("orders") == orders
    shell.run(UPGRADE)
    assert shell.data("orders") == orders
    assert " filled at " in shell.bridge("kekbridge", "try")
