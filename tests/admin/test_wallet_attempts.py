"""What was prepared for a wallet is handed out once, to the session that asked for it, and while the exchange would accept it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kekbridge.admin.wallet_attempts import WalletAttempts
from kekbridge.errors import ConfigError

NOW = datetime(2026, 1, 15, 10, tzinfo=UTC)


def prepared(*kinds: str) -> dict[str, Any]:
    """As `keys-prepare` returns it."""
    messages = [{"primaryType": kind} for kind in kinds]
    return {"wallet": "0x1", "orderlyKey": "ed25519:x", "isNew": True, "accountId": None, "messages": messages}


def begin(attempts: WalletAttempts, *kinds: str) -> str:
    return attempts.begin(prepared(*kinds), session="mine", broker_id="kek_ai", now=NOW)[0]


def test_a_token_works_once_and_for_its_session() -> None:
    """Another session does not use it up."""
    attempts = WalletAttempts()
    token = begin(attempts, "AddOrderlyKey")
    for wrong in ("", token + "x"):
        with pytest.raises(ConfigError, match="finished before"):
            attempts.take(wrong, session="mine", now=NOW)
    with pytest.raises(ConfigError, match="another session"):
        attempts.take(token, session="theirs", now=NOW)
    assert attempts.take(token, session="mine", now=NOW).orderly_key == "ed25519:x"
    with pytest.raises(ConfigError, match="finished before"):
        attempts.take(token, session="mine", now=NOW)


@pytest.mark.parametrize(("kinds", "seconds"), [(["AddOrderlyKey"], 300), (["Registration", "AddOrderlyKey"], 120)])
def test_it_ends_before_the_exchange_stops_accepting(kinds: list[str], seconds: int) -> None:
    """Five minutes for a message, two for a registration's nonce, with some seconds to spare."""
    for late, is_accepted in ((seconds - 30, True), (seconds, False)):
        attempts = WalletAttempts()
        token, now = begin(attempts, *kinds), NOW + timedelta(seconds=late)
        if is_accepted:
            attempts.take(token, session="mine", now=now)
        else:
            with pytest.raises(ConfigError, match="expired at the exchange; nothing was sent"):
                attempts.take(token, session="mine", now=now)


def test_the_oldest_gives_way() -> None:
    """A browser that asks again and again fills no memory."""
    attempts = WalletAttempts()
    tokens = [begin(attempts, "AddOrderlyKey") for _ in range(33)]
    with pytest.raises(ConfigError):
        attempts.take(tokens[0], session="mine", now=NOW)
    attempts.take(tokens[1], session="mine", now=NOW)
