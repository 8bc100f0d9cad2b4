"""`export` and `history`: exact rows, safe in a spreadsheet; a history that reveals changes."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.reports import export
from kekbridge.store import journal
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from tests.store.factories import NOW, new_alert
from tests.stored import book_on, record_fill, store_alert


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """A store with two fills in one market, one in another, and an alert whose text is a formula."""
    database = Database.open(data_dir)
    with database.transaction() as connection:
        hostile = new_alert(action='=HYPERLINK("http://evil")', remote="@x")
        book = book_on(connection)
        store_alert(book, hostile)
        record_fill(book, fee=Decimal("0.1"), realized_pnl=Decimal("-0.300000000000000000001"))
        record_fill(book, fee=Decimal("0.2"), realized_pnl=Decimal("10"))
        record_fill(
            book,
            symbol="PERP_ETH_USDC",
            price=Decimal(2000),
            quantity=Decimal(1),
            fee=Decimal("-0.05"),
            realized_pnl=None,
        )
    database.close_now()
    return data_dir


def test_pnl_is_the_exact_sum_of_the_fills(run: Any, filled: Path) -> None:
    """By day and market, to the last digit; a maker's rebate is a negative fee."""
    done = run("export", "pnl", "--format", "json")
    by_symbol = {row["symbol"]: row for row in json.loads(done.out)}
    btc, eth = by_symbol["PERP_BTC_USDC"], by_symbol["PERP_ETH_USDC"]
    assert (btc["realizedPnl"], btc["fee"], btc["fills"]) == ("9.699999999999999999999", "0.3", 2)
    assert btc["net"] == "9.399999999999999999999"
    assert Decimal(btc["notional"]) == 1300
    assert eth["net"] == "0.05"


def test_csv_and_json_have_the_same_rows(run: Any, filled: Path) -> None:
    """Every kind has the same number of rows in both formats, and a CSV header."""
    for kind in export.KINDS:
        table = list(csv.DictReader(io.StringIO(run("export", kind).out)))
        assert table
        assert len(table) == len(json.loads(run("export", kind, "--json").out))


def test_no_cell_is_run_as_a_formula(run: Any, filled: Path) -> None:
    """Text from an alert is disarmed; negative numbers stay numbers."""
    (alert,) = csv.DictReader(io.StringIO(run("export", "alerts").out))
    assert alert["action"].startswith("'=")
    assert alert["remote"] == "'@x"
    fees = [row["fee"] for row in csv.DictReader(io.StringIO(run("export", "fills").out))]
    assert "-0.05" in fees


def test_times_limit_the_rows(run: Any, filled: Path) -> None:
    """`--until` is excluded; an empty result is an empty array and a message on stderr."""
    none = run("export", "fills", "--until", NOW.isoformat(), "--format", "json")
    assert (json.loads(none.out), none.code) == ([], 0)
    assert none.err
    assert len(json.loads(run("export", "fills", "--since", NOW.isoformat(), "--json").out)) == 3


def test_a_changed_history_is_detected(run: Any, filled: Path) -> None:
    """A value changed by hand is located at its event; a truncated end is detected with a head saved earlier."""
    whole = run("history", "verify", "--json").data
    assert whole["ok"]
    kept = run("history", "head").out.strip()
    assert run("history", "verify", "--head", kept).code == 0
    connection = sqlite3.connect(filled / FILE_NAME)
    connection.execute("DELETE FROM journal WHERE sequence = (SELECT max(sequence) FROM journal)")
    connection.commit()
    assert run("history", "verify").code == 0  # the file itself does not reveal a truncated end
    assert run("history", "verify", "--head", kept).code == 1
    connection.execute("UPDATE journal SET data = '{}' WHERE sequence = 2")
    connection.commit()
    connection.close()
    broken = run("history", "verify", "--json")
    assert (broken.code, broken.data["ok"], broken.data["brokenAt"]) == (1, False, 2)
    assert run("history", "verify", "--head", "nonsense").code == 2


def test_history_lists_events_as_text(run: Any, filled: Path) -> None:
    """One line per event with its severity; filters by kind and --trouble; JSON has the text too; control characters are removed."""
    with Database.open(filled, create=False).transaction() as connection:
        journal.append(connection, "job_failed", now=NOW, data={"job": "backup", "error": "disk\x1b[2J full"})
        journal.append(connection, "stream_down", now=NOW, data={"lasting": "2 min"})
        journal.append(connection, "webhook_renamed", now=NOW, data={"from": "a", "to": "b", "settings": {"x": 1}})
    listed = run("history", "list", "--limit", "3").out.splitlines()
    assert [line[13:].strip() for line in listed] == [
        "failure  job backup failed: disk[2J full",
        "warning  the exchange's stream has been down for 2 min: orders are polled instead",
        "webhook renamed: from a, to b",
    ]
    everything = run("history", "list", "--json", "--limit", "1000").out.splitlines()
    assert len(everything) == run("history", "verify", "--json").data["events"]
    only = [json.loads(line) for line in run("history", "list", "--json", "--kind", "stream_down").out.splitlines()]
    assert [(one["kind"], one["severity"]) for one in only] == [("stream_down", "warning")]
    trouble = [json.loads(line)["kind"] for line in run("history", "list", "--trouble", "--json").out.splitlines()]
    assert trouble[-2:] == ["job_failed", "stream_down"]
    assert run("history", "list", "--until", "2000-01-01").out == ""
