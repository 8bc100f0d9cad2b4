"""What `kekbridge doctor` says of the unit, by each answer that systemctl gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from kekbridge.model import Mode
from kekbridge.ops.doctor.service import systemd_checks

_DENIED = "echo 'Failed to get unit file state for kekbridge.service: Access denied' >&2; exit 1"
_NO_BUS = "echo 'Failed to connect to bus: No such file or directory' >&2; exit 1"
_OLD_NOT_FOUND = "echo 'Failed to get unit file state for kekbridge.service: No such file or directory' >&2; exit 1"


@pytest.mark.parametrize(
    ("script", "mode", "level", "text"),
    [
        ("echo not-found; exit 4", Mode.LIVE, "warning", "no unit is installed"),
        (_OLD_NOT_FOUND, Mode.LIVE, "warning", "no unit is installed"),
        (_OLD_NOT_FOUND, Mode.PAPER, "ok", "no unit is installed"),
        ("[ $1 = is-enabled ] && echo enabled || echo active", Mode.LIVE, "ok", "kekbridge.service is enabled, active"),
        ("[ $1 = is-enabled ] && echo disabled || echo active", Mode.LIVE, "warning", "not started at boot"),
        ("[ $1 = is-enabled ] && echo enabled || echo failed", Mode.LIVE, "broken", "kekbridge.service failed"),
        (_NO_BUS, Mode.LIVE, "warning", "unknown: systemd cannot be asked from here (Failed to connect to bus"),
        (_NO_BUS, Mode.PAPER, "ok", "unknown: "),
        (_DENIED, Mode.LIVE, "warning", "Access denied)"),
        ("[ $1 = is-enabled ] && echo enabled; " + _NO_BUS, Mode.LIVE, "warning", "unknown: "),
        ("exit 1", Mode.LIVE, "warning", "unknown: systemd cannot be asked from here (no reason given)"),
    ],
)
def test_what_systemd_does_not_say_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, mode: Mode, level: str, text: str
) -> None:
    """That no unit is installed is said only if systemd said so; without D-Bus, as in a container, the unit's state is unknown."""
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (check,) = systemd_checks(mode, systemd=tmp_path)
    assert (check.level, text in check.text) == (level, True), check
    assert check.fix or level == "ok"
    assert systemd_checks(mode, systemd=tmp_path / "none") == []
