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
from tests.trading import NOW


async def test_another_account_is_refused_at_the_start(tmp_path: Path) -> None:
    """Peaks, orders and limits of two accounts are never mixed: the second account needs another directory."""
    async with running_paper(tmp_path / "paper") as paper_url:
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
    async with running_paper(tmp_path / "paper") as paper_url:
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


async def test_deleted_database_files_stop_trading(tmp_path: Path) -> None:
    """Alerts were answered 200 and lost at the restart: they are answered 503, /readyz says why, and a start needs a decision."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with running_bridge(tmp_path, paper_url) as bridge:
            bridge.add_webhook()
            status, _ = await bridge.send()
            assert status == 200
            for file in bridge.data_dir.glob(FILE_NAME + "*"):
                file.unlink()
            status, answer = await bridge.send()
            assert (status, answer["code"]) == (503, "store_unavailable")
            readiness = bridge.daemon.readiness()
            assert not readiness.is_ready
            assert "was deleted or moved" in readiness.detail["detail"]
            assert len(await bridge.journal("order_accepted")) == 1
        with pytest.raises(ConfigError, match="is missing, although a bridge has run"):
            async with running_bridge(tmp_path, paper_url):
                pass


def _forget(directory: Path, mode: Mode) -> None:
    """Leave what a version without remembered accounts leaves: the mode of its last daemon."""
    database = Database(directory / "data" / FILE_NAME)
    with database.transaction() as connection:
        connection.execute("DELETE FROM settings WHERE key = 'account_identity'")
        registry.save_addresses(connection, "http://h/", mode, now=NOW)
    database.close_now()
