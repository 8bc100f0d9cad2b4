"""Take over from the machine that traded: restore its newest state, remove its key at the exchange, and leave it to `serve` to reconcile.

Restored first, so that nothing is removed for a state that cannot be read; fenced; restored once more, because the other machine may have
traded until its key was gone. Every step can be repeated: a takeover that was cut is run again and ends in the same state. Nothing is sent
to the exchange but the removal of keys: queued orders are marked unknown, as after a restore, and the next start looks up each.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from kekbridge.errors import ConfigError, ExchangeUnavailable, KekbridgeError, OperatorError
from kekbridge.exchange.base import KeyInfo
from kekbridge.execution.key_watch import is_about_key
from kekbridge.failpoints import hit
from kekbridge.model import Mode, TradingState
from kekbridge.ops import backup, exchange_keys, standby, standby_record
from kekbridge.ops.litestream import STATE_DIR
from kekbridge.ops.operation import KeyCalls, Operation, OperatorContext, WalletCalls
from kekbridge.ops.replica import RestoredReplica, replace_url, restore_replica, target_keys
from kekbridge.ops.standby_record import StandbyRecord
from kekbridge.store import codec, journal, settings, webhooks
from kekbridge.store.account_identity import AccountIdentity, remembered, require_same
from kekbridge.store.connections import FILE_NAME, connect, initialise
from kekbridge.vault import Sealer, orderly_secret
from kekbridge.vault.standby import OTHER_MASTER_KEY

_DIRECTORY: Final = ".takeover"
# The exchange answers ten queries of an account's keys a minute.
_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0)
#: How long changes of a machine that still runs may be on their way to the replica, beyond its own interval.
_ON_THEIR_WAY_S: Final = 0.5


class TakeoverFailed(OperatorError):
    """The takeover stopped at a step that can be repeated; nothing trades here; exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__("takeover_failed", message)


class KeysAtExchange(Struct, frozen=True):
    """What an account's keys are, seen from a standby."""

    #: Keys of the other machine that the exchange still accepts, or is removing.
    to_remove: tuple[str, ...]
    #: Further keys that may trade: of the exchange's own pages, or of other programs.
    others: tuple[str, ...]


def judge_keys(keys: tuple[KeyInfo, ...], *, own: str, old: frozenset[str]) -> KeysAtExchange:
    """Sort an account's keys. Raises ConfigError if the own one is not accepted, or may not trade. Pure."""
    valid = {key.orderly_key: key for key in keys if key.status != "REMOVED"}
    mine = valid.get(own)
    if mine is None or mine.status == "REMOVING" or "trading" not in mine.scopes:
        raise ConfigError(
            f"the exchange does not accept this machine's own key {own} for trading; register one with `kekbridge keys register`;"
            " nothing was changed"
        )
    others = [name for name, key in valid.items() if name not in (own, *old) and "trading" in key.scopes]
    return KeysAtExchange(tuple(sorted(old & valid.keys() - {own})), tuple(sorted(others)))


class Takeover(Operation, frozen=True, kw_only=True):
    """Make this data directory the one that trades. Returns what was restored, which keys were removed, and what needs a look.

    Raises ConfigError if this machine is no standby or not ready, TakeoverFailed if the exchange cannot be asked or does not confirm.
    """

    operation: ClassVar[str] = "takeover"
    writes: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 600.0

    #: Venue: testnet or live.
    mode: Mode
    #: Only rehearse: restore into a temporary file and check everything; change nothing here or at the exchange.
    check: bool = False

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        if context.bridge is not None:
            raise ConfigError("a bridge runs on this data directory; a takeover is for a standby that is stopped")
        record = await asyncio.to_thread(standby_record.read_record, context.data_dir)
        if record is None:
            raise ConfigError(
                "this machine is no standby: nothing was prepared here; see `kekbridge docs standby`, or `kekbridge restore` for a backup"
            )
        if record.taken_over_at is not None:
            await asyncio.to_thread(shutil.rmtree, context.data_dir / _DIRECTORY, ignore_errors=True)
            raise ConfigError(
                f"this machine has taken over from {record.host} at {record.taken_over_at} already; start it with `kekbridge serve`"
            )
        await asyncio.to_thread(standby.require_ready, context.settings, context.vault, record)
        steps = await asyncio.to_thread(_Steps, context, record)
        return await steps.run(check=self.check)


class _Steps:
    """One run. Blocks while it is made."""

    def __init__(self, context: OperatorContext, record: StandbyRecord) -> None:
        self._context = context
        self._record = record
        self._fresh = context.data_dir / _DIRECTORY
        vault = context.vault
        self._secret = _held(vault.get(orderly_secret(record.account_id))).decode()
        self._own = context.keys.public_key(self._secret)
        self._others_sealer = Sealer(_held(vault.get(OTHER_MASTER_KEY)))
        self._settings = replace_url(context.settings, record.replica_url)
        self._replica_secrets = target_keys(self._settings.replica, vault)

    async def run(self, *, check: bool) -> dict[str, Any]:
        began = time.monotonic()
        try:
            found = await asyncio.to_thread(self._restore)
            old, seen = await asyncio.to_thread(self._check_copy), frozenset[str]()
            self._context.report(
                f"restored the state of {self._record.host}: {found.alerts} alerts, {found.orders} orders"
            )
            hit("takeover-restored")
            keys = await self._fence(old, check=check)
            while not check and not old <= seen:  # again if it has changed to another key meanwhile
                seen = old
                await asyncio.sleep(self._settings.replica.sync_s + _ON_THEIR_WAY_S)
                found = await asyncio.to_thread(self._restore)
                old |= await asyncio.to_thread(self._check_copy)
                if not old <= seen:
                    keys = await self._fence(old, check=False)
            result: dict[str, Any] = {
                "host": self._record.host,
                "checkedOnly": check,
                "removedKeys": sorted(old),
                "otherTradingKeys": keys.others,
            }
            if not check:
                result |= await asyncio.to_thread(self._adopt, found, sorted(old))
        finally:
            await asyncio.to_thread(shutil.rmtree, self._fresh, ignore_errors=True)
        return result | {
            "upTo": found.up_to,
            "lastEventAt": found.last_event_at,
            "alerts": found.alerts,
            "orders": found.orders,
            "tookSeconds": round(time.monotonic() - began, 1),
        }

    def _restore(self) -> RestoredReplica:
        """The newest state of the other machine in a file of its own. Raises ConfigError, NotFound."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        self._fresh.mkdir(mode=0o700, parents=True)
        return restore_replica(self._settings, self._file, secrets=self._replica_secrets)

    @property
    def _file(self) -> Path:
        return self._fresh / FILE_NAME

    def _check_copy(self) -> frozenset[str]:
        """The keys that the copy's machine trades with. Raises ConfigError, VaultError if the copy cannot be used here."""
        initialise(self._file)
        with closing(connect(self._file, read_only=True)) as connection:
            wanted = AccountIdentity(mode=self._record.mode, account_id=self._record.account_id)
            require_same(remembered(connection), wanted, self._record.replica_url)
            for webhook in webhooks.list_all(connection):
                for key in webhooks.list_keys(connection, webhook.id):
                    self._others_sealer.open(key.sealed_key)
            known = exchange_keys.trading_keys(connection, self._record.account_id)
        return frozenset({self._record.orderly_key, *known}) - {self._own}

    async def _fence(self, old: frozenset[str], *, check: bool) -> KeysAtExchange:
        """Remove the old keys, and return once the exchange says that it accepts none of them. Raises TakeoverFailed, ConfigError."""
        keys, mode, account_id = self._context.keys, self._record.mode, self._record.account_id
        not_sure = f"it is not sure that {self._record.host} can trade no more, so nothing is started here: run `kekbridge takeover` again"
        try:
            async with keys.calls(mode, account_id, self._secret) as calls, keys.wallet_calls(mode) as public:
                found = judge_keys(await calls.keys(), own=self._own, old=old)
                if check:
                    return found
                for name in found.to_remove:
                    self._context.report(f"removing the key of {self._record.host} at the exchange: {name}")
                for pause_s in (*_PAUSES_S, None):
                    for name in found.to_remove:
                        await self._remove(calls, name)
                    hit("takeover-removed")
                    found = judge_keys(await calls.keys(), own=self._own, old=old)
                    left = [*found.to_remove, *await self._still_listed(public, old - set(found.to_remove))]
                    if not left:
                        self._context.report("the exchange confirms: the old key is removed")
                        hit("takeover-fenced")
                        return found
                    if pause_s is not None:
                        await asyncio.sleep(pause_s)
        except ExchangeUnavailable as error:
            raise TakeoverFailed(f"{error.message}; {not_sure}, once the exchange answers") from None
        except OperatorError as error:
            if error.code != "key_refused":
                raise
            raise TakeoverFailed(
                f"{error.message}; check this machine's own key with `kekbridge keys check`; {not_sure}"
            ) from None
        raise TakeoverFailed(f"the exchange still lists {', '.join(left)}; {not_sure}")

    @staticmethod
    async def _remove(calls: KeyCalls, name: str) -> None:
        """Ask the exchange to remove a key. What a refusal means, the list of keys says."""
        try:
            await calls.remove(name)
        except ExchangeUnavailable:
            raise
        except KekbridgeError:
            return

    async def _still_listed(self, public: WalletCalls, names: frozenset[str]) -> list[str]:
        """Those of the keys that the exchange's public query still knows."""
        return [name for name in sorted(names) if await public.key(self._record.account_id, name) is not None]

    def _adopt(self, found: RestoredReplica, removed: list[str]) -> dict[str, Any]:
        """Make the copy this machine's database."""
        context, now = self._context, self._context.clock()
        sealer = context.sealer
        doubted = 0

        def reseal(sealed_key: bytes, sealed_secret: bytes) -> tuple[bytes, bytes, bytes]:
            api_key, api_secret = self._others_sealer.open(sealed_key), self._others_sealer.open(sealed_secret)
            return sealer.lookup(api_key.decode()), sealer.seal(api_key), sealer.seal(api_secret)

        def note(connection: sqlite3.Connection, count: int) -> None:
            nonlocal doubted
            doubted = count
            webhooks.reseal_keys(connection, reseal)
            key = exchange_keys.KnownKey(self._record.account_id, self._own, self._record.mode, now)
            exchange_keys.add_key(connection, key, now=now)
            exchange_keys.note_in_use(connection, self._record.account_id, self._own, now=now)
            settings.remove(connection, backup.LAST_BACKUP)  # it is on the other machine
            _undo_key_halt(connection, self._record.host, now)
            data = {"host": self._record.host, "up_to": found.up_to, "removed": ", ".join(removed), "doubted": count}
            journal.append(connection, "taken_over", now=now, data=data)

        reason = f"queued on {self._record.host} when its last state was copied, may have been sent by it"
        backup.invalidate_queue(self._file, reason=reason, note=note, now=now)
        hit("takeover-adopted")
        shutil.rmtree(context.data_dir / STATE_DIR, ignore_errors=True)  # of the database that is moved aside
        try:
            moved = backup.swap_files(self._fresh, context.data_dir, now)
        except OSError as error:
            raise ConfigError(f"{context.data_dir} cannot be written: {error.strerror}; run it again") from None
        hit("takeover-swapped")
        at = codec.time_text(now)
        standby_record.write_record(context.data_dir, msgspec.structs.replace(self._record, taken_over_at=at))
        hit("takeover-recorded")
        context.vault.delete(OTHER_MASTER_KEY)
        return {"doubted": doubted, "takenOverAt": at, "movedAside": None if moved is None else str(moved)}


def _undo_key_halt(connection: sqlite3.Connection, host: str, now: datetime) -> None:
    """Restore the trading state from before the other machine noticed that its key was removed, which may be in its last copy."""
    if not is_about_key(settings.trading_control(connection, now=now)):
        return
    before = settings.TradingControl(state=TradingState.RUNNING, reason=f"taken over from {host}", by="takeover")
    for event in journal.latest(connection, kinds=("trading_state",), of_alerts=False):
        if event.data["scope"] == settings.ACCOUNT:
            found = settings.control_from({**event.data, "since": None})
            before = before if is_about_key(found) else found
    settings.set_trading_state(
        connection, before.state, reason=before.reason, by=before.by, now=now, until=before.until
    )


def _held(value: bytes | None) -> bytes:
    """A secret that `standby.require_ready` has found."""
    if value is None:
        raise ConfigError("the vault changed while it was read; run the command again")
    return value
