"""The vault: where this machine stores its secrets, the master key among them, and what that key seals.

The exchange secret and the master key exist here and in the memory of their users, nowhere else
(docs/internals/architecture.md section 1, promise 11).
"""

from kekbridge.vault.base import MASTER_KEY, OpenVault, orderly_secret
from kekbridge.vault.choose import open_vault
from kekbridge.vault.master import master_key, move_secrets
from kekbridge.vault.recovery import BackupKey
from kekbridge.vault.sealing import Sealer

__all__ = [
    "MASTER_KEY",
    "BackupKey",
    "OpenVault",
    "Sealer",
    "master_key",
    "move_secrets",
    "open_vault",
    "orderly_secret",
]
