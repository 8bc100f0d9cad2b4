"""Registrations that wait for a wallet's signatures: what was prepared for which session, under a token that works once.

The browser returns the token and the signatures, never the messages: what is registered is what was shown. In memory: a restart ends them,
and the key stays pending in the vault.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from kekbridge.errors import ConfigError
from kekbridge.wallet.typed_data import REGISTRATION

_MOST: Final = 32
# The exchange accepts a registration's nonce for two minutes and any message for five.
_NONCE_LIFE: Final = timedelta(seconds=115)
_MESSAGE_LIFE: Final = timedelta(seconds=290)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletAttempt:
    """Messages that a wallet was asked to sign."""

    #: Form key of the browser's session.
    session: str
    #: Address of the wallet.
    wallet: str
    #: Broker of its account.
    broker_id: str
    #: Public key that is to be registered.
    orderly_key: str
    #: The key was generated for this attempt.
    is_new: bool
    #: Typed data in the order of signing.
    messages: tuple[dict[str, Any], ...]
    #: When the exchange stops accepting the messages, UTC.
    ends_at: datetime


class WalletAttempts:
    """The attempts of all sessions, at most 32; the oldest gives way."""

    def __init__(self) -> None:
        self._open: dict[str, WalletAttempt] = {}

    def begin(
        self, prepared: dict[str, Any], *, session: str, broker_id: str, now: datetime
    ) -> tuple[str, WalletAttempt]:
        """Keep what `keys-prepare` returned; return its token and the attempt."""
        messages = tuple(prepared["messages"])
        has_nonce = any(one["primaryType"] == REGISTRATION for one in messages)
        attempt = WalletAttempt(
            session=session,
            wallet=prepared["wallet"],
            broker_id=broker_id,
            orderly_key=prepared["orderlyKey"],
            is_new=prepared["isNew"],
            messages=messages,
            ends_at=now + (_NONCE_LIFE if has_nonce else _MESSAGE_LIFE),
        )
        while len(self._open) >= _MOST:
            del self._open[next(iter(self._open))]
        token = secrets.token_urlsafe(24)
        self._open[token] = attempt
        return token, attempt

    def take(self, token: str, *, session: str, now: datetime) -> WalletAttempt:
        """End the attempt of a token and return it. Raises ConfigError: used before, of another session, or too old."""
        attempt = self._open.get(token)
        if attempt is None or attempt.session != session:
            raise ConfigError(
                "this registration was finished before, or belongs to another session; nothing was sent, start again"
            )
        del self._open[token]
        if attempt.ends_at <= now:
            raise ConfigError(
                "the messages have expired at the exchange; nothing was sent, start again and sign at once"
            )
        return attempt
