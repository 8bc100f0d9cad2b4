"""Seal webhook credentials for the database and secrets for a vault's files with the master key; compute the hash of apiKeys.

Does not know where the master key is stored. A stolen database alone reveals no credential and verifies no guess
(docs/internals/architecture.md section 4).
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import nacl.exceptions
import nacl.secret

from kekbridge.errors import VaultError
from kekbridge.vault.recovery import MASTER_KEY_BYTES, BackupKey


class Sealer:
    """Seals and opens small secrets under keys derived from the master key; one derived key per purpose."""

    def __init__(self, master: bytes) -> None:
        if len(master) != MASTER_KEY_BYTES:
            raise VaultError(f"the master key has {len(master)} bytes, expected {MASTER_KEY_BYTES}")
        self._box = nacl.secret.SecretBox(_derive(master, b"kekbridge seal"))
        self._lookup_key = _derive(master, b"kekbridge look")
        #: Authenticates the backups of this data directory.
        self.backup_key = BackupKey.from_master(master)

    def __repr__(self) -> str:
        # PyNaCl prints raw keys in its own repr (docs/internals/reliability.md section 8.7): nothing of it may appear here.
        return "Sealer()"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Sealer cannot be copied or pickled: it holds keys")

    def seal(self, secret: bytes) -> bytes:
        """Encrypt and authenticate a secret under a fresh nonce (XSalsa20-Poly1305)."""
        return bytes(self._box.encrypt(secret))

    def open(self, sealed: bytes) -> bytes:
        """Decrypt a sealed secret. Raises VaultError if it was sealed under another master key or altered."""
        try:
            return self._box.decrypt(sealed)
        except (nacl.exceptions.CryptoError, ValueError):
            raise VaultError(
                "a sealed secret cannot be opened with this master key; restore the vault that belongs to this database"
            ) from None

    def lookup(self, api_key: str) -> bytes:
        """The keyed hash by which a webhook's apiKey is looked up; without the master key it reveals nothing of the apiKey."""
        # An apiKey comes from outside and may hold lone surrogates, which plain UTF-8 refuses.
        text = api_key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._lookup_key, digest_size=32).digest()


def master_key_id(master: bytes) -> str:
    """A short id of a master key, to check whether a vault and a data directory belong together; reveals nothing of the key."""
    return hashlib.blake2b(key=master, digest_size=8, person=b"kekbridge name").hexdigest()


def seal_secret(master: bytes, name: str, value: bytes) -> bytes:
    """Seal a vault's secret for a file: bound to its name, so that files cannot be exchanged for one another."""
    return bytes(nacl.secret.SecretBox(_secret_key(master, name)).encrypt(value))


def open_secret(master: bytes, name: str, sealed: bytes) -> bytes:
    """Open what `seal_secret` made. Raises VaultError if it was sealed under another master key or name, or altered."""
    try:
        return nacl.secret.SecretBox(_secret_key(master, name)).decrypt(sealed)
    except (nacl.exceptions.CryptoError, ValueError):
        raise VaultError(
            f"{name} was sealed with another master-key, or its file is damaged; restore that key, or store the secret again"
        ) from None


def decode_master_key(stored: bytes, title: str) -> bytes:
    """The key from its raw bytes, or from base64 or hex text as people store it in a secrets directory. Raises VaultError."""
    if len(stored) == MASTER_KEY_BYTES:
        return stored
    text = stored.strip()
    for decode in (binascii.unhexlify, _decode_base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == MASTER_KEY_BYTES:
            return key
    raise VaultError(
        f"the master-key in the {title} has {len(stored)} bytes,"
        f" expected {MASTER_KEY_BYTES} raw bytes or their base64 or hex text"
    )


def _decode_base64(text: bytes) -> bytes:
    padded = text + b"=" * (-len(text) % 4)
    return base64.b64decode(padded.translate(bytes.maketrans(b"-_", b"+/")), validate=True)


def _secret_key(master: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=_derive(master, b"kekbridge vault"), digest_size=32).digest()


def _derive(master: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=master, digest_size=32, person=purpose).digest()
