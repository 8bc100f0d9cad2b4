"""Backup to one file while the daemon runs, on demand and nightly; restore without sending an order twice.

The file is a zip: the database as of one instant, the vault's sealed parts, the settings, the master key sealed under the key of backups
(vault/recovery.py), and a manifest with checksums; its last bytes authenticate all others (backup_file.py). Keys that are not sealed (the
paper vault's key file, an OS keyring, systemd credentials) are left out: a backup alone opens nothing.
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
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

from kekbridge import __version__
from kekbridge.config import BackupSettings
from kekbridge.errors import ConfigError
from kekbridge.execution import transitions
from kekbridge.execution.book import with_ms_times
from kekbridge.log import get_logger
from kekbridge.model import OrderStatus
from kekbridge.ops import backup_file
from kekbridge.store import cancels, codec, journal, orders, projector, settings
from kekbridge.store.connections import FILE_NAME, connect, copies_before_migration, initialise
from kekbridge.store.database import Database
from kekbridge.store.facts import OrderFact, order_entry
from kekbridge.store.lock import DaemonLock
from kekbridge.store.schema import check_schema, drop_replication_tables
from kekbridge.vault.base import ADDED_FILE, SEALED_FILE
from kekbridge.vault.recovery import BackupKey

log = get_logger("kekbridge.ops.nightly")

LAST_BACKUP: Final = "last_backup"
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 2
_UNAUTHENTICATED_FORMAT: Final = 1  # of version 0.1
_MASTER_KEY: Final = "master-key.sealed"
# Files saved with the database. None holds an unsealed secret: vault.json names the master key, vault.sealed and vault.added are encrypted.
_VAULT_RECORD: Final = "vault.json"
_OTHER_FILES: Final = (_VAULT_RECORD, SEALED_FILE, ADDED_FILE, "config.toml")
_WAL_FILES: Final = (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm")
_MAX_MANIFEST: Final = 1 << 20
_CHUNK: Final = 1 << 20
# File names of nightly backups and of unfinished ones.
_PREFIX: Final = "kekbridge-"
_NIGHTLY_FILE: Final = re.compile(rf"{_PREFIX}[0-9]{{8}}T[0-9]{{6}}Z\.zip", re.ASCII)
_UNFINISHED_FILE: Final = re.compile(rf"\.{_PREFIX}[0-9]{{8}}T[0-9]{{6}}Z\.zip\.[0-9a-f]+\.(db|zip).*", re.ASCII)
_UNFINISHED_AGE: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """Contents of a backup file."""

    #: Path of the zip file.
    file: Path
    #: Instant of the database copy, UTC.
    made_at: datetime
    #: kekbridge version that wrote it.
    version: str
    #: Number of alerts.
    alerts: int
    #: Number of orders.
    orders: int
    #: Sequence number of the last history event.
    history: int
    #: Hash of the last history event.
    history_hash: str
    #: SHA-256 in hex by file name.
    files: Mapping[str, str]
    #: Size of the zip file in bytes.
    bytes: int
    #: Every byte was written under the key that it was read with.
    is_authenticated: bool


def make(data_dir: Path, file: Path, *, now: datetime, key: BackupKey) -> Backup:
    """Write a consistent backup to `file`, atomically, also while a daemon runs. Blocks. The caller records it (`record`).

    `key`: from the data directory's master key.

    Its directory must exist. An earlier backup of that name is replaced, another file is not. Raises ConfigError if it cannot be written,
    StoreUnavailable or NotFound if the store cannot be read.
    """
    _refuse_to_replace(file)
    Database.open(data_dir, create=False).close_now()
    try:
        return _write(data_dir, file, now, key)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the backup {file} cannot be written: {_reason(error)}; choose another path") from None


def _refuse_to_replace(file: Path) -> None:
    """Raise ConfigError if there is something else than an empty file or an earlier backup, which may be from version 0.1."""
    try:
        info = file.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"the backup {file} cannot be written: {error.strerror}; choose another path") from None
    if not stat.S_ISREG(info.st_mode) or (info.st_size and not _is_backup(file)):
        kind = "a directory" if stat.S_ISDIR(info.st_mode) else "a file that is no backup of kekbridge"
        raise ConfigError(f"{file}: found {kind}, expected a new name or an earlier backup; name another file")


def _is_backup(file: Path) -> bool:
    try:
        with backup_file.open_archive(file, FILE_NAME) as archive:
            return {_MANIFEST, FILE_NAME} <= set(archive.namelist())
    except ConfigError:
        return False


def _reason(error: OSError | sqlite3.Error) -> str:
    """Why a file could not be written; SQLite has errors of its own for a full disk."""
    return str((isinstance(error, OSError) and error.strerror) or error)


def record(connection: sqlite3.Connection, made_at: datetime) -> None:
    """Record when the last backup was made, for `kekbridge doctor`."""
    settings.set_value(connection, LAST_BACKUP, codec.time_text(made_at), now=made_at)


def make_unnamed(data_dir: Path, directory: Path, *, now: datetime, key: BackupKey) -> tuple[Backup, IO[bytes]]:
    """A consistent backup as an open file without a name: nothing of it is left once it is closed, or the process ends. Blocks.

    `directory`: on a disk with room for a copy of the database; it is created. Its `file` has the name that a saved one should get.
    Raises ConfigError if it cannot be written, StoreUnavailable or NotFound if the store cannot be read.
    """
    Database.open(data_dir, create=False).close_now()
    file = directory / f"{_PREFIX}{now:%Y%m%dT%H%M%S}Z.zip"
    opened: list[IO[bytes]] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _write(data_dir, file, now, key, lambda packed: opened.append(packed.open("rb")))
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"no backup can be written to {directory}: {_reason(error)}; free space, or set backup.dir"
        ) from None
    return made, opened[0]


def make_unauthenticated(database: Path, file: Path, *, now: datetime) -> None:
    """Write a backup without a MAC from one database file, for `restore --unauthenticated` of the version that the file belongs to.

    For an upgrade that is undone. Its authenticity is that of its directory. Raises ConfigError.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".kekbridge-", dir=file.parent) as directory:
            shutil.copyfile(database, Path(directory) / FILE_NAME)
            _write(Path(directory), file, now, None)
    except OSError as error:
        raise ConfigError(f"the backup {file} cannot be written: {error.strerror}") from None


@contextmanager
def copy_as_backup(copy: Path, data_dir: Path) -> Iterator[Path]:
    """The copy of the database of before a migration as a backup without a MAC, until the block ends: for the way back to this version.

    Only one that lies in the data directory, which is as genuine as the database beside it. Raises ConfigError for any other file.
    """
    if copy.resolve() not in (each.resolve() for each in copies_before_migration(data_dir)):
        raise ConfigError(
            f"{copy} is a database, expected a file that `kekbridge backup` wrote, or a copy before-migration-….db in {data_dir}"
        )
    made_at = datetime.fromtimestamp(copy.stat().st_mtime, UTC)
    try:
        with tempfile.TemporaryDirectory(prefix=".restore.", dir=data_dir) as directory:
            database, packed = Path(directory) / FILE_NAME, Path(directory) / "copy.zip"
            shutil.copyfile(copy, database)
            _check_database(database)
            initialise(database)  # the copy may be of before several upgrades
            _write(Path(directory), packed, made_at, None)
            yield packed
    except OSError as error:
        raise ConfigError(f"{data_dir} cannot be written: {error.strerror}; nothing was replaced") from None


def _write(
    data_dir: Path, file: Path, now: datetime, key: BackupKey | None, keep: Callable[[Path], object] | None = None
) -> Backup:
    """Write a backup under a temporary name, then replace `file` by it, or give it to `keep` and remove it."""
    if not file.parent.is_dir():  # a typing error, or a disk that is not mounted
        raise ConfigError(f"the directory {file.parent} does not exist; create it, or name another file")
    copy = file.with_name(f".{file.name}.{secrets.token_hex(6)}.db")
    packed = copy.with_suffix(".zip")
    try:
        counts = _copy_database(data_dir / FILE_NAME, copy)
        members = {FILE_NAME: copy} | {name: path for name in _OTHER_FILES if (path := data_dir / name).is_file()}
        digests = {name: _digest(path) for name, path in members.items()}
        manifest = {
            "format": _UNAUTHENTICATED_FORMAT if key is None else _FORMAT,
            "version": __version__,
            "madeAt": codec.time_text(now),
            **({} if key is None else {"keyId": key.id}),
            **counts,
            "files": digests
            if key is None
            else digests | {_MASTER_KEY: hashlib.sha256(key.sealed_master or b"").hexdigest()},
        }
        os.close(os.open(packed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            for name, path in members.items():
                archive.write(path, name)
            if key is not None:
                archive.writestr(_MASTER_KEY, key.sealed_master or b"")
                backup_file.reserve_mac(archive)
        if key is not None:
            backup_file.write_mac(packed, key)
        size = packed.stat().st_size
        if keep is not None:
            keep(packed)
        else:
            _flush(packed)
            os.replace(packed, file)
            _flush(file.parent)
    finally:
        for left in (copy, packed, *(copy.with_name(copy.name + end) for end in ("-wal", "-shm", "-journal"))):
            left.unlink(missing_ok=True)
    return _described(file, manifest, size, is_authenticated=key is not None)


def _copy_database(source: Path, target: Path) -> dict[str, Any]:
    """Copy the database as of one instant and check the copy. SQLite's backup API in one step does not block writers."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(connect(source, read_only=True)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)
        drop_replication_tables(writer)
    with closing(connect(target)) as copied:
        _check(copied, target)
        history, history_hash = journal.head(copied)
        alerts = copied.execute("SELECT count(*) FROM alerts").fetchone()[0]
        orders = copied.execute("SELECT count(*) FROM orders").fetchone()[0]
        copied.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"alerts": alerts, "orders": orders, "history": history, "historyHash": history_hash}


def inspect(file: Path, key: BackupKey | None) -> Backup:
    """Check a whole backup, and unpack nothing: sizes, every byte against the MAC, every file against its checksum.

    `key` None: without the MAC, for backups of version 0.1 and those whose code is lost. Raises ConfigError for anything but a backup that
    was written under this key.
    """
    with backup_file.open_archive(file, FILE_NAME) as archive:
        manifest = _manifest(archive, file)
        if key is not None:
            _authenticate(file, manifest, key)
        for name, expected in manifest["files"].items():
            with _open_member(archive, name, file) as member:
                if _digest_of(member) != expected:
                    raise backup_file.damaged(file, f"{name} does not match its checksum")
        return _described(file, manifest, file.stat().st_size, is_authenticated=key is not None)


def _authenticate(file: Path, manifest: Mapping[str, Any], key: BackupKey) -> None:
    if backup_file.is_authentic(file, key):
        return
    if not backup_file.has_mac(file):
        raise ConfigError(
            f"{file} carries no MAC: it is from version 0.1, or a stranger made it; if you know where it comes from, use --unauthenticated"
        )
    if manifest.get("keyId") != key.id:
        raise ConfigError(
            f"{file} was not written under this key ({key.id}) but under {str(manifest.get('keyId'))[:16]!r}; use the recovery code of the"
            " bridge that wrote it (`kekbridge backup key`)"
        )
    raise backup_file.damaged(file, "it was changed after it was written: its MAC does not match")


def sealed_master_key(file: Path) -> bytes | None:
    """The master key in a backup, as `BackupKey.open_master` opens it; None in those of version 0.1. Raises ConfigError."""
    with backup_file.open_archive(file, FILE_NAME) as archive:
        if _MASTER_KEY not in _manifest(archive, file)["files"]:
            return None
        with _open_member(archive, _MASTER_KEY, file) as member:
            return member.read()


def brings_its_vault(file: Path) -> bool:
    """True if the vault with the master key is in the backup, encrypted by a passphrase. Raises ConfigError."""
    with backup_file.open_archive(file, FILE_NAME) as archive:
        if not {_VAULT_RECORD, SEALED_FILE} <= _manifest(archive, file)["files"].keys():
            return False
        with _open_member(archive, _VAULT_RECORD, file) as member:
            try:
                return bool(json.load(member)["vault"] == "file")
            except (ValueError, TypeError, KeyError):
                raise backup_file.damaged(file, f"{_VAULT_RECORD} cannot be read") from None


def restore(file: Path, data_dir: Path, *, now: datetime, key: BackupKey | None) -> tuple[Backup, Path | None]:
    """Restore a backup into a data directory; files already there are moved into the returned directory. `key`: see `inspect`.

    Nothing of what is there changes before all of the backup is checked, its database's schema included. Orders queued when it was made may
    have been sent since: they become unknown, and the next start queries the exchange for each before it trades. Raises AlreadyRunning
    while a daemon runs, ConfigError if the file is not a usable backup.
    """
    found = inspect(file, key)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with DaemonLock(data_dir, is_daemon=False):
        fresh = data_dir / f".restore.{secrets.token_hex(6)}"
        fresh.mkdir(mode=0o700)
        try:
            _unpack(file, found, fresh)
            _check_database(fresh / FILE_NAME)
            _invalidate_queue(fresh, found, now)
            old = swap_files(fresh, data_dir, now)
        except OSError as error:
            raise ConfigError(f"{data_dir} cannot be written: {error.strerror}; nothing was replaced") from None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return found, old


def _unpack(file: Path, found: Backup, fresh: Path) -> None:
    with backup_file.open_archive(file, FILE_NAME) as archive:
        names = [name for name in found.files if name != _MASTER_KEY]
        needed = sum(archive.getinfo(name).file_size for name in names)
        if needed > shutil.disk_usage(fresh).free:
            raise ConfigError(
                f"the backup {file} needs {needed:,} bytes, more than are free in {fresh.parent}; nothing was replaced"
            )
        for name in names:
            target = os.open(fresh / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            digest = hashlib.sha256()
            with _open_member(archive, name, file) as member, open(target, "wb") as out:
                while chunk := member.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != found.files[name]:
                raise backup_file.damaged(file, f"{name} changed while it was read")


def _check_database(path: Path) -> None:
    """Raise ConfigError for a database that is damaged, or whose schema is not kekbridge's. Runs nothing that it holds."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        check_schema(connection, path.name)
    with closing(connect(path, read_only=True)) as connection:
        _check(connection, path)


def _invalidate_queue(fresh: Path, found: Backup, now: datetime) -> None:
    """Mark the copy's queued orders unknown and finish its queued cancels, since they may have been sent meanwhile."""
    reason = f"queued when the backup of {codec.time_text(found.made_at)} was made, may have been sent since"

    def note(connection: sqlite3.Connection, doubted: int) -> None:
        data = {"made_at": found.made_at, "version": found.version, "doubted": doubted}
        journal.append(connection, "restored", now=now, data=data)
        settings.set_value(connection, LAST_BACKUP, codec.time_text(found.made_at), now=now)

    invalidate_queue(fresh / FILE_NAME, reason=reason, note=note, now=now)


def invalidate_queue(
    path: Path, *, reason: str, note: Callable[[sqlite3.Connection, int], None], now: datetime
) -> None:
    """Migrate a copy of a database; mark its queued orders unknown and finish its queued cancels, because of `reason`.

    `note` gets the connection and the number of these orders, in the same transaction. Raises ConfigError for a damaged copy.
    """
    initialise(path)
    with closing(connect(path)) as connection:
        _check(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        projector.catch_up(connection)
        queued = [order for order in orders.unfinished(connection) if order.status is OrderStatus.QUEUED]
        for order in queued:
            doubted = transitions.unknown_after_restore(order, reason=reason, now=now)
            fact = OrderFact(before=order, after=with_ms_times(doubted), at=codec.truncate_to_ms(now))
            projector.record(connection, order_entry(fact))
        for cancel in cancels.list_queued(connection):
            ended = cancels.end_entry(
                cancel, canceled=0, error=f"not executed: {reason}", now=codec.truncate_to_ms(now)
            )
            projector.record(connection, ended)
        note(connection, len(queued))
        projector.skip(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def swap_files(fresh: Path, data_dir: Path, now: datetime) -> Path | None:
    """Swap in the restored files; returns the directory with those that were there. Raises OSError.

    The old database stays valid until one rename replaces it; an existing config.toml is kept.
    """
    old: Path | None = None
    if (data_dir / FILE_NAME).exists():
        old = data_dir / f"before-restore-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        old.mkdir(mode=0o700)
        _checkpoint(data_dir / FILE_NAME)
        os.link(data_dir / FILE_NAME, old / FILE_NAME)
        for name in _WAL_FILES:  # beside the new database SQLite would take them for its own
            if (data_dir / name).exists():
                os.replace(data_dir / name, old / name)
    for name in _OTHER_FILES:
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


def _checkpoint(path: Path) -> None:
    """Checkpoint the write-ahead log, so that the old database file is complete by itself; a damaged one is left as it is."""
    try:
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # a damaged database may be the reason for the restore


def _check(connection: sqlite3.Connection, path: Path) -> None:
    fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise ConfigError(f"the database {path.name} is damaged: {fault}; use an older backup")


def _open_member(archive: zipfile.ZipFile, name: str, file: Path) -> IO[bytes]:
    try:
        return archive.open(name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        raise backup_file.damaged(file, f"{name} cannot be read") from None


def _manifest(archive: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    """Read the manifest. Only known file names are accepted, so that a forged one cannot write elsewhere."""
    try:
        with archive.open(_MANIFEST) as member:
            manifest = json.loads(member.read(_MAX_MANIFEST))
        names = set(manifest["files"])
        if manifest["format"] not in (_FORMAT, _UNAUTHENTICATED_FORMAT):
            raise ConfigError(
                f"the backup {file} has format {manifest['format']}, expected {_FORMAT}; use the kekbridge version that wrote it"
            )
    except (KeyError, ValueError, TypeError, RecursionError):
        raise backup_file.damaged(file, "it has no readable manifest") from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        raise backup_file.damaged(file, "its manifest does not match its checksum") from None
    known = {FILE_NAME, _MASTER_KEY, *_OTHER_FILES}
    if FILE_NAME not in names or not names <= known or not names <= set(archive.namelist()):
        raise backup_file.damaged(file, "its list of files is not that of a backup")
    return dict(manifest)


def _described(file: Path, manifest: Mapping[str, Any], size: int, *, is_authenticated: bool) -> Backup:
    try:
        return Backup(
            file=file,
            made_at=codec.parse_time(manifest["madeAt"]),
            version=str(manifest["version"]),
            alerts=int(manifest["alerts"]),
            orders=int(manifest["orders"]),
            history=int(manifest["history"]),
            history_hash=str(manifest["historyHash"]),
            files={str(name): str(digest) for name, digest in manifest["files"].items()},
            bytes=size,
            is_authenticated=is_authenticated,
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        raise backup_file.damaged(file, "its manifest is not that of a backup") from None


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


def _flush(path: Path) -> None:
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


# ------------------------------------------------------------------------------------------------------------- nightly
def directory_of(settings: BackupSettings, data_dir: Path) -> Path:
    """Directory of the nightly backups."""
    return Path(settings.dir).expanduser() if settings.dir else data_dir / "backups"


def nightly_files(directory: Path) -> list[Path]:
    """The nightly backups in a directory, oldest first; none if it does not exist."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NIGHTLY_FILE.fullmatch(path.name))


class NightlyBackup:
    """Job, once a day: write a backup, then delete all but the newest `keep`."""

    def __init__(
        self,
        database: Database,
        settings: BackupSettings,
        data_dir: Path,
        clock: Callable[[], datetime],
        key: BackupKey,
    ) -> None:
        self._database = database
        self._key = key
        self._directory = directory_of(settings, data_dir)
        self._data_dir = data_dir
        self._keep = settings.keep
        self._clock = clock

    async def run(self) -> None:
        """Raises ConfigError if a file cannot be written or deleted, StoreUnavailable."""
        now = self._clock()
        await asyncio.to_thread(self._make, now)
        await self._database.write(record, now)

    def _make(self, now: datetime) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the backup directory {self._directory} cannot be written: {error.strerror}") from None
        backup = make(self._data_dir, self._directory / f"{_PREFIX}{now:%Y%m%dT%H%M%S}Z.zip", now=now, key=self._key)
        log.info("backup_made", file=str(backup.file), bytes=backup.bytes, alerts=backup.alerts)
        try:
            self._delete_old(now)
        except OSError as error:
            raise ConfigError(
                f"old backups in {self._directory} cannot be deleted: {error.strerror}; the new one is complete"
            ) from None

    def _delete_old(self, now: datetime) -> None:
        for old in nightly_files(self._directory)[: -self._keep]:
            old.unlink()
        for path in self._directory.iterdir():  # left by a daemon that was killed while writing
            if _UNFINISHED_FILE.fullmatch(path.name):
                changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                if now - changed_at > _UNFINISHED_AGE:
                    path.unlink()
