"""One file that holds everything worth keeping, made while the daemon runs, and the way back from it that sends no order twice.

The file is a zip: the database as of one instant, the vault's sealed parts, the settings, and a manifest with checksums. Keys that are
not sealed (the paper vault's key file, an OS keyring, systemd credentials) are not in it: whoever finds a backup opens nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

from kekbridge import __version__
from kekbridge.config import BackupSettings
from kekbridge.errors import ConfigError
from kekbridge.log import get_logger
from kekbridge.store import cancels, codec, events, order_lifecycle, settings
from kekbridge.store.connections import FILE_NAME, connect, initialise
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock

LAST_BACKUP: Final = "last_backup"
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
# Sealed, or no secret: vault.json names the master key, vault.sealed is encrypted by the passphrase.
_BESIDE: Final = ("vault.json", "vault.sealed", "config.toml")
_WORDS_OF_WAL: Final = (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm")
_LARGEST_MANIFEST: Final = 1 << 20
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What is in a backup file: when it was made, of which version, and how much."""

    file: Path
    made_at: datetime
    version: str
    alerts: int
    orders: int
    history: int
    history_hash: str
    files: Mapping[str, str]
    bytes: int


def make(data_dir: Path, file: Path, *, now: datetime) -> Backup:
    """Write a consistent backup to `file`, replacing nothing half way; works beside a running daemon. Blocks.

    Raises ConfigError when it cannot be written, StoreUnavailable or NotFound when the store cannot be read.
    """
    database = Database.open(data_dir, create=False)
    try:
        made = _write(data_dir, file, now)
        with database.transaction() as connection:
            settings.set_value(connection, LAST_BACKUP, codec.time_text(now), now=now)
    except OSError as error:
        raise ConfigError(f"the backup {file} cannot be written: {error.strerror}; name another place") from None
    finally:
        database.close_now()
    return made


def _write(data_dir: Path, file: Path, now: datetime) -> Backup:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = file.with_name(f".{file.name}.{secrets.token_hex(6)}.db")
    packed = copy.with_suffix(".zip")
    try:
        figures = _copy_database(data_dir / FILE_NAME, copy)
        members = {FILE_NAME: copy} | {name: path for name in _BESIDE if (path := data_dir / name).is_file()}
        manifest = {
            "format": _FORMAT,
            "version": __version__,
            "madeAt": codec.time_text(now),
            **figures,
            "files": {name: _digest(path) for name, path in members.items()},
        }
        os.close(os.open(packed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            for name, path in members.items():
                archive.write(path, name)
        _flush(packed)
        os.replace(packed, file)
        _flush(file.parent)
    finally:
        for left in (copy, packed, *(copy.with_name(copy.name + end) for end in ("-wal", "-shm", "-journal"))):
            left.unlink(missing_ok=True)
    return _described(file, manifest)


def _copy_database(source: Path, target: Path) -> dict[str, Any]:
    """The database as of one instant (SQLite's backup API, in one step: writers are not held up), checked."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(connect(source, read_only=True)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)
    with closing(connect(target)) as copied:
        _check(copied, target)
        history, history_hash = events.head(copied)
        alerts = copied.execute("SELECT count(*) FROM alerts").fetchone()[0]
        placed = copied.execute("SELECT count(*) FROM orders").fetchone()[0]
        copied.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"alerts": alerts, "orders": placed, "history": history, "historyHash": history_hash}


def inspect(file: Path) -> Backup:
    """Read a backup and compare every checksum. Raises ConfigError when it is none, or is damaged."""
    with _opened(file) as archive:
        manifest = _manifest(archive, file)
        for name, expected in manifest["files"].items():
            with archive.open(name) as member:
                if _digest_of(member) != expected:
                    raise _damaged(file, f"{name} does not have the checksum it was given")
        return _described(file, manifest)


def restore(file: Path, data_dir: Path, *, now: datetime) -> tuple[Backup, Path | None]:
    """Bring a backup back into a data directory; what was there is moved aside, into the returned directory.

    Orders that waited when the backup was made may have been sent since: they become unknown, and the next start asks the exchange for
    each before anything trades. Raises AlreadyRunning while a daemon runs, ConfigError when the file is no usable backup.
    """
    found = inspect(file)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with DaemonLock(data_dir):
        fresh = data_dir / f".restore.{secrets.token_hex(6)}"
        fresh.mkdir(mode=0o700)
        try:
            _unpack(file, found, fresh)
            _make_safe(fresh, found, now)
            old = _put_in_place(fresh, data_dir, now)
        except OSError as error:
            raise ConfigError(f"{data_dir} cannot be written: {error.strerror}; nothing was replaced") from None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return found, old


def _unpack(file: Path, found: Backup, fresh: Path) -> None:
    with _opened(file) as archive:
        for name in found.files:
            target = os.open(fresh / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with archive.open(name) as member, open(target, "wb") as out:
                shutil.copyfileobj(member, out, _CHUNK)


def _make_safe(fresh: Path, found: Backup, now: datetime) -> None:
    """Migrate the copy, and doubt everything that waited in it: nothing of it may be sent without asking first."""
    path = fresh / FILE_NAME
    initialise(path)
    why = f"it waited when the backup of {codec.time_text(found.made_at)} was made, and may have been sent since"
    with closing(connect(path)) as connection:
        _check(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        waited = connection.execute(
            "SELECT client_order_id FROM orders WHERE status = 'queued' AND finished_at IS NULL"
        ).fetchall()
        for (client_order_id,) in waited:
            order_lifecycle.mark_unknown_after_restore(connection, client_order_id, reason=why, now=now)
        for cancel in cancels.list_queued(connection):
            cancels.finish_cancel(connection, cancel, canceled=0, error=f"not done: {why}", now=now)
        data = {"made_at": found.made_at, "version": found.version, "doubted": len(waited)}
        events.append(connection, "restored", now=now, data=data)
        settings.set_value(connection, LAST_BACKUP, codec.time_text(found.made_at), now=now)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _put_in_place(fresh: Path, data_dir: Path, now: datetime) -> Path | None:
    """Exchange the files. The old database stays valid until the one rename that replaces it; settings that are there stay."""
    old: Path | None = None
    if (data_dir / FILE_NAME).exists():
        old = data_dir / f"before-restore-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        old.mkdir(mode=0o700)
        _fold_log(data_dir / FILE_NAME)
        os.link(data_dir / FILE_NAME, old / FILE_NAME)
        for name in _WORDS_OF_WAL:  # of the old database: beside the new one they would be taken for its own
            if (data_dir / name).exists():
                os.replace(data_dir / name, old / name)
    for name in _BESIDE:
        source, target = fresh / name, data_dir / name
        if not source.exists() or (name == "config.toml" and target.exists()):
            continue
        if target.exists() and old is not None:
            shutil.copy2(target, old / name)
        _flush(source)
        os.replace(source, target)
    _flush(fresh / FILE_NAME)
    os.replace(fresh / FILE_NAME, data_dir / FILE_NAME)
    _flush(data_dir)
    return old


def _fold_log(path: Path) -> None:
    """Fold the write-ahead log into the old database, so that it is whole by itself; a damaged one stays as it is."""
    try:
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # the reason why somebody restores


def _check(connection: sqlite3.Connection, path: Path) -> None:
    fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise ConfigError(f"the database {path.name} is damaged: {fault}; use an older backup")


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except OSError as error:
        raise ConfigError(f"the backup {file} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise _damaged(file, "it is no zip file, or was cut short") from None


def _manifest(archive: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    """What the file says of itself. Names are taken from a fixed list only: a forged one cannot write elsewhere."""
    try:
        with archive.open(_MANIFEST) as member:
            manifest = json.loads(member.read(_LARGEST_MANIFEST))
        names = set(manifest["files"])
        if manifest["format"] != _FORMAT:
            raise ConfigError(
                f"the backup {file} has format {manifest['format']}, expected {_FORMAT}; use the kekbridge that made it"
            )
    except (KeyError, ValueError, TypeError):
        raise _damaged(file, "it has no readable manifest") from None
    except zipfile.BadZipFile:
        raise _damaged(file, "its manifest does not have its checksum") from None
    if FILE_NAME not in names or not names <= {FILE_NAME, *_BESIDE} or not names <= set(archive.namelist()):
        raise _damaged(file, "its files are not those of a backup")
    return dict(manifest)


def _described(file: Path, manifest: Mapping[str, Any]) -> Backup:
    return Backup(
        file=file,
        made_at=codec.parse_time(manifest["madeAt"]),
        version=manifest["version"],
        alerts=manifest["alerts"],
        orders=manifest["orders"],
        history=manifest["history"],
        history_hash=manifest["historyHash"],
        files=dict(manifest["files"]),
        bytes=file.stat().st_size,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    try:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    except (zipfile.BadZipFile, OSError, EOFError):
        return "unreadable"
    return digest.hexdigest()


def _damaged(file: Path, what: str) -> ConfigError:
    return ConfigError(f"{file} is no usable kekbridge backup: {what}; use another one")


def _flush(path: Path) -> None:
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


log = get_logger("kekbridge.ops.nightly")

# The name of a nightly backup, and of one that was not finished.
_NAMED: Final = "kekbridge-"
_MADE_HERE: Final = re.compile(rf"{_NAMED}[0-9]{{8}}T[0-9]{{6}}Z\.zip", re.ASCII)
_HALF_MADE: Final = re.compile(rf"\.{_NAMED}[0-9]{{8}}T[0-9]{{6}}Z\.zip\.[0-9a-f]+\.(db|zip).*", re.ASCII)
_LEFT_BEHIND: Final = timedelta(days=1)


def directory_of(settings: BackupSettings, data_dir: Path) -> Path:
    """Where nightly backups go."""
    return Path(settings.dir).expanduser() if settings.dir else data_dir / "backups"


class NightlyBackup:
    """`run` once a day. The newest `keep` stay; one is removed only after a newer one is whole."""

    def __init__(self, settings: BackupSettings, data_dir: Path, clock: Callable[[], datetime]) -> None:
        self._directory = directory_of(settings, data_dir)
        self._data_dir = data_dir
        self._keep = settings.keep
        self._clock = clock

    async def run(self) -> None:
        """Raises ConfigError when it cannot be written, StoreUnavailable."""
        await asyncio.to_thread(self._run)

    def _run(self) -> None:
        from kekbridge.ops import backup  # late: once a day is seldom

        now = self._clock()
        made = backup.make(self._data_dir, self._directory / f"{_NAMED}{now:%Y%m%dT%H%M%S}Z.zip", now=now)
        log.info("backup_made", file=str(made.file), bytes=made.bytes, alerts=made.alerts)
        try:
            self._tidy(now)
        except OSError as error:
            raise ConfigError(
                f"old backups in {self._directory} cannot be removed: {error.strerror}; the new one is there"
            ) from None

    def _tidy(self, now: datetime) -> None:
        found = sorted(path for path in self._directory.iterdir() if _MADE_HERE.fullmatch(path.name))
        for old in found[: -self._keep]:
            old.unlink()
        for path in self._directory.iterdir():  # of a daemon that was killed in the middle
            if _HALF_MADE.fullmatch(path.name):
                changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                if now - changed_at > _LEFT_BEHIND:
                    path.unlink()
