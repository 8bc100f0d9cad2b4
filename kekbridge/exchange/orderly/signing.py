"""Sign Orderly requests and stream logins: ed25519 over timestamp, method, path and the exact body bytes.

The only holder of the exchange secret in memory: never prints, logs, pickles or returns it. Rules: docs/internals/orderly.md section 2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final, NoReturn

import base58
from nacl.signing import SigningKey

from kekbridge.errors import ConfigError, VaultError

KEY_PREFIX: Final = "ed25519:"
_ACCOUNT_ID: Final = re.compile(r"0x[0-9a-fA-F]{64}")
_SEED_BYTES: Final = 32
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_CONTENT_TYPES: Final[Mapping[str, str]] = {"GET": _FORM, "DELETE": _FORM, "POST": _JSON, "PUT": _JSON}


class Signer:
    """An account id with its key. `secret`: base58 of 32 bytes (seed) or 64 bytes (seed and public key), with or without `ed25519:`.

    Raises ConfigError for a malformed account id and VaultError for a malformed secret; neither message quotes the secret.
    """

    __slots__ = ("_account_id", "_key", "_orderly_key")

    def __init__(self, account_id: str, secret: str) -> None:
        account_id = account_id.strip()
        if not _ACCOUNT_ID.fullmatch(account_id):
            raise ConfigError(
                f"exchange.account_id has {len(account_id)} characters, expected 0x and 64 hex digits; "
                "copy the account id from the exchange's API-key page",
                field="exchange.account_id",
            )
        self._account_id = account_id
        self._key = SigningKey(_seed_of(secret))
        self._orderly_key = KEY_PREFIX + base58.b58encode(bytes(self._key.verify_key)).decode("ascii")

    @property
    def account_id(self) -> str:
        return self._account_id

    @property
    def orderly_key(self) -> str:
        """The public key as the exchange writes it: `ed25519:` and base58."""
        return self._orderly_key

    def sign_request(self, timestamp_ms: int, method: str, path: str, body: bytes = b"") -> dict[str, str]:
        """Headers for one request: `path` from `/v1` with its query as in the request line, `body` exactly the bytes sent.

        `timestamp_ms` is Unix ms; `method` is GET, POST, PUT or DELETE in upper case; GET and DELETE have no body.
        """
        message = f"{timestamp_ms}{method}{path}".encode("ascii") + body
        return {
            "orderly-account-id": self._account_id,
            "orderly-key": self._orderly_key,
            "orderly-signature": self._sign(message),
            "orderly-timestamp": str(timestamp_ms),
            "Content-Type": _CONTENT_TYPES[method],
        }

    def sign_login(self, timestamp_ms: int) -> str:
        """The `sign` of a stream login: the signature of the timestamp's digits (section 12)."""
        return self._sign(str(timestamp_ms).encode("ascii"))

    def _sign(self, message: bytes) -> str:
        return base64.urlsafe_b64encode(self._key.sign(message).signature).decode("ascii")

    def __repr__(self) -> str:
        # PyNaCl prints the raw seed in str() of a key (docs/internals/reliability.md section 8.7): nothing of it may appear here.
        return f"Signer(account_id={self._account_id!r}, orderly_key={self._orderly_key!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # Covers pickle, copy and deepcopy: a second copy of the secret is a second place to lose it.
        raise TypeError("a Signer cannot be copied or pickled: it holds the secret key")


def _seed_of(secret: str) -> bytes:
    text = secret.strip().removeprefix(KEY_PREFIX).strip()
    try:
        raw = base58.b58decode(text)
    except ValueError:
        raise _unreadable("characters that are not base58") from None
    if len(raw) == _SEED_BYTES:
        return raw
    if len(raw) != 2 * _SEED_BYTES:
        raise _unreadable(f"{len(raw)} bytes")
    # Some tools return seed and public key together; a wrong second half means that the text was damaged.
    seed, public = raw[:_SEED_BYTES], raw[_SEED_BYTES:]
    if bytes(SigningKey(seed).verify_key) != public:
        raise _unreadable("64 bytes whose second half is not the public key of the first")
    return seed


def _unreadable(found: str) -> VaultError:
    return VaultError(
        f"the exchange secret cannot be read: found {found}, expected base58 of 32 bytes (or 64 with the public key), "
        "with or without ed25519: in front; enter it again with `kekbridge keys add`"
    )
