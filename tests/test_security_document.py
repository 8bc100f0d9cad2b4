"""docs/security.md: each row of the attack matrix names a test that exists, and each attack on a running daemon has a row."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

DOCUMENT = (ROOT / "kekbridge" / "docs" / "security.md").read_text(encoding="utf-8")
MATRIX = DOCUMENT.split("## What each attacker gets")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in MATRIX.splitlines()
    if line.startswith("| ") and not line.startswith("| attacker ")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1][:60])
def test_each_row_is_tested(row: list[str]) -> None:
    """The file, and the function where one is named, are there."""
    _, tried, got, test = row
    assert tried
    assert got
    file, _, name = test.strip("`").partition("::")
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name or 'test_'}", source, re.MULTILINE), name


def test_the_matrix_covers_every_kind_of_attacker() -> None:
    """From the network, beside TradingView, with a message, in the browser, at the backups, at the exchange, on the machine."""
    attackers = [row[0] for row in ROWS if row[0]]
    assert len(attackers) >= 8
    assert len(ROWS) >= 20
