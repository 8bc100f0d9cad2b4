"""Where the control socket is: bound by the daemon with its file mode as the only gate, found by commands from the data directory alone.

It is `control.sock` in the data directory, mode 0600. Elsewhere it is when systemd provides a runtime directory ($RUNTIME_DIRECTORY: mode
0660, for the service's group), when the path is too long for a Unix socket, or when the file system has no sockets; `control.sock` is then
a symbolic link to it. Only the holder of the daemon's lock binds, so a file that is already there is left from a daemon that was killed.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kekbridge.errors import ConfigError

NAME: Final = "control.sock"
#: Longest path of a socket in bytes: the kernel takes 104 (BSD) or 108 (Linux) with the NUL.
MAX_PATH_BYTES: Final = 100
#: What the unit of `install-systemd` uses. Members of its group may use the socket although they cannot read the data directory.
SERVICE_DATA_DIR: Final = Path("/var/lib/kekbridge")
SERVICE_SOCKET: Final = Path("/run/kekbridge") / NAME
#: Environment variable of the test harness: a directory that stands for `/` in the two paths above.
SERVICE_ROOT_VARIABLE: Final = "KEKBRIDGE_TEST_SERVICE_ROOT"

_OWNER: Final = 0o600
_OWNER_AND_GROUP: Final = 0o660
_BACKLOG: Final = 128
# Prefix of the private directory that is made when no other place can be used.
_TEMPORARY: Final = "kekbridge-control-"


@dataclass(frozen=True, slots=True)
class ServicePlace:
    """Where commands look for the service of `install-systemd`."""

    #: Its data directory, which only its user and root can read.
    data_dir: Path
    #: Its control socket, for root and the members of its group.
    socket: Path
    #: `/`; in tests a directory in its place.
    root: Path = Path("/")


def service_place() -> ServicePlace:
    """Where the service is on this machine, whether or not it is installed."""
    root = Path(os.environ.get(SERVICE_ROOT_VARIABLE) or "/")
    data_dir, socket = (root / path.relative_to("/") for path in (SERVICE_DATA_DIR, SERVICE_SOCKET))
    return ServicePlace(data_dir, socket, root)


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    mode: int


class ControlSocket:
    """The socket of one daemon: `bind` once, then `close`."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str]) -> None:
        self._data_dir = data_dir
        self._environment = environment
        self._bound: Path | None = None

    def bind(self) -> socket.socket:
        """Listen. The file appears at its path with its final mode, in one step. Raises ConfigError if no place can be used."""
        failures: list[str] = []
        if self._link.is_symlink():  # left from a daemon that was killed
            _remove_temporary(Path(os.readlink(self._link)))
        for place in self._places():
            try:
                listening = _bind(place)
            except OSError as error:
                failures.append(f"{place.path}: {error.strerror or error}")
                continue
            self._bound = place.path
            try:
                if place.path != self._link:
                    _link(self._link, place.path)
            except OSError as error:
                listening.close()
                self.close()
                raise ConfigError(f"{self._link} cannot be created: {error.strerror}; use another --data-dir") from None
            return listening
        raise ConfigError(f"the control socket cannot be created ({'; '.join(failures)}); use another --data-dir")

    def close(self) -> None:
        """Remove the socket's file, so that commands no longer find it. The listening socket is closed by its server."""
        if self._bound is None:
            return
        for path in dict.fromkeys((self._link, self._bound)):
            with suppress(OSError):
                path.unlink()
        _remove_temporary(self._bound)
        self._bound = None

    @property
    def _link(self) -> Path:
        return self._data_dir / NAME

    def _places(self) -> Iterator[_Place]:
        """Where it may be, best first; a place whose path is too long is left out."""
        runtime = self._environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        personal = self._environment.get("XDG_RUNTIME_DIR", "")
        digest = hashlib.sha256(os.fsencode(self._data_dir.resolve())).hexdigest()[:16]
        places = [_Place(Path(runtime) / NAME, _OWNER_AND_GROUP)] if runtime else []
        places.append(_Place(self._link, _OWNER))
        if personal:
            places.append(_Place(Path(personal) / f"kekbridge-{digest}.sock", _OWNER))
        for place in places:
            if len(os.fsencode(place.path)) <= MAX_PATH_BYTES:
                yield place
        yield _Place(Path(tempfile.mkdtemp(prefix=_TEMPORARY)) / NAME, _OWNER)


def find_socket(data_dir: Path) -> Path | None:
    """The path of a data directory's control socket; None if no daemon has left one. Raises PermissionError if it cannot be seen."""
    link = data_dir / NAME
    try:
        link.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        service = service_place()
        if data_dir == service.data_dir and service.socket.exists():
            return service.socket
        raise
    return Path(os.readlink(link)) if link.is_symlink() else link


def identity(data_dir: Path) -> str | None:
    """Device and inode of a data directory: tells whether two processes mean the same one. None if it cannot be seen."""
    try:
        status = data_dir.stat()
    except OSError:
        return None
    return f"{status.st_dev}:{status.st_ino}"


def _bind(place: _Place) -> socket.socket:
    """Bind under another name and rename: the path never lacks a socket that listens, and never has another mode than its own."""
    new = place.path.with_suffix(".new")
    new.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o777 & ~place.mode)
        try:
            listening.bind(str(new))
        finally:
            os.umask(before)
        new.chmod(place.mode)
        listening.listen(_BACKLOG)
        listening.settimeout(0)
        os.replace(new, place.path)
    except BaseException:
        listening.close()
        new.unlink(missing_ok=True)
        raise
    return listening


def _remove_temporary(path: Path) -> None:
    """Remove a socket and its directory if `ControlSocket` made the directory."""
    if path.parent.name.startswith(_TEMPORARY):
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def _link(link: Path, target: Path) -> None:
    new = link.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, link)
