"""Vaults of files: a secrets directory (systemd credentials, Docker or Kubernetes secrets), and 0600 key files.

The directory is recommended on a VPS: systemd stores credentials encrypted and shows them to the service only. kekbridge never writes to
it: what commands add later, such as notification channels, is sealed under its master key in the data directory. Key files are for paper
mode only.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from pathlib import Path
from typing import Final, NoReturn

from kekbridge.errors import VaultError
from kekbridge.vault.base import ADDED_FILE, MASTER_KEY
from kekbridge.vault.files import exclusive_lock, make_private_directory, read_private, write_private
from kekbridge.vault.sealing import decode_master_key, open_secret, seal_secret

_ADDED_LOCK: Final = "vault.added.lock"


class DirectoryVault:
    """Secrets provided by systemd, Docker or the operator; files that others can read are refused.

    With a provided master key it takes further secrets: each sealed under that key in the file `vault.added` of the data directory. What
    is provided always comes first, and cannot be replaced or deleted here.
    """

    name = "directory"
    is_plain = False

    def __init__(self, directory: Path, data_dir: Path) -> None:
        self._directory = directory
        self._data_dir = data_dir

    def __repr__(self) -> str:
        return f"DirectoryVault({str(self._directory)!r})"

    @property
    def is_writable(self) -> bool:
        return self.is_provided(MASTER_KEY)

    @property
    def title(self) -> str:
        return f"secrets directory {self._directory}"

    def is_provided(self, name: str) -> bool:
        return self._provided(name) is not None

    def get(self, name: str) -> bytes | None:
        provided = self._provided(name)
        if provided is not None:
            return provided
        sealed = self._added().get(name)
        return None if sealed is None else open_secret(self._master(), name, _bytes_of(sealed))

    def set(self, name: str, value: bytes) -> None:
        if name == MASTER_KEY or not self.is_writable or self.is_provided(name):
            self._refuse("put", name)
        sealed = base64.b64encode(seal_secret(self._master(), name, value)).decode()
        with exclusive_lock(self._data_dir, _ADDED_LOCK):
            self._write_added(self._added() | {name: sealed})

    def delete(self, name: str) -> None:
        if name == MASTER_KEY or self.is_provided(name):
            self._refuse("removed", name)
        with exclusive_lock(self._data_dir, _ADDED_LOCK):
            added = self._added()
            if added.pop(name, None) is not None:
                self._write_added(added)

    def _provided(self, name: str) -> bytes | None:
        # systemd and Docker allow no colon in a name, Docker at most 64 characters: `orderly-secret` alone is for any account.
        for file in (name.replace(":", "."), name.partition(":")[0]):
            content = read_private(self._directory / file)
            if content is not None:
                return content
        return None

    def _master(self) -> bytes:
        stored = self._provided(MASTER_KEY)
        if stored is None:
            raise VaultError(f"there is no master-key in the {self.title}, which opens {self._data_dir / ADDED_FILE}")
        return decode_master_key(stored, self.title)

    def _added(self) -> dict[str, str]:
        """Sealed secrets that were added, by name, as base64."""
        content = read_private(self._data_dir / ADDED_FILE)
        if content is None:
            return {}
        try:
            added = json.loads(content)["secrets"]
            return {str(name): str(sealed) for name, sealed in added.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise VaultError(f"{self._data_dir / ADDED_FILE} is damaged: restore it from a backup") from None

    def _write_added(self, added: dict[str, str]) -> None:
        write_private(self._data_dir / ADDED_FILE, json.dumps({"version": 1, "secrets": added}).encode() + b"\n")

    def _refuse(self, action: str, name: str) -> NoReturn:
        file = self._directory / name.partition(":")[0]
        raise VaultError(
            f"the secrets directory is read only: {file} must be {action} there by its provider"
            " (systemd: LoadCredentialEncrypted=, Docker: secrets:)"
        )


def _bytes_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""  # opens with no key


class KeyFileVault:
    """Secrets as 0600 files in `vault/` of the data directory, unencrypted."""

    name = "key_file"
    is_plain = True
    is_writable = True

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "vault"

    def __repr__(self) -> str:
        return f"KeyFileVault({str(self._directory)!r})"

    @property
    def title(self) -> str:
        return f"0600 key file in {self._directory}"

    def is_provided(self, name: str) -> bool:
        return False

    def get(self, name: str) -> bytes | None:
        return read_private(self._file(name))

    def set(self, name: str, value: bytes) -> None:
        make_private_directory(self._directory)
        write_private(self._file(name), value)

    def delete(self, name: str) -> None:
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            raise VaultError(f"{self._file(name)} cannot be removed: {error.strerror}") from None

    def _file(self, name: str) -> Path:
        return self._directory / urllib.parse.quote(name, safe="")
