"""Checks of the running daemon and its systemd unit: is it up, has it reconciled, does it start at boot. Local requests only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from kekbridge.formatting import clip_words, sanitize
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops.health import ask
from kekbridge.store.lock import DaemonLock

UNIT: Final = "kekbridge.service"
_TIMEOUT_S: Final = 3.0
_SYSTEMD: Final = Path("/run/systemd/system")  # is there while systemd runs the machine, sd_booted(3)
_LONGEST_REASON: Final = 120
# How systemctl before version 254 says that a unit does not exist; since then it prints not-found.
_NO_SUCH_UNIT: Final = f"Failed to get unit file state for {UNIT}: No such file or directory"


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


def systemd_checks(mode: Mode, *, systemd: Path = _SYSTEMD) -> list[Check]:
    """Check that the unit is installed, enabled and running; no check without systemd, whose directory is `systemd`."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not systemd.is_dir():
        return []
    missing: Any = "ok" if mode is Mode.PAPER else "warning"
    try:
        enabled, active = (_query(systemctl, verb) for verb in ("is-enabled", "is-active"))
    except _NoAnswer as failure:
        text = f"unknown: systemd cannot be asked from here ({failure})"
        fix = f"`systemctl status {UNIT}` on the machine itself; a bridge in a container is started by the container's restart policy"
        return [Check("systemd", missing, text, fix)]
    if enabled == "not-found":
        return [Check("systemd", missing, "no unit is installed", "`kekbridge install-systemd`")]
    if active == "failed":
        return [Check("systemd", "broken", f"{UNIT} failed", f"journalctl -u {UNIT} -n 50")]
    if enabled != "enabled":
        return [Check("systemd", "warning", f"{UNIT} is {enabled}: not started at boot", f"systemctl enable {UNIT}")]
    return [Check("systemd", "ok", f"{UNIT} is {enabled}, {active}")]


class _NoAnswer(Exception):
    """systemd gave no state: no D-Bus as in most containers, not allowed, too late. The text says why."""


def _query(systemctl: str, verb: str) -> str:
    """The unit's state in systemctl's word. Raises _NoAnswer."""
    environment = {**os.environ, "LC_ALL": "C"}
    environment.pop(
        "NOTIFY_SOCKET", None
    )  # the daemon's own: systemd logs a message of any other process as not permitted
    try:
        done = subprocess.run(  # noqa: S603 - a found program with constant arguments
            [systemctl, verb, UNIT],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise _NoAnswer(f"no answer within {_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise _NoAnswer(f"{systemctl}: {error.strerror}") from None
    if state := done.stdout.strip():
        return state
    if done.stderr.startswith(_NO_SUCH_UNIT):
        return "not-found"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise _NoAnswer(clip_words(sanitize(lines[-1] if lines else "no reason given").strip(), _LONGEST_REASON))
