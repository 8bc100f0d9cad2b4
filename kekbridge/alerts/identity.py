"""What makes two messages the same alert. Pure; the store keeps the identities of the alerts that were taken.

Source: docs/internals/architecture.md section 4, identity for duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from kekbridge.alerts.message import Message
from kekbridge.alerts.redaction import show
from kekbridge.errors import Refused

#: Headers whose value is the identity, the first that is sent: for programs that send again with a fresh timestamp.
IDENTITY_HEADERS = ("idempotency-key", "webhook-id")
#: Seconds in which equal content without a timestamp is a resend: TradingView's come within 25 s, and a longer memory would swallow
#: real alerts.
WINDOW_S = 60
_MAX_LENGTH = 256  # of a header


class Identity(Struct, frozen=True):
    """How a later message is recognised as the same alert."""

    #: A message of the same webhook with the same text is the same alert for ever, or a conflict if its content differs.
    #: None: see `window_s`.
    text: str | None
    #: Seconds in which equal content is a duplicate, unless another alert of that webhook and market was taken in between. None: never.
    window_s: int | None = None


def identity_of(
    message: Message, *, fired_at: datetime | None, markets: Iterable[str], headers: Mapping[str, str]
) -> Identity:
    """The identity of a message that fired at `fired_at` in `markets`; `headers` by lower-case name.

    A header of IDENTITY_HEADERS, else alertId, timestamp and markets together, else the body if it has a timestamp. Without a timestamp
    only equal content counts, and only for a moment. Raises Refused(field_invalid) for an unusable header.
    """
    given = next((name for name in IDENTITY_HEADERS if headers.get(name)), None)
    if given is not None:
        value = headers[given].strip()
        if not value or len(value) > _MAX_LENGTH or not value.isprintable():
            raise Refused(
                "field_invalid",
                f"{given}: found {show(value)}, expected a printable text of at most {_MAX_LENGTH} characters",
                field=given,
            )
        # Hashed: the text is the sender's, and identities are stored and logged.
        return Identity(f"key:{hashlib.sha256(value.encode()).hexdigest()}")
    if fired_at is None:
        return Identity(None, WINDOW_S)
    if message.sender_id is None:
        return Identity(f"body:{message.body_digest}")
    at = f"{fired_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{fired_at.microsecond // 1000:03d}Z"
    return Identity(f"id:{message.sender_id}@{at}@{'+'.join(sorted(set(markets)))}")
