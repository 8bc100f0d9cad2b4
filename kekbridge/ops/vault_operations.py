"""Operations on the vault: notification channels, the Orderly key that signs orders, and which secrets there are.

A secret goes from the operator to the vault and never back: what has to be signed with the exchange key is signed where the vault is open.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from kekbridge.errors import ConfigError, NotFound, VaultError
from kekbridge.exchange.base import KeyInfo
from kekbridge.formatting import to_jsonable
from kekbridge.model import Mode
from kekbridge.ops import exchange_keys
from kekbridge.ops.notifier import NOTIFY_URLS, Channel, channels_of
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from kekbridge.vault import OpenVault, orderly_secret
from kekbridge.vault.base import REPLICA_SECRETS
from kekbridge.vault.files import write_private

CODE_SHOWN_FILE: Final = "recovery-code-shown"  # in the data directory, empty

# --------------------------------------------------------------------------------------------------------- notifications


class SetChannels(Operation, frozen=True, kw_only=True):
    """Replace the notification channels. Returns their names."""

    operation: ClassVar[str] = "notify-set"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: apprise URLs, one per line; empty: no channels.
    urls: str

    def __repr__(self) -> str:
        return "SetChannels(…)"  # the URLs contain tokens

    async def run(self, context: OperatorContext) -> list[str]:
        channels = channels_of(self.urls.encode())
        await asyncio.to_thread(_check_channels, channels)
        if channels:
            await asyncio.to_thread(context.vault.set, NOTIFY_URLS, self.urls.encode())
        else:
            await asyncio.to_thread(context.vault.delete, NOTIFY_URLS)
        return [channel.name for channel in channels]


class ChangeChannels(Operation, frozen=True, kw_only=True):
    """Add channels, remove one, or put others in its place; the others keep what they have not sent yet. Returns the names of all."""

    operation: ClassVar[str] = "notify-change"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: apprise URLs to add, one per line.
    add: str = ""
    #: Name of the channel to remove, as `notify channels` shows it, or its beginning; None: none.
    remove: str | None = None

    def __repr__(self) -> str:
        return f"ChangeChannels(remove={self.remove!r})"  # the URLs contain tokens

    async def run(self, context: OperatorContext) -> list[str]:
        added = channels_of(self.add.encode())
        if not added and self.remove is None:
            raise ConfigError("found no URL, expected apprise URLs on stdin, one per line")
        await asyncio.to_thread(_check_channels, added)
        known = await _channels(context)
        place = len(known) if self.remove is None else known.index(_named(known, self.remove))
        kept = [channel for index, channel in enumerate(known) if self.remove is None or index != place]
        kept[place:place] = [channel for channel in added if channel not in kept]
        if kept:
            text = "\n".join(channel.url for channel in kept)
            await asyncio.to_thread(context.vault.set, NOTIFY_URLS, text.encode())
        else:
            await asyncio.to_thread(context.vault.delete, NOTIFY_URLS)
        return [channel.name for channel in kept]


def _named(channels: Sequence[Channel], name: str) -> Channel:
    """The channel of this name, or the only one whose name begins with it. Raises NotFound, ConfigError."""
    found = [channel for channel in channels if channel.name.startswith(name)] if name else []
    exact = [channel for channel in found if channel.name == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    names = ", ".join(channel.name for channel in found or channels) or "none"
    if found:
        raise ConfigError(f"{name} begins the names of several channels: {names}; write one in full")
    raise NotFound("not_found", f"there is no channel {name[:40]}; there are: {names}")


class ListChannels(Operation, frozen=True, kw_only=True):
    """Names of the notification channels; their URLs are never shown."""

    operation: ClassVar[str] = "notify-channels"
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> list[str]:
        return [channel.name for channel in await _channels(context)]


class TryChannels(Operation, frozen=True, kw_only=True):
    """Send a test message to every channel. Returns by name whether it was delivered."""

    operation: ClassVar[str] = "notify-test"
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 120.0

    async def run(self, context: OperatorContext) -> dict[str, bool]:
        channels = await _channels(context)
        if not channels:
            raise ConfigError("no channels yet; `kekbridge notify add` reads apprise URLs from stdin")
        title = f"[{context.mode.value.upper()}] test message"
        delivered = [
            await asyncio.to_thread(channel.send, title, "Notifications of kekbridge reach this channel.", "info")
            for channel in channels
        ]
        return dict(zip((channel.name for channel in channels), delivered, strict=True))


async def _channels(context: OperatorContext) -> tuple[Channel, ...]:
    return channels_of(await asyncio.to_thread(context.vault.get, NOTIFY_URLS))


def _check_channels(channels: tuple[Channel, ...]) -> None:
    if not channels:
        return
    import apprise  # late: it takes a second to load

    for number, channel in enumerate(channels, 1):
        if not apprise.Apprise().add(channel.url):
            raise ConfigError(
                f"line {number} is not a URL that apprise accepts; see https://appriseit.com for the formats"
            )


# ----------------------------------------------------------------------------------------------------------------- vault


class ShowVault(Operation, frozen=True, kw_only=True):
    """Which vault is in use, why, and the names of its secrets."""

    operation: ClassVar[str] = "vault-status"
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        account_id = context.settings.exchange.account_id
        try:
            names = await context.database.read(exchange_keys.secret_names, account_id)
        except NotFound:  # nothing has been stored yet
            names = exchange_keys.secret_names(None, account_id)
        return {
            "mode": context.mode,
            "vault": context.vault.name,
            "description": context.vault.description,
            "isEncrypted": not context.vault.is_plain,
            "isWritable": context.vault.is_writable,
            "names": await asyncio.to_thread(held_names, context.vault, names),
        }


def held_names(vault: OpenVault, names: tuple[str, ...]) -> list[str]:
    """Those of the names that the vault holds a secret for."""
    return [name for name in names if vault.get(name) is not None]


# --------------------------------------------------------------------------------------------------------------- replica


class StoreReplicaKeys(Operation, frozen=True, kw_only=True):
    """Store the access key of the replica's place (s3://). Returns the vault's title."""

    operation: ClassVar[str] = "replica-keys"
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True

    #: The access key id and its secret.
    access_key_id: str
    secret: str

    def __repr__(self) -> str:
        return "StoreReplicaKeys(…)"

    async def run(self, context: OperatorContext) -> dict[str, str]:
        for name, value in zip(REPLICA_SECRETS, (self.access_key_id, self.secret), strict=True):
            if not value.isascii() or not value.isprintable():
                raise ConfigError(f"{name}: found characters that no access key has; paste it again")
        for name, value in zip(REPLICA_SECRETS, (self.access_key_id, self.secret), strict=True):
            await asyncio.to_thread(context.vault.set, name, value.encode())
        return {"vault": context.vault.title}


# --------------------------------------------------------------------------------------------------------------- backups


class ShowBackupKey(Operation, frozen=True, kw_only=True):
    """The key that authenticates backups, for the command that writes one; the master key is sealed under it."""

    operation: ClassVar[str] = "backup-key"
    opens_vault: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, str]:
        key = context.sealer.backup_key
        return {"recoveryCode": key.code, "sealedMasterKey": base64.b64encode(key.sealed_master or b"").decode()}


class ShowRecoveryCode(Operation, frozen=True, kw_only=True):
    """The code that restores backups on another machine; shown once unless `again`."""

    operation: ClassVar[str] = "backup-code"
    writes: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: Show it although it was shown before.
    again: bool = False

    async def run(self, context: OperatorContext) -> dict[str, str]:
        shown = context.data_dir / CODE_SHOWN_FILE
        if shown.exists() and not self.again:
            raise ConfigError(
                "the recovery code was shown before; if you do not have it any more, show it once more with --again"
            )
        key = context.sealer.backup_key
        await asyncio.to_thread(write_private, shown, b"")
        return {"recoveryCode": key.code, "keyId": key.id}


# ---------------------------------------------------------------------------------------------------------- exchange key


class ShowVenue(Operation, frozen=True, kw_only=True):
    """Venue and account that commands about keys mean unless they name others, as the bridge's settings have them."""

    operation: ClassVar[str] = "keys-venue"
    needs_data: ClassVar[bool] = False

    #: Venue that a command names; None: that of the bridge.
    mode: Mode | None = None

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        mode, exchange = self.mode or context.mode, context.settings.exchange
        return {
            "mode": mode.value,
            "accountId": exchange.account_id,
            "brokerId": exchange.broker_id,
        }


class _KeyOperation(Operation, frozen=True, kw_only=True):
    """An operation on the key of one account at one venue."""

    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 60.0

    #: Venue: testnet or live.
    mode: Mode
    #: Orderly account, 0x and 64 hex digits.
    account_id: str


class AddKey(_KeyOperation, frozen=True, kw_only=True):
    """Store the secret of an existing key. Returns its public key, the vault, and what the exchange says about it."""

    operation: ClassVar[str] = "keys-add"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True

    #: base58 of 32 or 64 bytes, with or without `ed25519:`.
    secret: str
    #: Store it even if the exchange does not accept it.
    force: bool = False

    def __repr__(self) -> str:
        return f"AddKey({self.account_id!r})"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        orderly_key = context.keys.public_key(self.secret)
        checks = [to_jsonable(check) for check in await context.keys.checks(self.mode, self.account_id, self.secret)]
        broken = [check for check in checks if check["level"] == "broken" and check["name"] != "exchange"]
        if broken and not self.force:
            raise ConfigError(
                f"{orderly_key} was not stored: {broken[0]['text']}; {broken[0]['fix']} (--force stores it anyway)"
            )
        await store_secret(context, self.mode, orderly_secret(self.account_id), self.secret)
        key = exchange_keys.KnownKey(self.account_id, orderly_key, self.mode, context.clock())
        await context.database.write(exchange_keys.add_key, key, now=context.clock())
        return {
            "orderlyKey": orderly_key,
            "vault": context.vault.name,
            "description": context.vault.description,
            "checks": checks,
        }


class GenerateKey(Operation, frozen=True, kw_only=True):
    """Generate a key and keep it as pending until it is registered. Returns its public key and the vault."""

    operation: ClassVar[str] = "keys-generate"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: Venue: testnet or live.
    mode: Mode

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        account_id = context.settings.exchange.account_id
        if await asyncio.to_thread(context.vault.is_provided, orderly_secret(account_id)):
            raise VaultError(
                f"the {context.vault.title} provides orderly-secret, which only its provider can replace: run"
                " `kekbridge keys generate --print-secret`, put the secret there, then run `kekbridge keys register`"
            )
        secret = exchange_keys.new_secret()
        await store_secret(context, self.mode, exchange_keys.PENDING, secret)
        return {"orderlyKey": context.keys.public_key(secret), "vault": context.vault.name}


class ShowPendingKey(_KeyOperation, frozen=True, kw_only=True):
    """The public key that is to be registered: the pending one, else one that the vault's provider was given."""

    operation: ClassVar[str] = "keys-pending"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        pending = await asyncio.to_thread(context.vault.get, exchange_keys.PENDING)
        if pending is not None:
            return {"orderlyKey": context.keys.public_key(pending.decode()), "isPending": True}
        name, provided = orderly_secret(self.account_id), None
        if await asyncio.to_thread(context.vault.is_provided, name):  # a key of `keys generate --print-secret`
            provided = await asyncio.to_thread(context.vault.get, name)
        if provided is None:
            raise NotFound("key_missing", "no key to register; generate one with `kekbridge keys generate`")
        return {"orderlyKey": context.keys.public_key(provided.decode()), "isPending": False}


class ListKeys(_KeyOperation, frozen=True, kw_only=True):
    """The account's keys at the exchange; the one of this vault is marked."""

    operation: ClassVar[str] = "keys-list"

    async def run(self, context: OperatorContext) -> list[dict[str, Any]]:
        secret = await _secret_of(context, self.mode, self.account_id)
        own = context.keys.public_key(secret)
        async with context.keys.calls(self.mode, self.account_id, secret) as calls:
            return [_key_data(key, own) for key in await calls.keys()]


class CheckKey(_KeyOperation, frozen=True, kw_only=True):
    """Check the key in the vault with the exchange."""

    operation: ClassVar[str] = "keys-check"

    async def run(self, context: OperatorContext) -> list[dict[str, Any]]:
        secret = await _secret_of(context, self.mode, self.account_id)
        return [to_jsonable(check) for check in await context.keys.checks(self.mode, self.account_id, secret)]


class ShowOwnAddress(Operation, frozen=True, kw_only=True):
    """This machine's IP address, as the exchange sees it; empty if the exchange does not report it."""

    operation: ClassVar[str] = "keys-own-address"
    needs_data: ClassVar[bool] = False
    answer_within_s: ClassVar[float] = 60.0

    #: Venue.
    mode: Mode

    async def run(self, context: OperatorContext) -> dict[str, str]:
        async with context.keys.wallet_calls(self.mode) as calls:
            return {"address": await calls.own_address()}


class RestrictKey(_KeyOperation, frozen=True, kw_only=True):
    """Restrict the key in the vault to addresses: those given, this machine's (`here`), or none (neither). Returns them."""

    operation: ClassVar[str] = "keys-restrict-ip"

    #: IP addresses, or ranges such as 203.0.113.1-203.0.113.9.
    addresses: tuple[str, ...] = ()
    #: This machine's address, as the exchange sees it.
    here: bool = False

    def __post_init__(self) -> None:
        for text in self.addresses:
            _address(text)

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        secret = await _secret_of(context, self.mode, self.account_id)
        own = context.keys.public_key(secret)
        addresses = tuple(_address(text) for text in self.addresses)
        async with context.keys.calls(self.mode, self.account_id, secret) as calls:
            if self.here:
                addresses = (_address(await calls.own_address()),)
            if addresses:
                await calls.restrict(own, addresses)
            else:
                await calls.allow_everywhere(own)
        return {"orderlyKey": own, "addresses": list(addresses)}


class ShowKey(_KeyOperation, frozen=True, kw_only=True):
    """The public key of the account's secret in the vault."""

    operation: ClassVar[str] = "keys-show"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return {"orderlyKey": context.keys.public_key(await _secret_of(context, self.mode, self.account_id))}


class RemoveKey(_KeyOperation, frozen=True, kw_only=True):
    """Revoke a key at the exchange and remove it from the vault, or only the latter (`local`)."""

    operation: ClassVar[str] = "keys-remove"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True

    #: A public key of the account; None: the one in the vault.
    orderly_key: str | None = None
    #: Leave it valid at the exchange.
    local: bool = False

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        secret = await _secret_of(context, self.mode, self.account_id)
        own = context.keys.public_key(secret)
        target = self.orderly_key or own
        if _is_paper_account(self.mode, self.account_id) and target == PAPER_ORDERLY_KEY:
            raise ConfigError("the paper exchange's own key stays: a paper bridge trades with it; nothing was removed")
        if not self.local:
            async with context.keys.calls(self.mode, self.account_id, secret) as calls:
                await calls.remove(target)
        if target == own:
            await asyncio.to_thread(context.vault.delete, orderly_secret(self.account_id))
            await context.database.write(exchange_keys.remove_key, self.account_id, now=context.clock())
        return {"orderlyKey": target, "removedAtExchange": not self.local, "removedHere": target == own}


async def store_secret(context: OperatorContext, mode: Mode, name: str, secret: str) -> None:
    """Store an exchange secret. Raises VaultError if the vault would keep it unencrypted."""
    require_sealed(context, mode)
    await asyncio.to_thread(context.vault.set, name, secret.encode())


def require_sealed(context: OperatorContext, mode: Mode) -> None:
    """Raise VaultError if the vault would keep a key that can trade unencrypted."""
    if context.vault.is_plain and mode is not Mode.PAPER:
        raise VaultError(
            f"the {context.vault.title} is for paper mode only, not {mode.value}: stop the bridge and move the secrets with"
            " `kekbridge vault move --to keyring` or `--to file`"
        )


async def _secret_of(context: OperatorContext, mode: Mode, account_id: str) -> str:
    secret = await asyncio.to_thread(context.vault.get, orderly_secret(account_id))
    if secret is None and _is_paper_account(mode, account_id):
        return PAPER_ORDERLY_SECRET
    if secret is None:
        fix = await asyncio.to_thread(exchange_keys.missing_key_fix, context.vault)
        raise NotFound("key_missing", f"no Orderly key for {account_id} in the {context.vault.title}; {fix}")
    return secret.decode()


def _is_paper_account(mode: Mode, account_id: str) -> bool:
    """True for the account that the paper exchange comes with; its key is no secret."""
    return mode is Mode.PAPER and account_id.lower() == PAPER_ACCOUNT_ID


def _key_data(key: KeyInfo, own: str) -> dict[str, Any]:
    return {
        "orderlyKey": key.orderly_key,
        "scopes": sorted(key.scopes),
        "expiresAt": key.expires_at,
        "status": key.status,
        "tag": key.tag,
        "addressRule": key.ip_rule,
        "addresses": list(key.ip_list),
        "isHere": key.orderly_key == own,
    }


def _address(text: str) -> str:
    """Normalise an IP address or a range of two. Raises ConfigError."""
    parts = [part.strip() for part in text.split("-")]
    try:
        addresses = [ipaddress.ip_address(part) for part in parts]
    except ValueError:
        addresses = []
    if len(addresses) not in (1, 2):
        raise ConfigError(
            f"{text[:60]!r} is not an IP address; write 203.0.113.7, or a range such as 203.0.113.1-203.0.113.9"
        )
    return "-".join(str(address) for address in addresses)
