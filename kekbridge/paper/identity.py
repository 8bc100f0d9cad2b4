"""Who the paper account is: a fixed, public, worthless identity.

The key's seed is the SHA-256 of a published sentence, so anybody can compute it; it opens nothing but a
paper exchange. The module imports nothing, so that a command line can print it at once.
"""

from __future__ import annotations

from typing import Final

PAPER_BROKER_ID: Final = "kek_ai"
PAPER_BROKER_NAME: Final = "Kek AI"
PAPER_ADDRESS: Final = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"
"""The documented test wallet (private key: 32 bytes of 01), orderly-api.md section 3."""
PAPER_ACCOUNT_ID: Final = "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83"
"""keccak256(address, keccak256("kek_ai")), orderly-api.md section 3."""
PAPER_USER_ID: Final = 24871
PAPER_ORDERLY_KEY: Final = "ed25519:2NFSkcrwowCy1xrmJ83mMc6zVGHjqYRifYPtEiK67eMY"
PAPER_ORDERLY_SECRET: Final = "ed25519:29hkcEUVRrRn9NYhjUV2orQnNWY1ZsuQNadKbRSWjRTx"  # noqa: S105  public on purpose
PAPER_KEY_SCOPE: Final = "read,trading"
PAPER_KEY_TAG: Final = "kekbridge-paper"
