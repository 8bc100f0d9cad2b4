"""Signatures (ed25519) of requests and stream logins. See docs/internals/orderly.md, section 2.

Checked in this order: headers, timestamp, key, signature, scope. Accepts base64 in both alphabets, with and without
padding, and a signature over the raw or the percent-decoded path.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import unquote

import base58
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from kekbridge.paper.codec import ApiError
from kekbridge.paper.models import ApiKey
from kekbridge.paper.state import ExchangeState

#: Largest difference between a timestamp and the clock.
WINDOW_MS = 300_000


class SignatureVerifier:
    """Verifies signatures against the registered keys."""

    def __init__(self, state: ExchangeState) -> None:
        self.state = state
        self._verify_keys: dict[str, VerifyKey] = {}

    def check_request(self, headers: Mapping[str, str], method: str, target: str, body: bytes, scope: str) -> ApiKey:
        """Return the key that signed a REST request; ApiError -1001 or -1002 if it is not valid.

        `target` is the path with its query string; `scope` is the scope that the key needs.
        """
        account_id = headers.get("orderly-account-id")
        orderly_key = headers.get("orderly-key")
        signature = headers.get("orderly-signature")
        stamp = headers.get("orderly-timestamp")
        if not (account_id and orderly_key and signature and stamp):
            raise ApiError(-1001, "The orderly-* headers of a signed request are missing.")
        self._check_stamp(stamp)
        key = self._check_key(account_id, orderly_key)
        prefix = f"{stamp}{method}".encode()
        messages = [prefix + target.encode() + body]
        decoded = unquote(target)
        if decoded != target:
            messages.append(prefix + decoded.encode() + body)
        if not any(self._is_valid(orderly_key, message, signature) for message in messages):
            raise ApiError(-1001, "The signature does not match the request.")
        if scope not in key.scope.split(","):
            raise ApiError(-1002, f"The key has no {scope} scope.")
        return key

    def check_login(self, account_id: str, orderly_key: str, stamp: str, signature: str) -> ApiKey:
        """Return the key of a stream login, which signs `stamp` (ms) alone; ApiError -1001 or -1002 if not valid."""
        self._check_stamp(stamp)
        key = self._check_key(account_id, orderly_key)
        if not self._is_valid(orderly_key, stamp.encode(), signature):
            raise ApiError(-1001, "The signature does not match the timestamp.")
        return key

    def _check_stamp(self, stamp: str) -> None:
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 16):
            raise ApiError(-1001, "The timestamp must be integer milliseconds.")
        if abs(self.state.clock() - int(stamp)) > WINDOW_MS:
            raise ApiError(-1001, "The timestamp is more than 300 s away from the server's time.")

    def _check_key(self, account_id: str, orderly_key: str) -> ApiKey:
        if not orderly_key.startswith("ed25519:"):
            raise ApiError(-1001, "orderly-key must begin with ed25519: .")
        key = self.state.keys.get(orderly_key)
        if key is None or account_id.lower() != key.account_id or key.status != "ACTIVE":
            raise ApiError(-1002, "The key is not registered for this account.")
        if key.expiration <= self.state.clock():
            raise ApiError(-1002, "The key has expired.")
        return key

    def _is_valid(self, orderly_key: str, message: bytes, signature: str) -> bool:
        raw = decode_signature(signature)
        if raw is None:
            return False
        verify_key = self._verify_keys.get(orderly_key)
        try:
            if verify_key is None:
                verify_key = VerifyKey(base58.b58decode(orderly_key.removeprefix("ed25519:")))
                self._verify_keys[orderly_key] = verify_key
            verify_key.verify(message, raw)
        except (BadSignatureError, ValueError):
            return False
        return True


def decode_signature(text: str) -> bytes | None:
    """Return the 64 bytes of a base64 signature (standard or URL-safe, padded or not); None if it is not one."""
    try:
        raw = base64.b64decode(text.strip().rstrip("=").translate(str.maketrans("-_", "+/")) + "==", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 64 else None
