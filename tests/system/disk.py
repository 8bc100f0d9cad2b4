"""Model of a power cut: which file contents survive, computed from a trace of a process's system calls.

Reads the output of `strace -f -y -xx` for the calls in CALLS. A write is durable once an fsync or fdatasync of its file that began after it
has returned, a new or removed name once its directory was flushed. Anything else survives in random parts or not at all.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,pwrite64,write,ftruncate,fsync,fdatasync,unlink,rename"
#: Whether strace can follow the daemon: it forbids core dumps, and only root may read the memory of such a process.
CAN_TRACE_DAEMON = shutil.which("strace") is not None and os.geteuid() == 0
TRACER = ("strace", "-f", "-y", "-xx", "-s", "200000", "-e", f"trace={CALLS}")
_SECTOR = 512
_SHARED_MEMORY = "-shm"  # SQLite's WAL index is in memory and is rebuilt after a crash
_BEGUN = re.compile(r"^(\d+)\s+(\w+)\((.*)$")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")
_FILE = re.compile(r"^\d+<([^>]*)>")
_WRITTEN = re.compile(r'^\d+<([^>]*)>, "([^"]*)"(\.\.\.)?, \d+(?:, (\d+))?')
_TRUNCATED = re.compile(r"^\d+<([^>]*)>, (\d+)")
_OPENED = re.compile(r'^[^,]*, "([^"]*)", ([A-Z_|]+)')
_NAMES = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes written at an offset; without bytes, the file truncated or extended to that size."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        content.extend(bytes(max(self.offset - len(content), 0)))
        content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, rng: random.Random) -> Iterable[Change]:
        """Return the sectors of it that reached the disk, chosen at random."""
        if self.data is None:
            return [self] if rng.random() < 0.5 else []
        starts = range(0, len(self.data), _SECTOR)
        return [
            Change(self.offset + start, self.data[start : start + _SECTOR]) for start in starts if rng.random() < 0.5
        ]


@dataclass
class Disk:
    """The files of one directory: what is flushed, and what is only in the kernel's cache."""

    directory: Path
    flushed: dict[str, bytearray] = field(default_factory=dict)
    pending: defaultdict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    names: set[str] = field(default_factory=set)  # in the kernel's view
    durable_names: set[str] = field(default_factory=set)
    _flushes: dict[str, tuple[str, int]] = field(default_factory=dict)
    _position: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> Disk:
        """Read a directory that is not being written to; all of it counts as flushed."""
        files = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(_SHARED_MEMORY)]
        disk = cls(directory, {str(path): bytearray(path.read_bytes()) for path in files})
        disk.names, disk.durable_names = set(disk.flushed), set(disk.flushed)
        return disk

    def follow(self, trace: Path) -> None:
        """Apply every call of a trace, which may end in the middle of one."""
        for line in trace.read_text().splitlines():
            if begun := _BEGUN.match(line):
                self._begin(*begun.groups(), is_finished=not line.endswith("<unfinished ...>"))
            elif resumed := _RESUMED.match(line):
                self._end_flush(resumed[1], resumed[3])

    def _begin(self, thread: str, call: str, rest: str, *, is_finished: bool) -> None:
        if is_finished and " = -1 " in rest:
            return
        match call:
            case "fsync" | "fdatasync":
                path = _text(_FILE.match(rest))
                self._flushes[thread] = (path, len(self.pending[path]))
                if is_finished:
                    self._end_flush(thread, rest)
            case "pwrite64" | "write":
                self._write(rest)
            case "ftruncate" if (found := _TRUNCATED.match(rest)) and self._is_inside(_text(found)):
                self.pending[_text(found)].append(Change(int(found[2]), None))
            case "openat" if found := _OPENED.match(rest):
                self._open(_text(found), found[2])
            case "unlink" | "rename":
                self._rename([_decoded(name).decode() for name in _NAMES.findall(rest)])

    def _end_flush(self, thread: str, rest: str) -> None:
        path, count = self._flushes.pop(thread, ("", 0))
        if not rest.rstrip().endswith("= 0"):
            return
        if path == str(self.directory):
            self.durable_names = set(self.names)
        content = self.flushed.setdefault(path, bytearray()) if self._is_inside(path) else bytearray()
        for change in self.pending[path][:count]:
            change.apply(content)
        del self.pending[path][:count]

    def _write(self, rest: str) -> None:
        found = _WRITTEN.match(rest)
        path = _text(found)
        if found is None or not self._is_inside(path):
            return
        assert not found[3], "the trace does not hold all bytes of a write"
        data = _decoded(found[2])
        at = self._position.get(path, 0) if found[4] is None else int(found[4])
        if found[4] is None:
            self._position[path] = at + len(data)
        self.pending[path].append(Change(at, data))

    def _open(self, path: str, flags: str) -> None:
        if not self._is_inside(path) or "O_CREAT" not in flags:
            return
        self.names.add(path)
        self._position[path] = 0
        if "O_TRUNC" in flags:
            self.pending[path].append(Change(0, None))

    def _rename(self, names: list[str]) -> None:
        if not self._is_inside(names[0]):
            return
        self.names.discard(names[0])
        for new in names[1:]:
            self.names.add(new)
            self.flushed[new] = self.flushed.pop(names[0], bytearray())
            self.pending[new] = self.pending.pop(names[0], [])

    def _is_inside(self, path: str) -> bool:
        return path.startswith(f"{self.directory}{os.sep}") and not path.endswith(_SHARED_MEMORY)

    def after_cut(self, rng: random.Random | None) -> dict[str, bytes]:
        """Return the files that the next boot finds; without `rng` only what was flushed survives."""
        names = self.durable_names if rng is None or rng.random() < 0.5 else self.durable_names | self.names
        image = {}
        for path in names:
            content = bytearray(self.flushed.get(path, b""))
            if rng is not None:
                for part in (part for change in self.pending[path] for part in change.torn(rng)):
                    part.apply(content)
            image[path] = bytes(content)
        return image


def write_image(image: dict[str, bytes], directory: Path) -> None:
    """Replace the directory's files with these; folders stay."""
    for path in directory.rglob("*"):
        if path.is_symlink() or not path.is_dir():  # the control socket, too
            path.unlink()
    for name, content in image.items():
        path = Path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(found: re.Match[str] | None) -> str:
    return "" if found is None else _decoded(found[1]).decode()
