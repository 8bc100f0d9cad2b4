"""New webhook credentials: random, recognisable by their prefix, worthless anywhere else.

Makes texts only; storing them sealed and showing them once is the caller's business. Source of the forms: design.md section 4.
"""

from __future__ import annotations

import base64
import secrets
import string

from kekbridge.model import Mode

_ALPHABET = string.ascii_letters + string.digits  # safe in URLs, shells and JSON, and selected whole by a double click
_KEY_LENGTH = 32  # 190 bits
_SECRET_LENGTH = 43  # 256 bits


def new_credentials(mode: Mode) -> tuple[str, str]:
    """A fresh (apiKey, apiSecret): `wh_live_…` for live, `wh_test_…` for paper and testnet, and `whs_…`."""
    kind = "live" if mode is Mode.LIVE else "test"
    return f"wh_{kind}_{_random_text(_KEY_LENGTH)}", f"whs_{_random_text(_SECRET_LENGTH)}"


def standard_webhooks_secret(api_secret: str) -> str:
    """The apiSecret as senders of Standard Webhooks want it: `whsec_` and the base64 of its bytes."""
    return "whsec_" + base64.b64encode(api_secret.encode()).decode("ascii")


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
