"""What a standby keeps in its data directory about the machine that it stands by for. Read at each start: keep it free of heavy imports."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from kekbridge.errors import ConfigError, VaultError
from kekbridge.model import Mode
from kekbridge.vault.files import read_private, write_private

FILE: Final = "standby.json"


class StandbyRecord(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a standby knows of the machine that it stands by for; kept in the data directory, holds no secret."""

    #: Name of the other machine.
    host: str
    #: Venue: testnet or live.
    mode: Mode
    #: Orderly account, 0x and 64 hex digits.
    account_id: str
    #: Public key that the other machine traded with when it sealed.
    orderly_key: str
    #: Where the other machine copies its database to.
    replica_url: str
    #: Names the other machine's master key; reveals nothing of it.
    master_key_id: str
    #: When this machine was prepared, as UTC text.
    prepared_at: str
    #: When it has taken over, as UTC text; None: it has not.
    taken_over_at: str | None = None


def read_record(data_dir: Path) -> StandbyRecord | None:
    """The record of a data directory; None if it belongs to no standby. Raises VaultError for a damaged one."""
    content = read_private(data_dir / FILE)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=StandbyRecord)
    except msgspec.MsgspecError:
        raise VaultError(f"{data_dir / FILE} is damaged; run `kekbridge replica prepare` again") from None


def write_record(data_dir: Path, record: StandbyRecord) -> None:
    """Keep the record. Raises VaultError if it cannot be written."""
    write_private(data_dir / FILE, msgspec.json.encode(record) + b"\n")


def require_no_standby(data_dir: Path) -> None:
    """Raise ConfigError for the data directory of a standby that has not taken over: two machines must not trade one account."""
    record = read_record(data_dir)
    if record is not None and record.taken_over_at is None:
        raise ConfigError(
            f"this machine is the standby of {record.host}, which trades; run `kekbridge takeover` to trade here instead"
            f" (or remove {data_dir / FILE} if it is to be a bridge of its own)"
        )
