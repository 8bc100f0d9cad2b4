"""The passphrase vault, for servers without a keyring: one encrypted file (argon2id, then XSalsa20-Poly1305).

The key is derived once, when the vault is opened; every access reads the file again, so that the command line and the daemon may use it
at the same time. The passphrase itself is not kept.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.pwhash
import nacl.secret
import nacl.utils

from kekbridge.errors import VaultError
from kekbridge.vault.files import exclusive_lock, read_private, write_private

_LOCK = "vault.sealed.lock"  # not vault.lock, which is held while the master key is created
MIN_PASSPHRASE_LENGTH = 12
_KDF = nacl.pwhash.argon2id
_MAX_MEMORY = 1 << 30  # bytes; more than this must not be demanded by a file


class PassphraseVault:
    """An encrypted file of named secrets."""

    name = "file"
    is_plain = False
    is_writable = True

    def __init__(self, path: Path, box: nacl.secret.SecretBox, header: dict[str, Any]) -> None:
        self._path = path
        self._box = box
        self._header = header

    def __repr__(self) -> str:
        return f"PassphraseVault({str(self._path)!r})"

    @classmethod
    def create(
        cls,
        path: Path,
        passphrase: str,
        *,
        operations: int = _KDF.OPSLIMIT_MODERATE,
        memory: int = _KDF.MEMLIMIT_MODERATE,
    ) -> PassphraseVault:
        """Create an empty vault file, or open an existing one. Intentionally takes about 0.4 s and 256 MiB.

        `operations` and `memory` are argon2id's passes and bytes; the file records them. Raises VaultError for a short passphrase.
        """
        if len(passphrase) < MIN_PASSPHRASE_LENGTH:
            raise VaultError(
                f"the vault's passphrase has {len(passphrase)} characters, expected at least {MIN_PASSPHRASE_LENGTH};"
                " use about five random words"
            )
        header = {
            "version": 1,
            "kdf": "argon2id",
            "operations": operations,
            "memory": memory,
            "salt": base64.b64encode(nacl.utils.random(_KDF.SALTBYTES)).decode(),
        }
        with exclusive_lock(path.parent, _LOCK):
            if path.exists():
                return cls.open(path, passphrase)
            vault = cls(path, _box(passphrase, header), header)
            vault._write({})
        return vault

    @classmethod
    def open(cls, path: Path, passphrase: str) -> PassphraseVault:
        """Open the file. Raises VaultError if the passphrase is wrong or the file is damaged."""
        content = _read(path)
        header = {key: value for key, value in content.items() if key != "sealed"}
        vault = cls(path, _box(passphrase, header), header)
        vault._secrets()  # a wrong passphrase must fail now, not at the first order
        return vault

    @property
    def title(self) -> str:
        return f"passphrase-encrypted file {self._path}"

    def is_provided(self, name: str) -> bool:
        return False

    def get(self, name: str) -> bytes | None:
        value = self._secrets().get(name)
        return None if value is None else base64.b64decode(value)

    def set(self, name: str, value: bytes) -> None:
        with exclusive_lock(self._path.parent, _LOCK):
            self._write(self._secrets() | {name: base64.b64encode(value).decode()})

    def delete(self, name: str) -> None:
        with exclusive_lock(self._path.parent, _LOCK):
            self._write({key: value for key, value in self._secrets().items() if key != name})

    def _secrets(self) -> dict[str, str]:
        try:
            sealed = base64.b64decode(_read(self._path)["sealed"], validate=True)
            secrets: dict[str, str] = json.loads(self._box.decrypt(sealed))
        except nacl.exceptions.CryptoError:
            raise VaultError(f"the passphrase does not open {self._path}") from None
        except (KeyError, TypeError, ValueError):
            raise _damaged(self._path) from None
        return secrets

    def _write(self, secrets: dict[str, str]) -> None:
        sealed = self._box.encrypt(json.dumps(secrets).encode())
        content = self._header | {"sealed": base64.b64encode(sealed).decode()}
        write_private(self._path, json.dumps(content, indent=1).encode() + b"\n")


def _read(path: Path) -> dict[str, Any]:
    content = read_private(path)
    if content is None:
        raise VaultError(f'{path} does not exist; `vault.backend = "file"` on a terminal creates it')
    try:
        parsed = json.loads(content)
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(parsed, dict):
        raise _damaged(path)
    if parsed.get("version") != 1 or parsed.get("kdf") != "argon2id":
        raise VaultError(f"{path} has version {parsed.get('version')}, expected 1; it was created by a newer kekbridge")
    return parsed


def _box(passphrase: str, header: dict[str, Any]) -> nacl.secret.SecretBox:
    try:
        operations, memory = int(header["operations"]), int(header["memory"])
        salt = base64.b64decode(header["salt"], validate=True)
        if memory > _MAX_MEMORY or not 1 <= operations <= 20:
            raise VaultError("the vault file demands more memory or time than kekbridge ever uses: it was altered")
        key = _KDF.kdf(nacl.secret.SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=operations, memlimit=memory)
    except (KeyError, TypeError, binascii.Error):
        raise VaultError("the vault file is damaged: restore it from a backup") from None
    except (ValueError, nacl.exceptions.CryptoError, MemoryError, RuntimeError):
        raise VaultError("the vault's key could not be derived: argon2id needs 256 MiB of free memory") from None
    return nacl.secret.SecretBox(key)


def _damaged(path: Path) -> VaultError:
    return VaultError(f"{path} is damaged: restore it from a backup")
