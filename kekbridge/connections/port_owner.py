"""Find the process that listens on a TCP port of this machine, as far as Linux shows it to this user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # state of a listening socket in /proc/net/tcp


def port_owner(port: int, *, proc: Path = _PROC) -> str:
    """`nginx (process 412)`, or `another process` where the owner is not visible: another user's, or not on Linux."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _inodes(proc / "net" / table, port)}
    if inodes:
        for process in proc.iterdir():
            if process.name.isdecimal() and _has_socket(process, inodes):
                return f"{_name(process)} (process {process.name})"
    return "another process"


def _inodes(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text("ascii").splitlines()[1:]]
    except (OSError, UnicodeDecodeError):
        return []
    return [row[9] for row in rows if len(row) > 9 and row[3] == _LISTENING and row[1].endswith(f":{port:04X}")]


def _has_socket(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(file) in inodes for file in (process / "fd").iterdir())
    except OSError:
        return False  # ended meanwhile, or not ours to see


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "a process"
