"""Operations that register a key with the signature of a wallet: prepare what it signs, send what it signed, keep the key.

The key's secret is in the vault before anything is signed, so that a lost answer of the exchange loses no key. Everything that a wallet
signs is prepared at once and checked at once: unless all of it is signed, nothing is sent. Messages: docs/internals/orderly.md section 3.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, ClassVar, Final

from msgspec import Struct

from kekbridge.errors import ConfigError, ExchangeUnavailable, NotFound, VaultError
from kekbridge.exchange.base import KeyInfo
from kekbridge.formatting import to_jsonable
from kekbridge.model import Mode
from kekbridge.ops import exchange_keys
from kekbridge.ops.operation import Operation, OperatorContext, WalletCalls
from kekbridge.ops.vault_operations import GenerateKey, require_sealed, store_secret
from kekbridge.vault import orderly_secret
from kekbridge.wallet import signing, typed_data
from kekbridge.wallet.chains import CHAINS
from kekbridge.wallet.typed_data import ADD_ORDERLY_KEY, REGISTRATION, SCOPES

_BROKER_ID: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_MOST_DAYS: Final = 365


class SignedMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a wallet signed."""

    #: The fields of the message, as `keys-prepare` returned them.
    message: dict[str, Any]
    #: The wallet's signature, 0x and 130 hex digits.
    signature: str


class _WalletOperation(Operation, frozen=True, kw_only=True):
    """An operation on the account of a wallet at one broker."""

    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True
    answer_within_s: ClassVar[float] = 60.0

    #: Venue.
    mode: Mode
    #: Address of the wallet, 0x and 40 hex digits.
    wallet: str
    #: Broker of the account, such as kek_ai.
    broker_id: str

    def __post_init__(self) -> None:
        signing.check_address(self.wallet)
        if not _BROKER_ID.fullmatch(self.broker_id):
            raise ConfigError(
                f"broker id: found {self.broker_id[:60]!r}, expected lower-case letters, digits, _ and -, such as kek_ai"
            )


class PrepareKey(_WalletOperation, frozen=True, kw_only=True):
    """Return the pending key, and the messages that the wallet has to sign for it.

    First the registration, if the wallet has no account at the broker; then the key. None if the pending key is registered already: the
    exchange's answer was lost the last time, and `keys-register` keeps it without a signature.
    """

    operation: ClassVar[str] = "keys-prepare"

    #: Generate a key if none is pending.
    generate: bool = False
    #: Chain id that the wallet signs for; None: the venue's usual one.
    chain_id: int | None = None
    #: Scopes of the key, comma-separated: read and trading, and asset only if it must move funds.
    scope: str = "read,trading"
    #: Days until the key expires, 1 to 365.
    days: int = _MOST_DAYS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scope(self.scope)
        if not 1 <= self.days <= _MOST_DAYS:
            raise ConfigError(
                f"days: found {self.days}, expected 1 to {_MOST_DAYS}, the most that the exchange accepts"
            )

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        await asyncio.to_thread(_load_signing)
        wallet, chain_id = signing.checksummed(self.wallet.strip()), self.chain_id or CHAINS[self.mode.value].chain_id
        key = await _key_to_register(context, self.mode, generates=self.generate)
        async with context.keys.wallet_calls(self.mode) as calls:
            account_id = await _account_of(calls, wallet, self.broker_id)
            is_registered = account_id is not None and await calls.key(account_id, key.public) is not None
            messages = []
            if account_id is None:
                nonce = await calls.registration_nonce()
                messages.append(
                    typed_data.registration(
                        broker_id=self.broker_id, chain_id=chain_id, timestamp_ms=calls.time_ms(), nonce=nonce
                    )
                )
            if not is_registered:
                at = calls.time_ms()
                messages.append(
                    typed_data.add_orderly_key(
                        broker_id=self.broker_id,
                        chain_id=chain_id,
                        orderly_key=key.public,
                        scope=check_scope(self.scope),
                        timestamp_ms=at,
                        expires_ms=at + self.days * typed_data.DAY_MS,
                    )
                )
        return {
            "wallet": wallet,
            "accountId": account_id,
            "orderlyKey": key.public,
            "isNew": key.is_new,
            "messages": messages,
        }


class RegisterKey(_WalletOperation, frozen=True, kw_only=True):
    """Send what the wallet signed: the registration, the key, or both in this order; keep the key in the vault and check it.

    Nothing is sent unless every message is recent, for the pending key, and signed by the wallet (which needs the extra `wallet` to tell;
    without it the exchange does). A registration alone returns only the account.
    """

    operation: ClassVar[str] = "keys-register"

    #: Signed messages in the order of `keys-prepare`; none if the pending key is registered already.
    signed: tuple[SignedMessage, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = [typed_data.from_message(each.message)["primaryType"] for each in self.signed]
        if kinds not in ([], [REGISTRATION], [ADD_ORDERLY_KEY], [REGISTRATION, ADD_ORDERLY_KEY]):
            raise ConfigError(
                f"signed messages: found {', '.join(kinds)}, expected at most {REGISTRATION}, {ADD_ORDERLY_KEY}"
            )

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        await asyncio.to_thread(_load_signing)
        wallet = signing.checksummed(self.wallet.strip())
        key = await _key_to_register(context, self.mode, generates=False)
        async with context.keys.wallet_calls(self.mode) as calls:
            account_id = await _account_of(calls, wallet, self.broker_id)
            signatures = [await self._checked(each, wallet, key.public, calls.time_ms()) for each in self.signed]
            info: KeyInfo | None = None
            for each, signature in zip(self.signed, signatures, strict=True):
                if "registrationNonce" in each.message:
                    if account_id is None:
                        account_id = _own_account(
                            await calls.register_account(each.message, signature, wallet), wallet, self.broker_id
                        )
                else:
                    await calls.add_key(each.message, signature, wallet)
            if account_id is None:
                raise ConfigError(f"{wallet} has no account at {self.broker_id}; sign the registration, too")
            result: dict[str, Any] = {"accountId": account_id, "wallet": wallet, "brokerId": self.broker_id}
            if self.signed and "orderlyKey" not in self.signed[-1].message:
                return result
            info = await calls.key(account_id, key.public)
        if info is None:
            raise ExchangeUnavailable(
                "exchange_unreachable",
                f"the exchange does not list {key.public} yet; register it again in a minute: it is kept until then",
            )
        if key.is_pending:
            await _keep(context, self.mode, account_id, key)
        checks = [to_jsonable(one) for one in await context.keys.checks(self.mode, account_id, key.secret)]
        return result | {
            "orderlyKey": key.public,
            "scopes": sorted(info.scopes),
            "expiresAt": info.expires_at,
            "checks": checks,
        }

    async def _checked(self, each: SignedMessage, wallet: str, orderly_key: str, now_ms: int) -> str:
        """The signature, as the exchange takes it. Raises ConfigError if it cannot be accepted there."""
        typed = typed_data.from_message(each.message)
        signature = signing.check_signature(each.signature)
        if each.message["brokerId"] != self.broker_id:
            raise ConfigError(
                f"the message is for broker {each.message['brokerId']}, not {self.broker_id}; nothing was sent"
            )
        if each.message.get("orderlyKey", orderly_key) != orderly_key:
            raise ConfigError(
                f"the message is for {each.message['orderlyKey']}, but another key was generated meanwhile; start again"
            )
        if abs(now_ms - each.message["timestamp"]) > typed_data.VALID_MS:
            raise ConfigError(
                "the message is older than 5 minutes, and the exchange no longer accepts it; sign a new one"
            )
        if signing.is_available():
            signer = await asyncio.to_thread(signing.signer_of, typed, signature)
            if signer.lower() != wallet.lower():
                raise ConfigError(
                    f"the signature is by {signer}, not by {wallet}, or the message was changed; nothing was sent"
                )
        return signature


class DiscardPendingKey(Operation, frozen=True, kw_only=True):
    """Delete the pending key from the vault; no error if it is another one, or none."""

    operation: ClassVar[str] = "keys-discard"
    writes: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    opens_vault: ClassVar[bool] = True

    #: Its public key.
    orderly_key: str

    async def run(self, context: OperatorContext) -> dict[str, bool]:
        pending = await asyncio.to_thread(context.vault.get, exchange_keys.PENDING)
        is_meant = pending is not None and exchange_keys.public_key(pending.decode()) == self.orderly_key
        if is_meant:
            await asyncio.to_thread(context.vault.delete, exchange_keys.PENDING)
        return {"discarded": is_meant}


class _NewKey(Struct, frozen=True):
    """The key that is to be registered."""

    secret: str
    #: It was generated for this, just now.
    is_new: bool
    #: It has no account yet; False: the vault's provider holds it under its account's name already.
    is_pending: bool

    @property
    def public(self) -> str:
        return exchange_keys.public_key(self.secret)


def check_scope(text: str) -> str:
    """Return the scopes in the exchange's order. Raises ConfigError for an unknown one, or if read or trading is missing."""
    given = {part.strip() for part in text.split(",")}
    if not given <= set(SCOPES) or not {"read", "trading"} <= given:
        raise ConfigError(
            f"scope: found {text[:60]!r}, expected read,trading (add asset only if the key must move funds)",
            field="scope",
        )
    return ",".join(scope for scope in SCOPES if scope in given)


async def _key_to_register(context: OperatorContext, mode: Mode, *, generates: bool) -> _NewKey:
    """The pending key, else one that the vault's provider was given, else a new one. Raises NotFound, VaultError."""
    require_sealed(context, mode)
    is_new = False
    pending = await asyncio.to_thread(context.vault.get, exchange_keys.PENDING)
    if pending is None:
        name = orderly_secret(context.settings.exchange.account_id)
        if await asyncio.to_thread(context.vault.is_provided, name):  # a key of `keys generate --print-secret`
            provided = await asyncio.to_thread(context.vault.get, name)
            if provided is not None:
                return _NewKey(provided.decode(), is_new=False, is_pending=False)
        if not generates:
            raise NotFound("key_missing", "no key to register; generate one with `kekbridge keys generate`")
        await GenerateKey(mode=mode).run(context)
        pending, is_new = await asyncio.to_thread(context.vault.get, exchange_keys.PENDING), True
    if pending is None:
        raise VaultError(f"the {context.vault.title} did not keep the new key; see `kekbridge vault status`")
    return _NewKey(pending.decode(), is_new=is_new, is_pending=True)


async def _account_of(calls: WalletCalls, wallet: str, broker_id: str) -> str | None:
    """The wallet's account at the broker; None without one. Raises ConfigError if it cannot be this wallet's."""
    account_id = await calls.account_of(wallet, broker_id)
    return None if account_id is None else _own_account(account_id, wallet, broker_id)


def _own_account(account_id: str, wallet: str, broker_id: str) -> str:
    if signing.is_available() and account_id.lower() != signing.account_id(wallet, broker_id):
        raise ConfigError(
            f"the exchange returned account {account_id[:80]}, which does not belong to {wallet} at {broker_id};"
            " no key was registered"
        )
    return account_id


async def _keep(context: OperatorContext, mode: Mode, account_id: str, key: _NewKey) -> None:
    """Store the key under its account's name first, then no longer as pending: a crash in between loses nothing."""
    await store_secret(context, mode, orderly_secret(account_id), key.secret)
    await asyncio.to_thread(context.vault.delete, exchange_keys.PENDING)
    known = exchange_keys.KnownKey(account_id, key.public, mode, context.clock())
    await context.database.write(exchange_keys.add_key, known, now=context.clock())


def _load_signing() -> None:
    """Import what verifies signatures, which takes a second: in a thread, so that the event loop goes on answering alerts."""
    if signing.is_available():
        signing.digest(typed_data.registration(broker_id="", chain_id=1, timestamp_ms=0, nonce=0))
