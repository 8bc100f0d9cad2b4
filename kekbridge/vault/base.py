"""What every vault can do, and the open vault the rest of kekbridge holds: a few named secrets, read and written whole.

Names are `master-key`, `orderly-secret:<account>` and, read only, `vault-passphrase`. No vault ever shows a value in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MASTER_KEY = "master-key"
UNLOCKING = "vault-passphrase"
SEALED_FILE = "vault.sealed"


def orderly_secret(account_id: str) -> str:
    """The name under which the exchange key of an account is kept."""
    return f"orderly-secret:{account_id}"


class Place(Protocol):
    """One kind of vault. `name` is its word in the settings; `is_plain` means its files hold secrets unencrypted."""

    @property
    def name(self) -> str: ...

    @property
    def is_plain(self) -> bool: ...

    @property
    def is_writable(self) -> bool: ...

    @property
    def title(self) -> str:
        """What and where it is, for people."""

    def get(self, name: str) -> bytes | None:
        """The secret, or None when there is none of that name. Raises VaultError when the vault cannot be asked."""

    def set(self, name: str, value: bytes) -> None:
        """Keep the secret, replacing an older one. Raises VaultError when it cannot be kept."""

    def delete(self, name: str) -> None:
        """Forget the secret; one that is not there is no error."""


@dataclass(frozen=True, slots=True)
class OpenVault:
    """The vault in use, why it was chosen, and the data directory it serves. Calls may block (D-Bus, disk): not for the event loop."""

    place: Place
    reason: str
    data_dir: Path

    @property
    def name(self) -> str:
        """directory, keyring, file or key_file."""
        return self.place.name

    @property
    def description(self) -> str:
        """Which one and why, on one line for people."""
        return f"{self.place.title} ({self.reason})"

    @property
    def is_plain(self) -> bool:
        """True when secrets lie unencrypted in a file: good enough for paper, never for a key that moves money."""
        return self.place.is_plain

    @property
    def is_writable(self) -> bool:
        return self.place.is_writable

    def get(self, name: str) -> bytes | None:
        """The secret of that name, or None. Raises VaultError."""
        return self.place.get(name)

    def set(self, name: str, value: bytes) -> None:
        """Keep a secret. Raises VaultError, also when the vault is read only."""
        self.place.set(name, value)

    def delete(self, name: str) -> None:
        """Forget a secret. Raises VaultError when the vault is read only."""
        self.place.delete(name)
