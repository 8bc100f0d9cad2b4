"""A second machine that can take over: what it is given beforehand, by the machine that trades, and what is still missing.

The standby prints the public half of a key pair; the machine that trades seals to it its master key, the secrets that both need, and its
settings. The standby has an exchange key of its own, so that it can remove the other one. Until it has taken over it does not trade.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from kekbridge import __version__
from kekbridge.config import Settings
from kekbridge.errors import ConfigError, ExchangeUnavailable, NotFound, VaultError
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops import exchange_keys
from kekbridge.ops.notifier import NOTIFY_URLS
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.ops.standby_record import StandbyRecord, read_record, write_record
from kekbridge.ops.vault_operations import GenerateKey, require_sealed
from kekbridge.store import codec
from kekbridge.vault import OpenVault, orderly_secret
from kekbridge.vault.base import REPLICA_SECRETS
from kekbridge.vault.master import held_master_key
from kekbridge.vault.sealing import master_key_id
from kekbridge.vault.standby import OTHER_MASTER_KEY, STANDBY_KEY, new_private_key, open_sealed, request_text, seal

#: Secrets of the vault that both machines need.
SHARED_SECRETS: Final = (NOTIFY_URLS, *REPLICA_SECRETS)
# Settings that belong to one machine.
_OWN_SECTIONS: Final = ("vault", "paper", "admin", "log")
_OWN_SETTINGS: Final = ("backup.dir",)
_OWN_PLACE: Final = re.compile(r"[-/][A-Za-z0-9.]+-[0-9]{8}T[0-9]{6}Z\Z", re.ASCII)


class StandbyBundle(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the machine that trades seals to a standby."""

    #: When it was sealed, as UTC text.
    made_at: str
    #: kekbridge's version there.
    version: str
    host: str
    mode: Mode
    account_id: str
    orderly_key: str
    #: The master key, base64.
    master_key: str
    #: Secrets of the vault that both machines need, base64 by name.
    secrets: dict[str, str]
    #: Settings that are not the defaults, by dotted name.
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"StandbyBundle({self.host!r})"


# ------------------------------------------------------------------------------------------------------------ operations


class ShowStandbyRequest(Operation, frozen=True, kw_only=True):
    """On the standby: the public key that the machine that trades seals to, made at the first call."""

    operation: ClassVar[str] = "standby-request"
    writes: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True

    #: Decides which vaults may be used: never an unencrypted one.
    mode: Mode = Mode.LIVE

    async def run(self, context: OperatorContext) -> dict[str, str]:
        require_sealed(context, Mode.LIVE)
        private_key = await asyncio.to_thread(context.vault.get, STANDBY_KEY)
        if private_key is None:
            private_key = new_private_key()
            await asyncio.to_thread(context.vault.set, STANDBY_KEY, private_key)
        return {"request": request_text(private_key), "vault": context.vault.description}


class SealForStandby(Operation, frozen=True, kw_only=True):
    """On the machine that trades: its master key, shared secrets and settings, sealed to a standby. Raises ConfigError, VaultError."""

    operation: ClassVar[str] = "standby-seal"
    opens_vault: ClassVar[bool] = True

    #: The word that the standby prints.
    request: str

    async def run(self, context: OperatorContext) -> dict[str, str]:
        settings, mode = context.settings, context.mode
        if mode is Mode.PAPER:
            raise ConfigError(
                "a paper bridge has no exchange key that could be removed; a standby needs mode testnet or live"
            )
        if not settings.replica.url:
            raise ConfigError(
                "replica.url is not set: a standby restores the database from there; see `kekbridge docs standby`"
            )
        account_id = settings.exchange.account_id
        secret = await asyncio.to_thread(context.vault.get, orderly_secret(account_id))
        master = await asyncio.to_thread(held_master_key, context.vault)
        if secret is None or master is None:
            raise NotFound(
                "key_missing", f"no Orderly key for {account_id} in the {context.vault.title}; nothing to take over"
            )
        bundle = StandbyBundle(
            made_at=codec.time_text(context.clock()),
            version=__version__,
            host=socket.gethostname(),
            mode=mode,
            account_id=account_id,
            orderly_key=context.keys.public_key(secret.decode()),
            master_key=base64.b64encode(master).decode(),
            secrets=await asyncio.to_thread(_shared_secrets, context.vault),
            settings={**shared_settings(settings), "mode": mode.value},
        )
        return {"sealed": seal(self.request, msgspec.json.encode(bundle)), "orderlyKey": bundle.orderly_key}


class OpenSealed(Operation, frozen=True, kw_only=True):
    """On the standby: what the machine that trades has sealed; with `store` its secrets go into the vault.

    Returns who sealed it, the settings to use, and the state of this machine's own exchange key. A key is generated if there is none that
    the exchange knows. Raises VaultError, ConfigError.
    """

    operation: ClassVar[str] = "standby-open"
    writes: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 60.0

    #: The sealed text.
    sealed: str
    #: Keep it; False: only show it.
    store: bool
    #: Decides which vaults may be used: never an unencrypted one.
    mode: Mode = Mode.LIVE

    def __repr__(self) -> str:
        return f"OpenSealed(store={self.store})"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        if context.bridge is not None:
            raise ConfigError("a bridge trades on this data directory; a standby is prepared while it is stopped")
        require_sealed(context, Mode.LIVE)
        private_key = await asyncio.to_thread(context.vault.get, STANDBY_KEY)
        if private_key is None:
            raise ConfigError(
                "this machine has not asked for anything yet; run `kekbridge replica prepare` without a file first"
            )
        bundle = _decode(open_sealed(private_key, self.sealed))
        own = await asyncio.to_thread(context.vault.get, orderly_secret(bundle.account_id))
        if own is not None and context.keys.public_key(own.decode()) == bundle.orderly_key:
            raise ConfigError(
                f"this machine has the very key that {bundle.host} trades with; a standby needs one of its own, to remove the other one:"
                " `kekbridge keys remove --local`, then prepare again"
            )
        own_place = own_replica_url(str(bundle.settings["replica.url"]), socket.gethostname(), context.clock())
        if self.store:
            await self._store(context, bundle)
        return {
            "host": bundle.host,
            "version": bundle.version,
            "madeAt": bundle.made_at,
            "mode": bundle.mode,
            "accountId": bundle.account_id,
            "orderlyKey": bundle.orderly_key,
            "settings": {**bundle.settings, "replica.url": own_place},
        }

    async def _store(self, context: OperatorContext, bundle: StandbyBundle) -> None:
        master = base64.b64decode(bundle.master_key)
        record = StandbyRecord(
            host=bundle.host,
            mode=bundle.mode,
            account_id=bundle.account_id,
            orderly_key=bundle.orderly_key,
            replica_url=str(bundle.settings["replica.url"]),
            master_key_id=master_key_id(master),
            prepared_at=codec.time_text(context.clock()),
        )
        await asyncio.to_thread(write_record, context.data_dir, record)  # first: from now on nothing trades here
        await asyncio.to_thread(context.vault.set, OTHER_MASTER_KEY, master)
        for name, value in bundle.secrets.items():
            await asyncio.to_thread(context.vault.set, name, base64.b64decode(value))


class GenerateStandbyKey(Operation, frozen=True, kw_only=True):
    """On the standby: the state of its own exchange key; a new one is generated if it has none that the exchange knows.

    `state`: registered, pending (it has to be registered) or unchecked (the exchange does not answer).
    """

    operation: ClassVar[str] = "standby-key"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 60.0

    #: Venue: testnet or live.
    mode: Mode
    #: Orderly account, 0x and 64 hex digits.
    account_id: str

    async def run(self, context: OperatorContext) -> dict[str, str]:
        own = await asyncio.to_thread(context.vault.get, orderly_secret(self.account_id))
        if own is not None:
            public = context.keys.public_key(own.decode())
            try:
                async with context.keys.wallet_calls(self.mode) as calls:
                    is_known = await calls.key(self.account_id, public) is not None
            except ExchangeUnavailable:
                return {"state": "unchecked", "orderlyKey": public}
            if is_known:
                return {"state": "registered", "orderlyKey": public}
        pending = await asyncio.to_thread(context.vault.get, exchange_keys.PENDING)
        if pending is not None:
            return {"state": "pending", "orderlyKey": context.keys.public_key(pending.decode())}
        generated = await GenerateKey(mode=self.mode).run(context)
        return {"state": "pending", "orderlyKey": generated["orderlyKey"]}


def checks(settings: Settings, data_dir: Path, vault: OpenVault | None) -> tuple[Check, ...]:
    """For `kekbridge doctor`: one line about the standby, none if this machine is none. Blocks."""
    record = read_record(data_dir)
    if record is None:
        return ()
    if record.taken_over_at is not None:
        return (Check("standby", "ok", f"took over from {record.host} at {record.taken_over_at}"),)
    missing = [] if vault is None else _missing(settings, vault, record)
    if missing:
        return (Check("standby", "broken", f"of {record.host}, not ready: {missing[0][0]}", missing[0][1]),)
    text = f"of {record.host}, prepared at {record.prepared_at}; `kekbridge takeover --check` rehearses it"
    return (Check("standby", "ok", text),)


def _missing(settings: Settings, vault: OpenVault, record: StandbyRecord) -> list[tuple[str, str]]:
    """What this machine lacks to take over, and what to do."""
    again = "run `kekbridge replica prepare` again"
    found = []
    master = vault.get(OTHER_MASTER_KEY)
    if master is None or master_key_id(master) != record.master_key_id:
        found.append((f"the vault does not hold the master key of {record.host}", again))
    if (settings.mode, settings.exchange.account_id.lower()) != (record.mode, record.account_id.lower()):
        fix = f'set mode = "{record.mode.value}" and exchange.account_id = "{record.account_id}"'
        found.append((f"the settings name another mode or account than {record.host} has", fix))
    if vault.get(orderly_secret(record.account_id)) is None:
        fix = f"`kekbridge keys register --mode {record.mode.value}` on this machine"
        found.append(("this machine has no exchange key of its own", fix))
    return found


def require_ready(settings: Settings, vault: OpenVault, record: StandbyRecord) -> None:
    """Raise ConfigError, with the fix, if this machine lacks something to take over. Blocks."""
    missing = _missing(settings, vault, record)
    if missing:
        raise ConfigError(f"this standby is not ready: {missing[0][0]}; {missing[0][1]}; nothing was changed")


def shared_settings(settings: Settings) -> dict[str, Any]:
    """The settings that are not the defaults and do not belong to one machine, as JSON types by dotted name."""
    found: dict[str, Any] = {}
    for section, values in settings.model_dump(mode="json", exclude_defaults=True).items():
        if isinstance(values, dict) and section not in _OWN_SECTIONS:
            found |= {f"{section}.{name}": value for name, value in values.items()}
    return {name: value for name, value in found.items() if name not in _OWN_SETTINGS}


def own_replica_url(others: str, host: str, now: datetime) -> str:
    """Where this machine copies its own database to after a takeover: a new place beside the other's, which may go on writing there."""
    base = _OWN_PLACE.sub("", others.rstrip("/"))
    place = f"{re.sub('[^A-Za-z0-9.]', '', host) or 'standby'}-{now:%Y%m%dT%H%M%SZ}"
    return f"{base}-{place}" if urlsplit(base).path else f"{base}/{place}"


def _shared_secrets(vault: OpenVault) -> dict[str, str]:
    held = {name: vault.get(name) for name in SHARED_SECRETS}
    return {name: base64.b64encode(value).decode() for name, value in held.items() if value is not None}


def _decode(content: bytes) -> StandbyBundle:
    try:
        bundle = msgspec.json.decode(content, type=StandbyBundle)
        base64.b64decode(bundle.master_key, validate=True)
        bundle.settings["replica.url"]
    except (msgspec.MsgspecError, ValueError, KeyError):
        raise VaultError(
            "the sealed text is of another version of kekbridge; use the same version on both machines"
        ) from None
    return bundle
