"""Where secrets live: the vault of this machine, the master key in it, and what that key seals.

The exchange secret and the master key exist here and in the memory of who uses them, nowhere else
(docs/internals/architecture.md section 1, promise 11).
"""

from kekbridge.vault.base import MASTER_KEY, OpenVault, orderly_secret
from kekbridge.vault.choose import open_vault
from kekbridge.vault.master import master_key, move_secrets
from kekbridge.vault.sealing import Sealer

__all__ = ["MASTER_KEY", "OpenVault", "Sealer", "master_key", "move_secrets", "open_vault", "orderly_secret"]
