"""The key of backups: authenticates each one, and opens the master key that is sealed inside it.

It is derived from the master key, so that a machine checks its own backups without being asked. Its owner keeps it as the recovery code:
on another machine the code alone proves that a backup is genuine, and brings the master key there.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

import nacl.exceptions
import nacl.secret

from kekbridge.errors import VaultError

MASTER_KEY_BYTES: Final = 32
_CHECK_BYTES: Final = 2
# Crockford's alphabet: no letter that is taken for another one or for a digit.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS: Final = str.maketrans("OIL", "011")
_GROUP: Final = 5
_CODE_LENGTH: Final = -(-(MASTER_KEY_BYTES + _CHECK_BYTES) * 8 // 5)


class BackupKey:
    """The key of one data directory's backups."""

    def __init__(self, key: bytes, sealed_master: bytes | None = None) -> None:
        """`key`: 32 bytes; `sealed_master`: the master key that it is derived from, sealed under it; None if only the code is known."""
        self._key = key
        self._mac_key = _derive(key, b"kekbridge mac")
        self._box = nacl.secret.SecretBox(_derive(key, b"kekbridge master"))
        self.sealed_master = sealed_master
        #: Tells keys apart; reveals nothing of the key.
        self.id = hashlib.blake2b(key=key, digest_size=8, person=b"kekbridge bk id").hexdigest()

    def __repr__(self) -> str:
        return f"BackupKey({self.id})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a BackupKey cannot be copied or pickled")

    @classmethod
    def from_master(cls, master: bytes) -> BackupKey:
        """Derive it from a master key."""
        key = _derive(master, b"kekbridge backup")
        return cls(key, bytes(cls(key)._box.encrypt(master)))

    @classmethod
    def from_code(cls, text: str, sealed_master: bytes | None = None) -> BackupKey:
        """Read a recovery code; case, spaces and dashes do not matter. Raises VaultError, which does not quote it."""
        code = re.sub(r"[\s-]", "", text).upper().translate(_READ_AS)
        if len(code) != _CODE_LENGTH or not set(code) <= set(_ALPHABET):
            raise VaultError(
                f"the recovery code has {len(code)} letters and digits, expected {_CODE_LENGTH}; `kekbridge backup key` shows it"
            )
        number = 0
        for character in code:
            number = number * 32 + _ALPHABET.index(character)
        whole = (number % (1 << 8 * (MASTER_KEY_BYTES + _CHECK_BYTES))).to_bytes(MASTER_KEY_BYTES + _CHECK_BYTES, "big")
        key, check = whole[:MASTER_KEY_BYTES], whole[MASTER_KEY_BYTES:]
        if not hmac.compare_digest(check, _check(key)):
            raise VaultError("the recovery code has a typing error: its last characters do not match the others")
        return cls(key, sealed_master)

    @property
    def code(self) -> str:
        """The recovery code."""
        number = int.from_bytes(self._key + _check(self._key), "big")
        characters = [_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_CODE_LENGTH))]
        return "-".join("".join(characters[at : at + _GROUP]) for at in range(0, _CODE_LENGTH, _GROUP))

    def mac(self) -> hmac.HMAC:
        """A fresh HMAC-SHA256, to be fed with a backup's bytes."""
        return hmac.new(self._mac_key, digestmod="sha256")

    def open_master(self, sealed: bytes) -> bytes:
        """The master key in a backup. Raises VaultError if it was sealed under another key or altered."""
        try:
            master = self._box.decrypt(sealed)
        except (nacl.exceptions.CryptoError, ValueError):
            raise VaultError("the master key in the backup cannot be opened with this recovery code") from None
        if not hmac.compare_digest(_derive(master, b"kekbridge backup"), self._key):
            raise VaultError("the master key in the backup is not the one that the recovery code belongs to")
        return master


def _check(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_CHECK_BYTES, person=b"kekbridge code").digest()


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=key, digest_size=32, person=purpose).digest()
