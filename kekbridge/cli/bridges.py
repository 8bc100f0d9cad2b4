"""Find the bridge that a command such as `halt` acts on, and name it.

A bridge that runs comes first: of the command's own data directory, or the service's. A data directory without a running bridge is used
only if none runs. With `--data-dir` only that directory counts. Nothing is created, and a wrong settings file is no obstacle: a running
bridge has settings of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kekbridge.cli.context import CliContext, mode_in_force, open_database, own_context
from kekbridge.cli.control import NoAccess, status_at
from kekbridge.cli.options import GlobalOptions
from kekbridge.daemon.control_socket import find_socket, identity, service_place
from kekbridge.errors import ConfigError, KekbridgeError, NotFound
from kekbridge.model import Mode
from kekbridge.store.lock import LOCK_FILE, lock_owner

if TYPE_CHECKING:
    import typer

_SOCKETS: Final = Path("/proc/net/unix")
# Bridges elsewhere that an error names at most.
_MOST_HINTS: Final = 20


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that runs, or a data directory that one has used."""

    #: Data directory and settings, and the control socket if it listens there.
    context: CliContext
    #: Its venue; None if it does not say and its data cannot be read.
    mode: Mode | None
    #: Process id of the running bridge, 0 if that is not known. None: it does not run.
    process: int | None
    #: Why its settings could not be read; None: `context` has them.
    settings_error: ConfigError | None = None

    @property
    def is_running(self) -> bool:
        """True if a bridge uses the data directory now."""
        return self.process is not None

    def seen_now(self) -> Bridge:
        """The same after a command was carried out: the bridge may have ended, or one may have started."""
        if not os.access(self.context.data_dir / LOCK_FILE, os.R_OK):
            return self  # the service's, which only it could carry out
        owner = lock_owner(self.context.data_dir)
        return replace(self, process=owner.pid if owner is not None and owner.is_daemon else None)

    def named(self, when_stopped: str = "not running") -> str:
        """`LIVE, /var/lib/kekbridge (process 412)`; without a process the parentheses hold `when_stopped`."""
        state = when_stopped if self.process is None else f"process {self.process or 'unknown'}"
        mode = f"{self.mode.value.upper()}, " if self.mode is not None else ""
        return f"{mode}{self.context.data_dir} ({state})"

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mode": None if self.mode is None else self.mode.value,
            "dataDir": str(self.context.data_dir),
            "process": self.process,
        }


def find_bridge(ctx: typer.Context, data_dir: Path | None, config: Path | None, *, may_ask: bool) -> Bridge:
    """The bridge that a state command acts on; with `may_ask` a person at a terminal chooses between several.

    Raises NotFound (exit code 3) if there is neither a bridge nor data, with where was looked; NoAccess (3) if it belongs to another user;
    ConfigError (2) if there are several.
    """
    lookup, named = _Lookup(ctx, config), _named_directory(ctx, data_dir)
    candidates = _candidates(lookup, named)
    if candidates:
        return _one_of(candidates, may_ask=may_ask)
    service = service_place()
    if named is not None:
        raise _nothing_found(lookup.elsewhere(), f"{named} only, as --data-dir says")
    own = _own_directory()
    raise _nothing_found(lookup.elsewhere(), f"{own}{_origin()}, {service.socket} and {service.data_dir}")


def find_in_use(ctx: typer.Context, data_dir: Path | None, config: Path | None) -> Bridge | None:
    """The bridge that any other command works with; None if there is none yet, so that the command's own directory is meant.

    Found like that of a state command, but $KEKBRIDGE_DATA_DIR chooses between several, and a new directory may be made. Only if nothing
    names one, a bridge that runs elsewhere is an error: it would not read what is made. Raises NotFound, NoAccess and ConfigError.
    """
    lookup, named = _Lookup(ctx, config, reads_mode=False), _named_directory(ctx, data_dir)
    candidates = _candidates(lookup, named)
    if len(candidates) > 1 and _origin():  # the environment names one of them
        candidates = [bridge for bridge in candidates if bridge.context.data_dir == _own_directory()] or candidates
    if candidates:
        return _one_of(candidates, may_ask=not ctx.params.get("as_json"))
    if named is None and not _origin() and (elsewhere := lookup.elsewhere()):
        raise _nothing_found(elsewhere, str(_own_directory()))
    return None


def _candidates(lookup: _Lookup, named: Path | None) -> list[Bridge]:
    """Bridges that run, else data directories that one has used. Raises NoAccess."""
    service = service_place()
    if named is not None:
        found = list(lookup.at_directory(named))
        return found or (list(lookup.at_service()) if named == service.data_dir else [])
    found = list(lookup.at_directory(_own_directory()))
    try:
        found = _distinct([*found, *lookup.at_service()])
    except NoAccess:
        if service.socket.parent.exists() or not any(bridge.is_running for bridge in found):
            raise
        # It does not run, since systemd has removed its runtime directory: what it has stored is not needed.
    return [bridge for bridge in found if bridge.is_running] or found


def _one_of(candidates: Sequence[Bridge], *, may_ask: bool) -> Bridge:
    if len(candidates) == 1:
        return candidates[0]
    if may_ask and sys.stdin is not None and sys.stdin.isatty():
        return _choose(candidates)
    raise ConfigError(f"{_several(candidates)}; name one with --data-dir")


def _named_directory(ctx: typer.Context, data_dir: Path | None) -> Path | None:
    """What `--data-dir` names, before or after the command."""
    given = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
    named = data_dir or given.data_dir
    return None if named is None else named.expanduser().absolute()


def _own_directory() -> Path:
    from kekbridge.config import default_data_dir

    return default_data_dir().expanduser().absolute()


def note_others(bridge: Bridge, ctx: typer.Context, config: Path | None) -> list[str]:
    """Names of other bridges that run in the usual places, and that this command does not act on."""
    lookup = _Lookup(ctx, config)
    others: list[Bridge] = []
    with suppress(KekbridgeError):
        others += lookup.at_directory(_own_directory())
    with suppress(KekbridgeError):
        others += lookup.at_service()
    return [one.named() for one in _distinct([bridge, *others])[1:] if one.is_running]


class _Lookup:
    """Looks into the places where a bridge may be."""

    def __init__(self, ctx: typer.Context, config: Path | None, *, reads_mode: bool = True) -> None:
        """`reads_mode`: read the mode of a bridge that does not run from its data."""
        self._ctx = ctx
        self._config = config
        self._reads_mode = reads_mode

    def at_directory(self, data_dir: Path) -> Iterator[Bridge]:
        """The bridge of a data directory, if it runs or has left data. Raises NoAccess."""
        try:
            socket = find_socket(data_dir)
        except PermissionError:
            raise NoAccess(data_dir) from None
        status = None if socket is None else status_at(socket)
        if status is not None and socket is not None and _is_other(status, data_dir):
            socket, status = None, None  # a link that an earlier bridge has left
        owner = lock_owner(data_dir)
        process = owner.pid if owner is not None and owner.is_daemon else None
        if status is not None:
            yield self._bridge(data_dir, status, process or 0, socket)
        elif process is not None:
            yield self._bridge(data_dir, {}, process)
        elif _has_data(data_dir):
            yield self._bridge(data_dir, {}, None)

    def at_service(self) -> Iterator[Bridge]:
        """The service's bridge, if it runs or has left data. Raises NoAccess: a service is never passed over."""
        service = service_place()
        try:
            service.socket.lstat()
        except (FileNotFoundError, NotADirectoryError):
            yield from self.at_directory(service.data_dir)
            return
        except PermissionError:
            raise NoAccess(service.socket) from None
        status = status_at(service.socket)
        if status is None:
            yield from self.at_directory(service.data_dir)
            return
        data_dir = Path(str(status.get("dataDir") or service.data_dir))
        yield self._bridge(data_dir, status, 0, service.socket)

    def elsewhere(self) -> list[Bridge]:
        """Bridges that run in other places, as far as the kernel's list of sockets shows them (Linux)."""
        found: list[Bridge] = []
        for path in _bound_sockets():
            try:
                status = status_at(path) if path.exists() else None
            except (OSError, KekbridgeError):
                continue
            if status and status.get("dataDir"):
                found.append(self._bridge(Path(str(status["dataDir"])), status, 0))
            if len(found) == _MOST_HINTS:
                break
        return _distinct(found)

    def _bridge(
        self, data_dir: Path, status: dict[str, Any], process: int | None, socket: Path | None = None
    ) -> Bridge:
        from kekbridge.config import Settings

        error: ConfigError | None = None
        try:
            context = own_context(self._ctx, data_dir, self._config)
        except ConfigError as found:
            context, error = CliContext(data_dir, Settings(), None), found
        context = replace(context, control_socket=socket)
        mode: Mode | None = None
        with suppress(KekbridgeError, OSError, ValueError):
            if "mode" in status:
                mode = Mode(status["mode"])
            elif self._reads_mode:
                with open_database(context) as database:
                    mode = mode_in_force(context, database)
        return Bridge(context, mode, int(status.get("process") or 0) or process, error)


def _nothing_found(elsewhere: Sequence[Bridge], places: str) -> NotFound:
    fix = "start one with `kekbridge serve`, or name its data directory with --data-dir"
    if elsewhere:
        bridges = "; ".join(bridge.named() for bridge in elsewhere)
        fix = f"running elsewhere: {bridges}; name its data directory with --data-dir"
    return NotFound(
        "bridge_not_found", f"no bridge and no data of one found, nothing was changed; looked in {places}; {fix}"
    )


def _choose(candidates: Sequence[Bridge]) -> Bridge:
    """Let a person at the terminal choose."""
    import typer

    from kekbridge.cli import render

    for number, bridge in enumerate(candidates, 1):
        render.note(f"{number}  {bridge.named()}")
    while True:
        chosen: int = typer.prompt("Which bridge? Its number", type=int, err=True)
        if 1 <= chosen <= len(candidates):
            return candidates[chosen - 1]


def _several(candidates: Sequence[Bridge]) -> str:
    what = "bridges run" if candidates[0].is_running else "data directories have no running bridge"
    return f"{len(candidates)} {what}: {'; '.join(bridge.named() for bridge in candidates)}"


def _distinct(bridges: Sequence[Bridge]) -> list[Bridge]:
    """Without those that another way has found already: the service's socket may be that of the own directory."""
    found: dict[object, Bridge] = {}
    for bridge in bridges:
        found.setdefault(bridge.process or identity(bridge.context.data_dir) or bridge.context.data_dir, bridge)
    return list(found.values())


def _is_other(status: dict[str, Any], data_dir: Path) -> bool:
    """True if a bridge says that it uses another data directory than this one."""
    claimed = status.get("dataDir")
    if claimed is None or Path(str(claimed)) == data_dir:
        return False
    known = identity(Path(str(claimed)))
    return known is None or known != identity(data_dir)


def _has_data(data_dir: Path) -> bool:
    from kekbridge.store.connections import FILE_NAME
    from kekbridge.store.files import MARKER

    try:
        return any((data_dir / name).exists() for name in (FILE_NAME, MARKER))
    except PermissionError:
        raise NoAccess(data_dir) from None


def _origin() -> str:
    return " (KEKBRIDGE_DATA_DIR)" if os.environ.get("KEKBRIDGE_DATA_DIR") else ""


def _bound_sockets() -> Iterator[Path]:
    """Control sockets that some process of this machine has bound. The kernel keeps the name from before `ControlSocket` renamed them."""
    try:
        lines = _SOCKETS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    seen: set[Path] = set()
    for line in lines:
        *_, name = line.split(None, 7)  # seven numbers, then the path, which may hold blanks
        path = Path(name)
        is_ours = path.name == "control.new" or (path.name.startswith("kekbridge-") and path.suffix == ".new")
        if path.is_absolute() and is_ours and path not in seen:
            seen.add(path)
            yield path.with_suffix(".sock")
