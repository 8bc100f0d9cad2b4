"""A data directory belongs to one account and mode (shared rule: state belongs to an account and a mode)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kekbridge.errors import ConfigError
from kekbridge.model import Mode
from kekbridge.store.account_identity import AccountIdentity, remember, remembered, require_same
from kekbridge.store.database import Database

NOW = datetime(2026, 1, 15, tzinfo=UTC)
LIVE = AccountIdentity(mode=Mode.LIVE, account_id="0xAb")


def test_an_account_is_remembered(tmp_path: Path) -> None:
    """What was remembered at the first start is read at every later one."""
    database = Database.open(tmp_path)
    with database.transaction() as connection:
        assert remembered(connection) is None
        remember(connection, LIVE, now=NOW)
    with database.snapshot() as connection:
        known = remembered(connection)
    assert known == AccountIdentity(mode=Mode.LIVE, account_id="0xAb", since=NOW)
    database.close_now()


@pytest.mark.parametrize(
    "other",
    [AccountIdentity(mode=Mode.TESTNET, account_id="0xAb"), AccountIdentity(mode=Mode.LIVE, account_id="0xCd")],
    ids=["mode", "account"],
)
def test_another_account_or_mode_is_refused(other: AccountIdentity) -> None:
    """The error is one line with what was found, what was expected and what to do."""
    known = AccountIdentity(mode=Mode.LIVE, account_id="0xAb", since=NOW)
    with pytest.raises(ConfigError) as refused:
        require_same(known, other, "/data")
    assert "/data belongs to live account 0xAb since 2026-01-15" in refused.value.message
    assert f"the settings name {other}" in refused.value.message
    assert "--data-dir" in refused.value.message
    assert "\n" not in refused.value.message


def test_the_same_account_is_accepted() -> None:
    """Letter case of an id does not matter, an unknown id is not compared, and a new directory accepts any."""
    require_same(None, LIVE, "/data")
    require_same(LIVE, AccountIdentity(mode=Mode.LIVE, account_id="0xaB"), "/data")
    require_same(AccountIdentity(mode=Mode.LIVE, account_id=""), LIVE, "/data")
