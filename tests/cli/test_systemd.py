"""`install-systemd`: units that systemd accepts and rates as hardened, without secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kekbridge.daemon.control_socket import SERVICE_DATA_DIR, SERVICE_SOCKET

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_systemd_rates_the_service_as_hardened(run: Any, tmp_path: Path) -> None:
    """`systemd-analyze security` rates the exposure 2.0 or less."""
    assert run("install-systemd", "--directory", str(tmp_path)).code == 0
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / "kekbridge.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 2.0, done.stdout


@needs_systemd
def test_systemd_knows_every_setting(run: Any, tmp_path: Path) -> None:
    """No misspelt or misplaced line: systemd would ignore it and leave the service open."""
    run("install-systemd", "--directory", str(tmp_path))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "kekbridge.service"), str(tmp_path / "kekbridge.socket")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if re.search(r"kekbridge\.(service|socket):\d+", line)]
    assert ours == []


def test_the_units_match_the_settings(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The units contain port, settings file and the mode's credentials; --print writes nothing."""
    file = tmp_path / "k.toml"
    file.write_text('mode = "testnet"\n[server]\nport = 9123\n')
    units = run("install-systemd", "--print", "--json", "--config", str(file)).data
    assert "ListenStream=127.0.0.1:9123" in units["kekbridge.socket"]
    service = units["kekbridge.service"]
    assert f"serve --config {file}" in service
    assert service.count("LoadCredentialEncrypted=") == 2
    for line in ("Type=notify", "WatchdogSec=30", "StateDirectory=kekbridge"):
        assert line in service
    for line in ("LimitNOFILE=16384", "MemoryMax=512M", "TasksMax=128"):  # a flood ends before the machine does
        assert line in service
    assert run("install-systemd", "--print").out.startswith("# /etc/systemd/system/kekbridge.service\n[Unit]")


def test_the_control_socket_is_for_the_services_group(run: Any) -> None:
    """A static user and group, and a runtime directory that the group can enter: where commands look for the service's socket."""
    service = run("install-systemd", "--print", "--json").data["kekbridge.service"]
    lines = service.splitlines()
    for line in ("User=kekbridge", "Group=kekbridge", "RuntimeDirectory=kekbridge", "RuntimeDirectoryMode=0750"):
        assert line in lines
    assert "DynamicUser" not in service
    assert f"Environment=KEKBRIDGE_DATA_DIR={SERVICE_DATA_DIR}" in lines
    assert f"StateDirectory={SERVICE_DATA_DIR.name}" in lines
    assert str(SERVICE_SOCKET) == "/run/kekbridge/control.sock"


def test_a_directory_that_cannot_be_written_is_one_line(run: Any, tmp_path: Path) -> None:
    """The error names the alternative."""
    done = run("install-systemd", "--directory", str(tmp_path / "nowhere"))
    assert done.code == 2
    assert "--print" in done.err
