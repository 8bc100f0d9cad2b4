"""The vault of a bare machine, for paper trading only: one file per secret, mode 0600, in `vault/` of the data directory.

Not encrypted: opening.py offers it in paper mode alone.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from kekbridge.errors import VaultError
from kekbridge.vault.files import make_private_directory, read_private, write_private


class KeyFileVault:
    """Secrets as 0600 files."""

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
