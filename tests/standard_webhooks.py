"""The apiSecret in the form that senders of Standard Webhooks expect."""

from __future__ import annotations

import base64


def standard_webhooks_secret(api_secret: str) -> str:
    """`whsec_` and the base64 of the apiSecret's bytes: the sender signs with these bytes."""
    return "whsec_" + base64.b64encode(api_secret.encode()).decode("ascii")
