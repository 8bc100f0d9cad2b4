"""The protocol of a vault backend, and the open vault that the rest of kekbridge uses: a few named secrets.

Names are `master-key`, `orderly-secret:<account>`, those of REPLICA_SECRETS and, read only, `vault-passphrase`.
No vault shows a value in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MASTER_KEY = "master-key"
UNLOCK_CREDENTIAL = "vault-passphrase"
#: The access key of the place of the replica: its id and its secret.
REPLICA_SECRETS = ("replica-access-key-id", "replica-secret-access-key")
SEALED_FILE = "vault.sealed"
ADDED_FILE = "vault.added"


def orderly_secret(account_id: str) -> str:
    """The name of the secret that holds the exchange key of an account."""
    return f"orderly-secret:{account_id}"


class VaultBackend(Protocol):
    """One kind of vault."""

    @property
    def name(self) -> str:
        """Its word in the setting `vault.backend`: directory, keyring, file or key_file."""

    @property
    def is_plain(self) -> bool:
        """True if its files hold secrets unencrypted."""

    @property
    def is_writable(self) -> bool:
        """True if it takes new secrets."""

    def is_provided(self, name: str) -> bool:
        """True if somebody else provides the secret, so that it cannot be replaced or deleted here. Raises VaultError."""

    @property
    def title(self) -> str:
        """What and where it is, for people."""

    def get(self, name: str) -> bytes | None:
        """The secret, or None if there is none of that name. Raises VaultError if the vault cannot be read."""

    def set(self, name: str, value: bytes) -> None:
        """Store the secret, replacing an older one. Raises VaultError if it cannot be stored."""

    def delete(self, name: str) -> None:
        """Delete the secret if it exists. Raises VaultError if it cannot be deleted."""


@dataclass(frozen=True, slots=True)
class OpenVault:
    """The vault in use. Calls may block (D-Bus, disk): not for the event loop."""

    #: Reads and writes its secrets.
    backend: VaultBackend
    #: Why it was chosen, for people.
    reason: str
    #: The data directory whose secrets it holds.
    data_dir: Path

    @property
    def name(self) -> str:
        """directory, keyring, file or key_file."""
        return self.backend.name

    @property
    def title(self) -> str:
        """What and where it is, for people."""
        return self.backend.title

    @property
    def description(self) -> str:
        """Title and reason on one line."""
        return f"{self.title} ({self.reason})"

    @property
    def is_plain(self) -> bool:
        """True if secrets are stored unencrypted: good enough for paper, never for a key that can trade or move money."""
        return self.backend.is_plain

    @property
    def is_writable(self) -> bool:
        return self.backend.is_writable

    def get(self, name: str) -> bytes | None:
        """The secret of that name, or None. Raises VaultError if the vault cannot be read."""
        return self.backend.get(name)

    def is_provided(self, name: str) -> bool:
        """True if the vault's provider (systemd, Docker) gives the secret: it is replaced there, not here. Raises VaultError."""
        return self.backend.is_provided(name)

    def set(self, name: str, value: bytes) -> None:
        """Store a secret. Raises VaultError if it cannot be stored, as one that is provided."""
        self.backend.set(name, value)

    def delete(self, name: str) -> None:
        """Delete a secret if it exists. Raises VaultError if it is provided."""
        self.backend.delete(name)
