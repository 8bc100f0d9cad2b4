"""Litestream, the program that copies the database elsewhere: where it is, what it is configured with, and its commands.

Version 0.5: one replica for each database, and files of changes (LTX) instead of copies of the log. It is started as a program; nothing
of it is imported. Its keys are in its environment, never in its configuration.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kekbridge.config import ReplicaSettings
from kekbridge.errors import ConfigError
from kekbridge.formatting import clip_words, sanitize
from kekbridge.store.connections import FILE_NAME

PROGRAM: Final = "litestream"
#: The one series whose configuration and answers are known here.
SERIES: Final = "0.5."
#: Litestream's own files, in the data directory: changes that are not at the target yet.
STATE_DIR: Final = f".{FILE_NAME}-{PROGRAM}"
#: How long Litestream tries to copy the rest when it is stopped.
LAST_COPY_S: Final = 3
_INSTALL: Final = "install it with `pip install 'kekbridge[replica]'`, or put a litestream 0.5 on the PATH"
# What of this process's environment it gets: keys of the target, its network and locale, nothing of kekbridge's own.
_PASSED: Final = ("AWS_", "LITESTREAM_", "SSL_CERT_")
_PASSED_NAMES: Final = frozenset(
    {"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "SSH_AUTH_SOCK", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    | {"http_proxy", "https_proxy", "no_proxy"}
)
# Litestream's S3 client fails whenever this one is set; SSL_CERT_FILE is what it reads authorities from.
_KEPT_BACK: Final = frozenset({"AWS_CA_BUNDLE"})
# The log of changes is copied into the database when it has 16 MB. Never with a lock on it until all readers are gone, which the program
# would do from 500 MB on: no alert could be stored meanwhile.
_CHECKPOINT_PAGES: Final = 4000
# What it writes before the reason why the target cannot be used.
_OPENING: Final = re.compile(r'^(Error: )?(cannot open store: )?(initialize replica client for "[^"]*": )?')


@dataclass(frozen=True, slots=True)
class Change:
    """One file of changes at the target."""

    #: The last change in it, in Litestream's own count.
    last: int
    #: When it was read from the database, UTC, whole seconds.
    at: datetime


def find_program() -> Path:
    """The installed Litestream: beside this Python, else on the PATH. Raises ConfigError if there is none."""
    for directory in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if os.access(directory / PROGRAM, os.X_OK):
            return directory / PROGRAM
    found = shutil.which(PROGRAM)
    if found is None:
        raise ConfigError(f"replica.url is set, but Litestream is not installed; {_INSTALL}")
    return Path(found)


def check_version(program: Path) -> str:
    """Its version. Blocks for some milliseconds. Raises ConfigError for one of another series, or if it cannot be started."""
    version = _run(program, ["version"], environment(os.environ)).strip().removeprefix("v")
    if not version.startswith(SERIES):
        raise ConfigError(f"{program}: found Litestream {sanitize(version)[:40]}, expected {SERIES}x; {_INSTALL}")
    return version


def configuration(settings: ReplicaSettings, database: Path, *, socket: Path | None) -> str:
    """Litestream's configuration (YAML) for this database. `socket`: where it answers the daemon. Holds no secret.

    Read it with `-no-expand-env`.
    """
    # Both the same: each look at the database that finds changes makes one file at the target.
    every = f"{round(settings.sync_s * 1000)}ms"
    replica: dict[str, object] = {"url": settings.url, "sync-interval": every}
    replica |= {
        name: value
        for name, value in (
            ("endpoint", settings.endpoint),
            ("region", settings.region),
            ("key-path", settings.ssh_key and str(Path(settings.ssh_key).expanduser())),
            ("host-key", settings.host_key),
        )
        if value
    }
    lines = [
        "# Litestream 0.5, written by `kekbridge replica --print`. Keys are in the environment of the program, not here.",
        "logging:",
        "  level: info",
        "  type: json",
        "  stderr: true",
        f"shutdown-sync-timeout: {LAST_COPY_S}s",
    ]
    if socket is not None:
        lines += ["socket:", "  enabled: true", f"  path: {_quoted(socket)}", "  permissions: 0600"]
    lines += [
        "dbs:",
        f"  - path: {_quoted(database)}",
        f"    monitor-interval: {every}",
        "    checkpoint-interval: 1m",
        f"    min-checkpoint-page-count: {_CHECKPOINT_PAGES}",
        "    truncate-page-n: 0",
        "    busy-timeout: 1s",
        "    replica:",
    ]
    lines += [f"      {name}: {_quoted(value)}" for name, value in replica.items()]
    return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def environment(own: Mapping[str, str], secrets: Mapping[str, str] | None = None) -> dict[str, str]:
    """Litestream's environment: of this process's what it needs, and the target's keys from the vault."""
    passed = {name: value for name, value in own.items() if name in _PASSED_NAMES or name.startswith(_PASSED)}
    return {**{name: value for name, value in passed.items() if name not in _KEPT_BACK}, **(secrets or {})}


def newest_change(program: Path, settings: ReplicaSettings, secrets: Mapping[str, str]) -> Change | None:
    """The newest change at the target; None if there is none. Blocks. Raises ConfigError if the target cannot be read."""
    with _configured(settings) as (config, database):
        arguments = ["ltx", "-config", str(config), "-no-expand-env", "-json", "-level", "all", str(database)]
        text = _run(program, arguments, environment(os.environ, secrets))
    try:
        found: list[dict[str, Any]] = json.loads(text)
        changes = [Change(int(one["max_txid"], 16), datetime.fromisoformat(one["timestamp"])) for one in found]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{program}: its list of files cannot be read: {sanitize(text)[:100]!r}; {_INSTALL}"
        ) from None
    return max(changes, key=lambda change: (change.last, change.at), default=None)


def restore(program: Path, settings: ReplicaSettings, secrets: Mapping[str, str], target: Path) -> None:
    """Write the newest state at the target into a new file. Blocks. Raises ConfigError; nothing is left then."""
    with _configured(settings) as (config, database):
        arguments = ["restore", "-config", str(config), "-no-expand-env", "-o", str(target), str(database)]
        try:
            _run(program, arguments, environment(os.environ, secrets), timeout_s=None)
        except ConfigError:
            for left in (target, *(target.with_name(target.name + end) for end in (".tmp", "-wal", "-shm"))):
                left.unlink(missing_ok=True)
            raise


@contextmanager
def _configured(settings: ReplicaSettings) -> Iterator[tuple[Path, Path]]:
    """A configuration file for a command about the target, and the path by which it names the database. None of them is opened."""
    with tempfile.TemporaryDirectory(prefix="kekbridge-replica-") as directory:
        config, database = Path(directory) / "litestream.yml", Path(directory) / FILE_NAME
        config.write_text(configuration(settings, database, socket=None), encoding="utf-8")
        yield config, database


def _run(program: Path, arguments: Sequence[str], environ: Mapping[str, str], *, timeout_s: float | None = 60.0) -> str:
    """Its output. Raises ConfigError with its own message if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and no argument of a stranger
            [program, *arguments],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            text=True,
            errors="replace",
            umask=0o077,
        )
    except OSError as error:
        raise ConfigError(f"{program} cannot be started: {error.strerror}; {_INSTALL}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"the replica did not answer within {timeout_s:.0f} s; check replica.url and the network"
        ) from None
    if done.returncode != 0:
        raise ConfigError(f"the replica cannot be read: {failure(done.stderr)}; check replica.url and its keys")
    return done.stdout


def failure(text: str) -> str:
    """The last line that Litestream wrote before it failed, shortened, as a clause."""
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason given"
    try:
        entry = json.loads(last)
        last = ": ".join(str(entry[name]) for name in ("msg", "error") if name in entry)
    except (ValueError, TypeError):
        pass
    return clip_words(sanitize(_OPENING.sub("", last)), 300)
