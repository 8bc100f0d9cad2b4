"""Checks of the running daemon and its systemd unit: is it up, has it reconciled, does it start at boot. Local requests only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops.health import ask
from kekbridge.store.lock import DaemonLock

UNIT: Final = "kekbridge.service"
_TIMEOUT_S: Final = 3.0


def daemon_checks(data_dir: Path, url: str) -> list[Check]:
    """Check that the daemon of this data directory runs and is ready. `url`: its address on this machine."""
    holder = DaemonLock.holder(data_dir)
    if holder is None:
        return [Check("daemon", "warning", "not running", "`kekbridge serve`, or systemctl start kekbridge")]
    _, ready = ask(url, "/readyz")
    if "reconciled" not in ready:
        return [Check("daemon", "broken", f"process {holder} runs, but {url} does not answer", "see its log")]
    if not ready.get("exchangeReachable"):
        text = f"process {holder}: the exchange is unreachable: {ready.get('detail') or 'no answer'}"
        return [Check("daemon", "broken", text, "check the network; entries are held back meanwhile")]
    if not ready.get("reconciled"):
        return [
            Check(
                "daemon",
                "broken",
                f"process {holder} has not reconciled with the exchange yet",
                "wait, then see the log",
            )
        ]
    lines = [Check("daemon", "ok", f"process {holder}, {ready.get('mode')}, ready")]
    if not ready.get("streamLive"):
        lines.append(Check("stream", "warning", "down: the exchange is polled instead", "it reconnects by itself"))
    else:
        lines.append(Check("stream", "ok", "live"))
    if ready.get("entriesHeld"):
        lines.append(
            Check("entries", "warning", "held back: the exchange did not answer several orders", "see the log")
        )
    return lines


def systemd_checks(mode: Mode) -> list[Check]:
    """Check that the unit is installed, enabled and running; no check without systemd."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return []
    enabled, active = (_query(systemctl, verb) for verb in ("is-enabled", "is-active"))
    if enabled in ("", "not-found"):
        level: Any = "ok" if mode is Mode.PAPER else "warning"
        return [Check("systemd", level, "no unit is installed", "`kekbridge install-systemd`")]
    if active == "failed":
        return [Check("systemd", "broken", f"{UNIT} failed", f"journalctl -u {UNIT} -n 50")]
    if enabled != "enabled":
        return [Check("systemd", "warning", f"{UNIT} is {enabled}: not started at boot", f"systemctl enable {UNIT}")]
    return [Check("systemd", "ok", f"{UNIT} is {enabled}, {active}")]


def _query(systemctl: str, verb: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a found program with constant arguments
            [systemctl, verb, UNIT], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
