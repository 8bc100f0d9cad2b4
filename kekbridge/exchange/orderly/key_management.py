"""Register, list, restrict and remove Orderly keys, for operations.

Each request is sent once, without rate limiter; a rejection is an OperatorError with the exchange's message.
Calls: docs/internals/orderly.md section 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from kekbridge.errors import ExchangeUnavailable, OperatorError
from kekbridge.exchange.base import KeyInfo
from kekbridge.exchange.orderly import classify
from kekbridge.exchange.orderly.account_api import Owner, key_info_of
from kekbridge.exchange.orderly.classify import Found, Missing
from kekbridge.exchange.orderly.endpoints import resolve_urls
from kekbridge.exchange.orderly.orders_api import rows_of
from kekbridge.exchange.orderly.replies import HttpReply
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.exchange.orderly.transport import Transport

# Unlike all others, the codes of wallet calls are small and positive.
_WALLET_CODES: Final = {
    2: "the message is too old: sign it at once, and check this machine's clock",
    3: "the signature is not valid: sign the message exactly as printed",
    9: "the signature was made by another wallet than the one named",
    15: "there is no such broker: check exchange.broker_id",
    29: "the message names another contract than the exchange expects",
}
# For signers whose account is not known yet.
NO_ACCOUNT: Final = "0x" + "0" * 64


class KeyRejected(OperatorError):
    """The exchange rejected a key command; nothing was changed."""

    exit_code = 1


class KeyManagement:
    """Key calls for one account at one network. `async with` opens and closes the connection."""

    def __init__(self, name: str, base_url: str, signer: Signer, *, timeout_s: float) -> None:
        """`signer` signs the account calls; its account may be NO_ACCOUNT while only public and wallet-signed calls are made."""
        self._wire = Transport(resolve_urls(name, base_url, "", "").rest, signer, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        await self._wire.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.close()

    @property
    def base_url(self) -> str:
        return self._wire.base_url

    def time_ms(self) -> int:
        """Unix ms for a wallet's message: our clock, corrected if it is far from the exchange's."""
        return self._wire.signing_time_ms()

    # ------------------------------------------------------------------------------------------------------------- public

    async def account_of(self, address: str, broker_id: str) -> str | None:
        """The account id of a wallet at a broker; None if it is not registered."""
        reply = await self._query(f"/v1/get_account?address={address}&broker_id={broker_id}")
        return None if isinstance(reply, Missing) else str(reply.data.get("account_id") or "") or None

    async def owner(self, account_id: str) -> Owner | None:
        """Wallet and broker of an account; None if there is no such account."""
        reply = await self._query(f"/v1/public/account?account_id={account_id}")
        if isinstance(reply, Missing):
            return None
        return Owner(str(reply.data.get("address") or ""), str(reply.data.get("broker_id") or ""))

    async def key(self, account_id: str, orderly_key: str) -> KeyInfo | None:
        """Scopes and expiry of a registered key; None if the account has no such key."""
        reply = await self._query(f"/v1/get_orderly_key?account_id={account_id}&orderly_key={orderly_key}")
        return None if isinstance(reply, Missing) else key_info_of(reply.data)

    async def own_address(self) -> str:
        """The IP address that the exchange sees requests come from; empty if it does not report one."""
        reply = await self._query("/v1/ip_info")
        return "" if isinstance(reply, Missing) else str(reply.data.get("ip") or "")

    # ------------------------------------------------------------------------------------------------------ wallet-signed

    async def registration_nonce(self) -> int:
        """The nonce to sign into a registration; valid once, for two minutes. Raises ExchangeUnavailable."""
        reply = await self._query("/v1/registration_nonce")
        text = "" if isinstance(reply, Missing) else str(reply.data.get("registration_nonce") or "")
        if not text.isascii() or not text.isdigit():
            raise ExchangeUnavailable("exchange_unreachable", "the exchange gave no registration nonce; try again")
        return int(text)

    async def register_account(self, message: Mapping[str, object], signature: str, address: str) -> str:
        """Register the account; return its id. Raises KeyRejected."""
        data = await self._command("/v1/register_account", _wallet_body(message, signature, address), is_signed=False)
        return str(data.get("account_id") or "")

    async def add_key(self, message: Mapping[str, object], signature: str, address: str) -> str:
        """Add a key to the account; return the public key as the exchange stored it. Raises KeyRejected."""
        data = await self._command("/v1/orderly_key", _wallet_body(message, signature, address), is_signed=False)
        return str(data.get("orderly_key") or "")

    # --------------------------------------------------------------------------------------------------------- key-signed

    async def keys(self) -> tuple[KeyInfo, ...]:
        """All keys of the account with their address rules."""
        return tuple(key_info_of(row) for row in rows_of(await self._query("/v1/client/key_info", is_signed=True)))

    async def remove(self, orderly_key: str) -> None:
        """Revoke a key for good. Raises KeyRejected."""
        await self._command("/v1/client/remove_orderly_key", {"orderly_key": orderly_key})

    async def restrict(self, orderly_key: str, addresses: tuple[str, ...]) -> None:
        """Restrict a key to these addresses or ranges. Raises KeyRejected."""
        body = {"orderly_key": orderly_key, "ip_restriction_list": ",".join(addresses)}
        await self._command("/v1/client/set_orderly_key_ip_restriction", body)

    async def allow_everywhere(self, orderly_key: str) -> None:
        """Remove the address rule of a key. Raises KeyRejected."""
        body = {"orderly_key": orderly_key, "reset_mode": "ALLOW_ALL_IPS"}
        await self._command("/v1/client/reset_orderly_key_ip_restriction", body)

    # ------------------------------------------------------------------------------------------------------------- private

    async def _query(self, path: str, *, is_signed: bool = False) -> Found | Missing:
        result = await self._wire.send("GET", path, is_signed=is_signed)
        answer = classify.query(result)
        if isinstance(answer, classify.Unavailable):
            if isinstance(result, HttpReply) and result.is_json and result.status < 500:
                raise _rejected(path, result)
            raise ExchangeUnavailable(answer.code, f"{self.base_url} gave no usable answer: {answer.reason}")
        return answer

    async def _command(self, path: str, body: Mapping[str, object], *, is_signed: bool = True) -> Mapping[str, Any]:
        result = await self._wire.send("POST", path, body=_encode(body), is_signed=is_signed)
        if not isinstance(result, HttpReply):
            raise ExchangeUnavailable(
                "exchange_unreachable",
                f"{self.base_url} gave no answer ({result.reason}); check with `kekbridge keys list` before trying again",
            )
        if not result.is_json or result.status >= 400 or not result.success:
            raise _rejected(path, result)
        return result.data


def _wallet_body(message: Mapping[str, object], signature: str, address: str) -> dict[str, object]:
    # chainType is not signed: it names the kind of wallet that signed.
    return {"message": {**message, "chainType": "EVM"}, "signature": signature, "userAddress": address}


def _encode(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def _rejected(path: str, reply: HttpReply) -> KeyRejected:
    meaning = _WALLET_CODES.get(reply.code or 0)
    hint = f": {meaning}" if meaning else ""
    return KeyRejected("key_refused", f"the exchange refused {path.partition('?')[0]} ({reply.description}){hint}")
