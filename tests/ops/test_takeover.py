"""A takeover removes the old key before anything trades here, and can be cut and repeated at every step."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.config import Settings, load_settings
from kekbridge.errors import ConfigError
from kekbridge.exchange.base import KeyInfo
from kekbridge.model import Mode, OrderStatus, TradingState, WebhookSettings
from kekbridge.ops import exchange_keys, litestream
from kekbridge.ops.standby_record import StandbyRecord, read_record, write_record
from kekbridge.ops.takeover import KeysAtExchange, judge_keys
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from kekbridge.store import codec, journal, orders, webhooks
from kekbridge.store import settings as store_settings
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.vault import Sealer, master_key, orderly_secret
from kekbridge.vault.choose import open_vault
from kekbridge.vault.sealing import master_key_id
from kekbridge.vault.standby import OTHER_MASTER_KEY
from kekbridge.webhooks import registry
from tests.cli.venues import Venue, running_venue
from tests.replication import needs_litestream
from tests.stored import book_on, store_alert
from tests.system.forked import run_forked
from tests.system.harness import call, clean_environment

STEPS = ("restored", "removed", "fenced", "adopted", "swapped", "recorded")
OLD_MASTER = bytes(range(32))
# Trading states of the other machine: the trader's own, then what a removed key leads to.
STATES = (
    (TradingState.EXITS_ONLY, "holiday", "command line"),
    (TradingState.EXITS_ONLY, "the exchange rejected the API key (-1002)", "kekbridge"),
    (TradingState.HALTED, "the API key was removed at the exchange", "kekbridge"),
)


def key(name: str, status: str = "ACTIVE", scopes: str = "read,trading") -> KeyInfo:
    return KeyInfo(name, frozenset(scopes.split(",")), None, "", status)


@pytest.mark.parametrize(
    ("keys", "to_remove", "others"),
    [
        ((key("own"), key("old")), ("old",), ()),
        ((key("own"), key("old", "REMOVED")), (), ()),
        ((key("own"), key("old", "REMOVING")), ("old",), ()),
        ((key("own"),), (), ()),
        ((key("own"), key("older"), key("old")), ("old", "older"), ()),
        ((key("own"), key("old"), key("page"), key("watch", scopes="read")), ("old",), ("page",)),
        ((key("own"), key("page", "REMOVED")), (), ()),
        ((key("own"), key("old", scopes="read")), ("old",), ()),
        ((key("own"), key("old", status="")), ("old",), ()),
    ],
)
def test_which_keys_are_removed(keys: tuple[KeyInfo, ...], to_remove: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Every key of the other machine until the exchange says that it is removed; keys of other programs are only named."""
    found = judge_keys(keys, own="own", old=frozenset({"old", "older", "own"}))
    assert found == KeysAtExchange(to_remove, others)


@pytest.mark.parametrize(
    "keys", [(), (key("old"),), (key("own", "REMOVED"),), (key("own", "REMOVING"),), (key("own", scopes="read"),)]
)
def test_without_a_key_of_its_own_nothing_is_removed(keys: tuple[KeyInfo, ...]) -> None:
    """Otherwise neither machine could trade."""
    with pytest.raises(ConfigError, match="own key"):
        judge_keys(keys, own="own", old=frozenset({"old"}))


# ------------------------------------------------------------------------------------------------------------- on a disk


@dataclass
class Standby:
    """A prepared standby beside the database of a machine that has ended."""

    settings: Settings
    environment: dict[str, str]
    data_dir: Path
    #: Public key of its own.
    own: str
    #: apiKey of the webhook.
    api_key: str
    #: Sealer of its own vault.
    sealer: Sealer

    def run(self, *arguments: str, crash_at: str = "") -> subprocess.CompletedProcess[str]:
        """`kekbridge takeover --yes --json`."""
        environment = self.environment | ({"KEKBRIDGE_TEST_CRASH_AT": crash_at} if crash_at else {})
        return run_forked("takeover", "--yes", "--json", *arguments, environment=environment)

    def copies(self) -> list[Path]:
        return sorted(self.data_dir.glob("before-*"))


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    """A running paper exchange."""
    with running_venue(tmp_path / "venue") as running:
        yield running


@pytest.fixture
def standby(tmp_path: Path, venue: Venue) -> Standby:
    """The other machine had an alert with a queued order; its copy is complete."""
    now, place = datetime.now(UTC), f"file://{tmp_path}/replica"
    api_key = _machine_that_traded(tmp_path / "one", place, now)
    secrets, data_dir, secret = tmp_path / "secrets", tmp_path / "two", exchange_keys.new_secret()
    secrets.mkdir(mode=0o700)
    (secrets / "master-key").write_bytes(os.urandom(32))
    (secrets / "master-key").chmod(0o600)
    overrides = {
        "mode": "testnet",
        "exchange.base_url": venue.base_url,
        "exchange.account_id": PAPER_ACCOUNT_ID,
        "exchange.request_timeout_s": "1",
        "replica.url": f"{place}-two",
        "replica.sync_s": "0.1",
        "vault.backend": "directory",
        "vault.secrets_dir": str(secrets),
    }
    settings = load_settings(environment={}, overrides=overrides)
    vault = open_vault(settings.vault, data_dir, settings.mode, environment={})
    vault.set(orderly_secret(PAPER_ACCOUNT_ID), secret.encode())
    vault.set(OTHER_MASTER_KEY, OLD_MASTER)
    own = exchange_keys.public_key(secret)
    call(f"{venue.base_url}/paper/keys", {"orderly_key": own, "scope": "read,trading"})
    record = StandbyRecord(
        host="vps1",
        mode=Mode.TESTNET,
        account_id=PAPER_ACCOUNT_ID,
        orderly_key=PAPER_ORDERLY_KEY,
        replica_url=place,
        master_key_id=master_key_id(OLD_MASTER),
        prepared_at=codec.time_text(now),
    )
    write_record(data_dir, record)
    environment = {f"KEKBRIDGE_{name.replace('.', '_').upper()}": value for name, value in overrides.items()}
    environment = {**clean_environment(), **environment, "KEKBRIDGE_DATA_DIR": str(data_dir)}
    return Standby(settings, environment, data_dir, own, api_key, Sealer(master_key(vault)))


def _machine_that_traded(data_dir: Path, place: str, now: datetime) -> str:
    """Its database, copied to `place`; returns the webhook's apiKey."""
    database, sealer = Database.open(data_dir), Sealer(OLD_MASTER)
    with database.transaction() as connection:
        store_alert(book_on(connection))
        _, credentials = registry.create(
            connection, sealer, name="main", settings=WebhookSettings(), mode=Mode.TESTNET, now=now
        )
        exchange_keys.note_in_use(connection, PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, now=now)
        for state, reason, by in STATES:
            store_settings.set_trading_state(connection, state, reason=reason, by=by, now=now)
    database.close_now()
    copied = load_settings(environment={}, overrides={"replica.url": place})
    config = data_dir / "litestream.yml"
    config.write_text(litestream.configuration(copied.replica, data_dir / FILE_NAME, socket=None))
    subprocess.run(
        [litestream.find_program(), "replicate", "-config", config, "-no-expand-env", "-once"],
        check=True,
        capture_output=True,
        env=litestream.environment(os.environ),
        timeout=60,
    )
    return credentials.api_key


def _is_adopted(standby: Standby) -> None:
    """Assert what a finished takeover leaves."""
    with closing(sqlite3.connect(standby.data_dir / FILE_NAME)) as connection:
        connection.row_factory = sqlite3.Row
        (order,) = orders.unfinished(connection)
        assert order.status is OrderStatus.UNKNOWN
        found = webhooks.find_by_lookup(connection, standby.sealer.lookup(standby.api_key), datetime.now(UTC))
        assert found is not None
        assert standby.sealer.open(found[1].sealed_key).decode() == standby.api_key
        assert exchange_keys.trading_keys(connection, PAPER_ACCOUNT_ID) == (standby.own,)
        control = store_settings.trading_control(connection, now=datetime.now(UTC))
        assert (control.state, control.reason) == (TradingState.EXITS_ONLY, "holiday")
        assert journal.verify(connection) is None
        events = journal.list_events(connection)
        taken = [event for event in events if event.kind == "taken_over"]
        assert len(taken) == 1
        assert (taken[0].data["host"], taken[0].data["doubted"]) == ("vps1", 1)


@needs_litestream
def test_a_takeover_that_is_killed_at_every_step_ends_in_the_same_state(standby: Standby, venue: Venue) -> None:
    """Killed once at each step and run again, it converges: the key is removed once, the queue is unknown, the webhooks open here."""
    for step in STEPS:
        done = standby.run(crash_at=f"takeover-{step}")
        assert done.returncode == -signal.SIGKILL, done.stderr
        record = read_record(standby.data_dir)
        assert record is not None
        assert (record.taken_over_at is not None) == (step == "recorded")
        is_removed = venue.key(PAPER_ORDERLY_KEY).status == "REMOVED"
        assert is_removed == (step != "restored")
        assert (standby.data_dir / FILE_NAME).exists() == (step in ("swapped", "recorded"))
        if step == "swapped":
            served = run_forked("serve", "--json", environment=standby.environment)
            assert (served.returncode, "kekbridge takeover" in served.stderr) == (2, True)
    _is_adopted(standby)
    again = standby.run()
    assert again.returncode == 2
    assert "already" in again.stderr
    removed = [event for event in call(f"{venue.base_url}/paper/journal") if event["event"] == "key_removed"]
    assert [event["orderly_key"] for event in removed] == [PAPER_ORDERLY_KEY]
    assert venue.key(standby.own).status == "ACTIVE"
    assert not (standby.data_dir / ".takeover").exists()


@needs_litestream
def test_nothing_changes_until_the_fence_is_sure(standby: Standby, venue: Venue, tmp_path: Path) -> None:
    """A rehearsal changes nothing; without the exchange, its word, or the copy, a takeover ends with what to do, and can be run again."""
    checked = standby.run("--check")
    assert checked.returncode == 0, checked.stderr
    result = json.loads(checked.stdout)
    assert (result["checkedOnly"], result["removedKeys"], result["orders"]) == (True, [PAPER_ORDERLY_KEY], 1)
    call(
        f"{venue.base_url}/paper/faults", {"fault": "html", "path": "/v1/client/key_info", "method": "GET", "count": 1}
    )
    unsure = standby.run()
    assert (unsure.returncode, unsure.stdout) == (1, "")
    assert "run `kekbridge takeover` again" in unsure.stderr
    assert venue.key(PAPER_ORDERLY_KEY).status == "ACTIVE"
    (tmp_path / "replica").rename(tmp_path / "away")
    lost = standby.run()
    assert lost.returncode == 3
    assert "no replica" in lost.stderr
    assert venue.key(PAPER_ORDERLY_KEY).status == "ACTIVE"
    assert not (standby.data_dir / FILE_NAME).exists()
    (tmp_path / "away").rename(tmp_path / "replica")
    refused = {"fault": "html", "path": "/v1/client/remove_orderly_key", "method": "POST", "count": 1}
    call(f"{venue.base_url}/paper/faults", refused)  # it asks again until the exchange says that the key is gone
    done = standby.run()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert datetime.fromisoformat(result["upTo"]) > datetime.now(UTC) - timedelta(minutes=5)
    assert (result["host"], result["doubted"], result["movedAside"]) == ("vps1", 1, None)
    _is_adopted(standby)
    seed = PAPER_ORDERLY_SECRET.removeprefix("ed25519:")
    assert not any(seed in text for text in (done.stdout, done.stderr, unsure.stderr, checked.stderr))


async def test_only_a_prepared_standby_takes_over(tmp_path: Path) -> None:
    """On another machine the error says where to read on."""
    from kekbridge.ops.takeover import Takeover
    from tests.ops.operating import Desk

    with pytest.raises(ConfigError, match="no standby"):
        await Takeover(mode=Mode.LIVE).run(Desk(tmp_path, mode=Mode.LIVE))
