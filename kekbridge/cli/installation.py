"""The installed service: versions of the program under /opt/kekbridge, its system user, its units and its credentials.

`versions/VERSION` holds one copy each, and the link `current` names the one that the unit starts: switching is one rename. Everything
belongs to root; the service can change nothing of it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pwd
import secrets
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kekbridge.cli.form import EXECUTABLE, form
from kekbridge.cli.program_copy import Account, RunningProgram, run_as
from kekbridge.cli.units import CREDENTIALS, NAME, SERVICE, SOCKET, UNPACK_DIR, is_hidden
from kekbridge.daemon.control_socket import SERVICE_DATA_DIR, service_place
from kekbridge.errors import ConfigError, NotFound, OperatorError

MASTER_KEY: Final = "master-key"
_LONGEST_S: Final = 1000.0  # a start may migrate a large database, for as long as the unit allows


class InstallFailed(OperatorError):
    """A step of installing, upgrading or removing the service failed; exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__("install_failed", message)


class NeedsRoot(OperatorError):
    """Only root may do that; exit code 3."""

    exit_code = 3

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(
            "needs_root", f"only root may change the service, nothing was changed; run: sudo {shlex.join(command)}"
        )


@dataclass(frozen=True, slots=True)
class Installation:
    """The service's files on this machine."""

    #: `/`; in tests a directory in its place.
    root: Path

    @classmethod
    def here(cls) -> Installation:
        """That of this machine, whether or not it is installed."""
        return cls(service_place().root)

    @property
    def base(self) -> Path:
        """Everything that belongs to the program."""
        return self.root / "opt" / NAME

    @property
    def program(self) -> Path:
        """What the unit starts."""
        return self.base / "current" / "bin" / NAME

    @property
    def units(self) -> Path:
        """Directory of the units."""
        return self.root / "etc" / "systemd" / "system"

    @property
    def config(self) -> Path:
        """The settings, unless the installation was given others."""
        return self.root / "etc" / f"{NAME}.toml"

    @property
    def link(self) -> Path:
        """The command, where every user's shell finds it."""
        return self.root / "usr" / "local" / "bin" / NAME

    @property
    def credentials(self) -> Path:
        """Directory of the encrypted credentials."""
        return self.root / CREDENTIALS.relative_to("/")

    @property
    def data_dir(self) -> Path:
        """The service's data."""
        return self.root / SERVICE_DATA_DIR.relative_to("/")

    @property
    def _current(self) -> Path:
        return self.base / "current"

    @property
    def _lock(self) -> Path:
        return self.base / ".lock"

    @property
    def _record(self) -> Path:
        return self.base / "service.json"

    def version(self) -> str | None:
        """Name of the version that the unit starts; None: nothing is installed."""
        try:
            return Path(os.readlink(self._current)).name
        except OSError:
            return None

    def directory_of(self, version: str) -> Path:
        """Where a version is."""
        return self.base / "versions" / version

    def check_base(self) -> None:
        """Raise InstallFailed if the program's directory is not an installation's: root runs what is in it, and removes all of it."""
        try:
            found = self.base.lstat()
            is_roots = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            is_ours = is_roots and (self._lock.is_file() or not any(self.base.iterdir()))
        except FileNotFoundError:
            return
        if not is_ours:
            raise InstallFailed(
                f"{self.base}: found files that install-systemd did not put there, nothing was changed; move them, for example to"
                f" {self.base}-old, and run the command again"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other command changes the installation meanwhile. Raises InstallFailed."""
        self.check_base()
        try:
            self.base.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.base.chmod(0o755)
            file = os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InstallFailed(f"{self.base} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise InstallFailed(f"another command is changing {self.base}; wait until it has ended") from None
        finally:
            os.close(file)

    # ------------------------------------------------------------------------------------------------------- versions
    def add(self, running: RunningProgram, account: Account | None) -> str:
        """Copy the running program and return its version; one that is there already is used. Raises ConfigError."""
        version = running.version_id
        final = self.directory_of(version)
        if final.exists():
            return version
        target = final.with_name(f".{version}.new")
        shutil.rmtree(target, ignore_errors=True)
        try:
            earlier = None if (current := self.version()) is None else self.directory_of(current)
            running.copy(target, final, account, earlier=earlier)
            target.rename(final)
            final.parent.chmod(0o755)
        except OSError as error:
            raise InstallFailed(f"{final} cannot be written: {error.strerror}") from None
        finally:
            shutil.rmtree(target, ignore_errors=True)
        return version

    def switch(self, version: str) -> None:
        """Let the unit start this version from its next start on."""
        _replace_link(self._current, Path("versions") / version)

    def remove_versions(self, *, but: set[str]) -> None:
        """Remove the other versions, and what an interrupted command left."""
        for directory in (self.base / "versions").iterdir():
            if directory.name not in but:
                shutil.rmtree(directory, ignore_errors=True)

    def add_link(self) -> bool:
        """Make the command findable; False if another program has the name."""
        if not self._is_our_link() and os.path.lexists(self.link):
            return False
        self.link.parent.mkdir(parents=True, exist_ok=True)
        _replace_link(self.link, self.program)
        return True

    def remove_link(self) -> None:
        """Undo `add_link`."""
        if self._is_our_link():
            self.link.unlink()

    def _is_our_link(self) -> bool:
        return self.link.is_symlink() and os.readlink(self.link) == str(self.program)

    # --------------------------------------------------------------------------------------------------- units, settings
    def read_units(self) -> dict[str, str]:
        """The units that are there, by file name."""
        return {name: path.read_text() for name in (SERVICE, SOCKET) if (path := self.units / name).is_file()}

    def write_units(self, texts: Mapping[str, str]) -> list[Path]:
        """Write the units, each in one step. Raises ConfigError."""
        return write_units(self.units, texts)

    def remove_units(self) -> None:
        """Remove them."""
        for name in (SERVICE, SOCKET):
            (self.units / name).unlink(missing_ok=True)

    def recorded_config(self) -> Path | None:
        """The settings file that the service was installed with."""
        try:
            named = json.loads(self._record.read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError):
            return self.config if self.config.is_file() else None
        return None if named is None else Path(str(named))

    def record(self, config: Path | None) -> None:
        """Remember what `recorded_config` returns."""
        self._record.write_text(json.dumps({"config": None if config is None else str(config)}) + "\n", "utf-8")

    def config_for_service(self, config: Path, account: Account) -> Path:
        """The same settings where the service can read them: the file itself, else a copy in /etc. Raises ConfigError."""
        path = config.resolve()
        as_seen = Path("/") / path.relative_to(self.root) if path.is_relative_to(self.root) else path
        if not is_hidden(as_seen) and run_as(["test", "-r", str(path)], account).returncode == 0:
            return path
        text = path.read_bytes()
        if self.config.exists() and self.config.read_bytes() != text:
            raise ConfigError(
                f"the service cannot read {path}, and {self.config} holds other settings; merge them there, then leave --config out"
            )
        self.config.write_bytes(text)
        self.config.chmod(0o644)
        return self.config

    def missing_credentials(self, names: Sequence[str]) -> list[str]:
        """Credentials of the unit that are not there."""
        return [name for name in names if not (self.credentials / name).exists()]

    def create_master_key(self) -> None:
        """Make the credential that everything else is encrypted with, unless there is one. Raises InstallFailed."""
        file = self.credentials / MASTER_KEY
        if file.exists():
            return
        if shutil.which("systemd-creds") is None:
            raise InstallFailed(
                "systemd-creds was not found: systemd 250 or later is needed to keep the service's secrets"
            )
        self.credentials.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.credentials.chmod(0o700)
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        call(["systemd-creds", "encrypt", f"--name={MASTER_KEY}", "-", str(file)], typed=key)


class Systemd:
    """The system's service manager."""

    @property
    def runs(self) -> bool:
        """True if this machine was booted with it (sd_booted(3))."""
        return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None

    def reload(self) -> None:
        """Read the units again."""
        if self.runs:
            call(["systemctl", "daemon-reload"])

    def is_active(self) -> bool:
        """True if the service runs, or is starting."""
        if not self.runs:
            return False
        state = call(["systemctl", "is-active", SERVICE], check=False).stdout.strip()
        return state in ("active", "activating", "reloading")

    def check_user_is_free(self, units: Mapping[str, str]) -> None:
        """Raise InstallFailed while a service of version 0.1 runs: its user has the name, and is gone once it has stopped."""
        if "\nDynamicUser=yes\n" in units.get(SERVICE, "") and self.is_active():
            raise InstallFailed(
                f"the service of version 0.1 runs, nothing was changed; run `sudo systemctl stop {SOCKET} {SERVICE}`, then this"
                " command again: it keeps data and credentials"
            )

    def start(self) -> None:
        """Start socket and service now and at each boot; returns when the bridge is ready. Raises InstallFailed."""
        call(["systemctl", "enable", "--quiet", SOCKET, SERVICE])
        call(["systemctl", "start", SOCKET])
        self._start_job("start")

    def restart(self) -> None:
        """Stop the service and start it again; alerts wait in the socket. Returns when the bridge is ready. Raises InstallFailed."""
        self._start_job("restart")

    def stop(self, *units: str) -> None:
        """Stop units; returns when they have ended."""
        call(["systemctl", "stop", *units])

    def disable(self) -> None:
        """Stop both units, and start them no more at boot."""
        call(["systemctl", "disable", "--quiet", *(["--now"] if self.runs else []), SOCKET, SERVICE], check=False)

    def _start_job(self, verb: str) -> None:
        done = call(["systemctl", verb, SERVICE], check=False)
        if done.returncode != 0:
            reason = self._last_line() or (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise InstallFailed(f"{SERVICE} did not start: {reason}; see `journalctl -u {NAME} -n 50`")

    @staticmethod
    def _last_line() -> str:
        """What kekbridge itself said last."""
        done = call(["journalctl", "-u", NAME, "-n", "20", "-o", "cat", "--no-pager"], check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"{NAME}: ")]
        return lines[-1].removeprefix(f"{NAME}: ") if lines else ""


def need_root(command: Sequence[str]) -> None:
    """Raise NeedsRoot, with the line to type, unless this is root."""
    if os.geteuid() != 0:
        raise NeedsRoot(command)


def find_account() -> Account | None:
    """The service's user, if there is one."""
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def ensure_account() -> Account:
    """The service's user and group, created if they are missing. Raises InstallFailed."""
    if (found := find_account()) is not None:
        return found
    if shutil.which("useradd") is not None:
        options = ["--system", "--user-group", "--home-dir", str(SERVICE_DATA_DIR), "--no-create-home"]
        call(["useradd", *options, "--shell", "/usr/sbin/nologin", NAME])
    elif shutil.which("systemd-sysusers") is not None:
        call(["systemd-sysusers", "--inline", f'u {NAME} - "kekbridge" {SERVICE_DATA_DIR}'])
    else:
        raise InstallFailed(
            f"neither useradd nor systemd-sysusers was found; create the system user {NAME} and its group"
        )
    created = find_account()
    if created is None:
        raise InstallFailed(f"the system user {NAME} was created, but is not found; see `getent passwd {NAME}`")
    return created


def check_program(program: Path, version: str, account: Account, config: Path | None) -> list[str]:
    """Run the copy as the service's user, on the service's settings; returns what was checked. Raises InstallFailed."""
    environment = {"HOME": str(SERVICE_DATA_DIR), "KEKBRIDGE_DATA_DIR": str(SERVICE_DATA_DIR)}
    environment |= {"KEKBRIDGE_VAULT_BACKEND": "directory"}
    if form() == EXECUTABLE:
        environment["TMPDIR"] = UNPACK_DIR
    shown = run_as([str(program), "--version"], account, **environment)
    if shown.returncode != 0 or not shown.stdout.startswith(f"{NAME} {version.rpartition('-')[0]}"):
        raise InstallFailed(
            f"the user {NAME} cannot run {program}: {_last(shown)}; look for a noexec mount, or a closed directory"
        )
    checked = [f"the user {NAME} can run it"]
    arguments = ["config", "check"] if config is None else ["config", "check", "--config", str(config)]
    settings = run_as([str(program), *arguments], account, **environment)
    if settings.returncode != 0:
        raise InstallFailed(f"the service would not start: {_last(settings).removeprefix(f'{NAME}: ')}")
    if config is not None:
        checked.append(f"it accepts {config}")
    return checked


def write_units(directory: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write units into a directory, each in one step. Raises ConfigError."""
    written = []
    for name, text in texts.items():
        path = directory / name
        new = directory / f".{name}.new"
        try:
            new.write_text(text, encoding="utf-8")
            new.chmod(0o644)
            os.replace(new, path)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; run with sudo, or use --print") from None
        written.append(path)
    return written


def call(command: Sequence[str], *, typed: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the system's programs. Raises InstallFailed if it fails (`check`) or cannot be run."""
    try:
        done = subprocess.run(  # noqa: S603 - constant programs
            command, input=typed, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallFailed(f"`{shlex.join(command)}` failed: {error}") from None
    if check and done.returncode != 0:
        raise InstallFailed(f"`{shlex.join(command)}` failed: {_last(done)}")
    return done


def wait_for(condition: object, within_s: float) -> bool:
    """Wait until `condition()` is true; False if it is not in time."""
    assert callable(condition)  # noqa: S101
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _replace_link(link: Path, target: Path) -> None:
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, link)


def ready_status(socket: Path) -> dict[str, object]:
    """What the bridge at the service's control socket says; empty if none answers."""
    from kekbridge.cli.control import status_at

    try:
        return dict(status_at(socket) or {})
    except NotFound:
        return {}
