"""Opening the daemon's resources: a data directory is opened for its own account and mode only."""

from __future__ import annotations

from pathlib import Path

import pytest

from kekbridge.errors import ConfigError
from kekbridge.model import Mode
from kekbridge.store.account_identity import remembered
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.webhooks import registry
from tests.bridge import running_bridge, running_paper
from tests.stored import NOW


async def test_another_account_is_refused_at_the_start(tmp_path: Path) -> None:
    """Peaks, orders and limits of two accounts are never mixed: the second account needs another directory."""
    async with running_paper(tmp_path / "paper", rate_limits=False) as paper_url:
        async with running_bridge(tmp_path, paper_url) as bridge:
            with bridge.daemon.database.snapshot() as connection:
                known = remembered(connection)
        assert known is not None
        with pytest.raises(ConfigError, match=f"belongs to paper account {known.account_id}"):
            async with running_bridge(tmp_path, paper_url, exchange__account_id="0x" + "1" * 64):
                pass
        async with running_bridge(tmp_path, paper_url) as bridge:
            assert bridge.daemon.readiness().is_ready


async def test_a_directory_of_an_earlier_version_adopts_its_account(tmp_path: Path) -> None:
    """It has no account recorded: the present one is adopted, unless its last daemon ran in another mode."""
    async with running_paper(tmp_path / "paper", rate_limits=False) as paper_url:
        async with running_bridge(tmp_path, paper_url) as bridge:
            pass
        _forget(tmp_path, Mode.PAPER)
        async with running_bridge(tmp_path, paper_url) as bridge:
            with bridge.daemon.database.snapshot() as connection:
                assert remembered(connection) is not None
        _forget(tmp_path, Mode.LIVE)
        with pytest.raises(ConfigError, match="belongs to mode live"):
            async with running_bridge(tmp_path, paper_url):
                pass


def _forget(directory: Path, mode: Mode) -> None:
    """Leave what a version without remembered accounts leaves: the mode of its last daemon."""
    database = Database(directory / "data" / FILE_NAME)
    with database.transaction() as connection:
        connection.execute("DELETE FROM settings WHERE key = 'account_identity'")
        registry.save_addresses(connection, "http://h/", mode, now=NOW)
    database.close_now()
