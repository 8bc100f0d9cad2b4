"""Who signed this? ed25519 checks of requests and stream logins (orderly-api.md section 2).

Order of checks: headers, timestamp, key, signature, scope (section 16). It accepts the four base64 spellings
and a signature over the raw or the percent-decoded path.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import unquote

import base58
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from kekbridge.paper.codec import Refusal
from kekbridge.paper.models import Key
from kekbridge.paper.settings import PAPER_ACCOUNT_ID
from kekbridge.paper.state import Engine

WINDOW_MS = 300_000


class Gate:
    """Checks signatures against the registered keys."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._verifiers: dict[str, VerifyKey] = {}

    def check_request(self, headers: Mapping[str, str], method: str, target: str, body: bytes, scope: str) -> Key:
        """The key that signed a REST request, or the Refusal."""
        account_id = headers.get("orderly-account-id")
        orderly_key = headers.get("orderly-key")
        signature = headers.get("orderly-signature")
        stamp = headers.get("orderly-timestamp")
        if not (account_id and orderly_key and signature and stamp):
            raise Refusal(-1001, "The orderly-* headers of a signed request are missing.")
        self._check_stamp(stamp)
        key = self._check_key(account_id, orderly_key)
        prefix = f"{stamp}{method}".encode()
        messages = [prefix + target.encode() + body]
        decoded = unquote(target)
        if decoded != target:
            messages.append(prefix + decoded.encode() + body)
        if not any(self._verified(orderly_key, message, signature) for message in messages):
            raise Refusal(-1001, "The signature does not match the request.")
        if scope not in key.scope.split(","):
            raise Refusal(-1002, f"The key has no {scope} scope.")
        return key

    def check_login(self, account_id: str, orderly_key: str, stamp: str, signature: str) -> Key:
        """The key of a stream login; the signed message is the timestamp's digits."""
        self._check_stamp(stamp)
        key = self._check_key(account_id, orderly_key)
        if not self._verified(orderly_key, stamp.encode(), signature):
            raise Refusal(-1001, "The signature does not match the timestamp.")
        return key

    def _check_stamp(self, stamp: str) -> None:
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 16):
            raise Refusal(-1001, "The timestamp must be integer milliseconds.")
        if abs(self.engine.clock() - int(stamp)) > WINDOW_MS:
            raise Refusal(-1001, "The timestamp is more than 300 s away from the server's time.")

    def _check_key(self, account_id: str, orderly_key: str) -> Key:
        if not orderly_key.startswith("ed25519:"):
            raise Refusal(-1001, "orderly-key must begin with ed25519: .")
        key = self.engine.keys.get(orderly_key)
        known = account_id.lower() == PAPER_ACCOUNT_ID
        if key is None or not known or key.status != "ACTIVE":
            raise Refusal(-1002, "The key is not registered for this account.")
        if key.expiration <= self.engine.clock():
            raise Refusal(-1002, "The key has expired.")
        return key

    def _verified(self, orderly_key: str, message: bytes, signature: str) -> bool:
        raw = decode_signature(signature)
        if raw is None:
            return False
        verifier = self._verifiers.get(orderly_key)
        try:
            if verifier is None:
                verifier = VerifyKey(base58.b58decode(orderly_key.removeprefix("ed25519:")))
                self._verifiers[orderly_key] = verifier
            verifier.verify(message, raw)
        except (BadSignatureError, ValueError):
            return False
        return True


def decode_signature(text: str) -> bytes | None:
    """64 signature bytes from base64, url-safe or standard, padded or not; None when it is neither."""
    try:
        raw = base64.b64decode(text.strip().rstrip("=").translate(str.maketrans("-_", "+/")) + "==", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 64 else None
