"""The replica of the database at another place: restore its newest state into a new file, and say up to when it reaches."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from kekbridge.config import ReplicaSettings, Settings
from kekbridge.errors import ConfigError, NotFound
from kekbridge.ops import litestream
from kekbridge.store import codec, journal
from kekbridge.store.connections import connect
from kekbridge.store.schema import check_schema, drop_replication_tables
from kekbridge.vault import OpenVault
from kekbridge.vault.base import REPLICA_SECRETS

#: Environment variables in which Litestream expects the target's keys, in the order of the vault's REPLICA_SECRETS.
KEY_VARIABLES: Final = ("LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY")
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredReplica:
    """A database restored from a replica; checked, and without anything of the program that copied it."""

    #: The new database file.
    file: Path
    #: Everything that the old machine had on its disk before this instant is in it, UTC, whole seconds. Later changes may be missing.
    up_to: datetime
    #: Sequence number of the last history event, and its hash.
    history: int
    history_hash: str
    #: When that event was written, by the old machine's clock, UTC. None: the history is empty.
    last_event_at: datetime | None
    #: Number of alerts and orders.
    alerts: int
    orders: int


def restore_replica(
    settings: Settings, target: Path, *, url: str | None = None, secrets: Mapping[str, str] | None = None
) -> RestoredReplica:
    """Restore the newest state of a replica into the new file `target`, check it, and say up to when it reaches. Blocks.

    `url`: of the replica, if not that of the settings. `secrets`: environment variables with the target's keys (`target_keys`), unless
    the environment has them. The schema stays that of the version that wrote it: open it with `initialise`. Of a file that fails a check
    nothing is left. Raises NotFound if there is no replica, ConfigError if it cannot be read or is damaged.
    """
    wanted = settings.replica if url is None else replace_url(settings, url).replica
    if not wanted.url:
        raise ConfigError("no replica is configured; set replica.url to where the other machine copies its database")
    if target.exists():
        raise ConfigError(f"{target} exists already; name a file that does not")
    program = litestream.find_program()
    litestream.check_version(program)
    newest = litestream.newest_change(program, wanted, secrets or {})
    if newest is None:
        raise NotFound(
            "not_found", f"there is no replica at {wanted.url}; check replica.url, and that the other bridge ran"
        )
    try:
        litestream.restore(program, wanted, secrets or {}, target)
        return _checked(target, newest.at)
    except sqlite3.Error as error:
        _remove(target)
        raise ConfigError(f"the replica at {wanted.url} is damaged: {error}; use a backup") from None
    except ConfigError:
        _remove(target)
        raise


def target_keys(settings: ReplicaSettings, vault: OpenVault) -> dict[str, str]:
    """The keys of the target that the vault holds, as environment variables; those of the environment need none. Blocks."""
    if not settings.url.startswith("s3:"):
        return {}
    found = {variable: vault.get(name) for variable, name in zip(KEY_VARIABLES, REPLICA_SECRETS, strict=True)}
    return {variable: secret.decode() for variable, secret in found.items() if secret is not None}


def replace_url(settings: Settings, url: str) -> Settings:
    """The settings with another `replica.url`, checked as in the file. Raises ConfigError."""
    try:
        found = type(settings.replica).model_validate({**settings.replica.model_dump(), "url": url})
    except ValidationError as error:
        raise ConfigError(f"replica.url: {error.errors()[0]['ctx']['error']}") from None
    return settings.model_copy(update={"replica": found})


def _checked(path: Path, up_to: datetime) -> RestoredReplica:
    """Raises ConfigError for a damaged or altered database, or one with another schema; sqlite3.Error if it cannot be read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        drop_replication_tables(connection)
        fault = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if fault != "ok":
            raise ConfigError(f"the replica is damaged: {fault}; use a backup")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        check_schema(connection, path.name)
    with closing(connect(path, read_only=True)) as connection:
        broken_at = journal.verify(connection)
        if broken_at is not None:
            raise ConfigError(
                f"the replica's history is broken at event {broken_at}: changed, moved or removed; use a backup"
            )
        history, history_hash = journal.head(connection)
        last = connection.execute("SELECT at FROM journal WHERE sequence = ?", (history,)).fetchone()
        alerts = connection.execute("SELECT count(*) FROM alerts").fetchone()[0]
        orders = connection.execute("SELECT count(*) FROM orders").fetchone()[0]
    return RestoredReplica(
        file=path,
        up_to=up_to,
        history=history,
        history_hash=history_hash,
        last_event_at=None if last is None else codec.parse_time(last[0]),
        alerts=alerts,
        orders=orders,
    )


def _remove(target: Path) -> None:
    for name in (target.name, *(target.name + end for end in _SIDE_FILES)):
        target.with_name(name).unlink(missing_ok=True)
