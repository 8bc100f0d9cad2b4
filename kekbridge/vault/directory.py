"""Vaults of plain files: a read-only secrets directory (systemd credentials, Docker or Kubernetes secrets), and 0600 key files.

The directory is recommended on a VPS: systemd stores credentials encrypted and shows them to the service only. kekbridge never
writes to it. Key files are for paper mode only.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import NoReturn

from kekbridge.errors import VaultError
from kekbridge.vault.files import make_private_directory, read_private, write_private


class DirectoryVault:
    """Secrets provided by systemd, Docker or the operator; files that others can read are refused."""

    name = "directory"
    is_plain = False
    is_writable = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"DirectoryVault({str(self._directory)!r})"

    @property
    def title(self) -> str:
        return f"secrets directory {self._directory}"

    def get(self, name: str) -> bytes | None:
        # systemd and Docker allow no colon in a name, Docker at most 64 characters: `orderly-secret` alone is for any account.
        for file in (name.replace(":", "."), name.partition(":")[0]):
            content = read_private(self._directory / file)
            if content is not None:
                return content
        return None

    def set(self, name: str, value: bytes) -> None:
        self._refuse("put", name)

    def delete(self, name: str) -> None:
        self._refuse("removed", name)

    def _refuse(self, action: str, name: str) -> NoReturn:
        file = self._directory / name.partition(":")[0]
        raise VaultError(
            f"the secrets directory is read only: {file} must be {action} there by its provider"
            " (systemd: LoadCredentialEncrypted=, Docker: secrets:)"
        )


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
