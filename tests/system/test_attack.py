"""Each attack of `python -m tests.system.attack` at a small size: every alert of the owner is answered, and nothing grows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.attack import ATTACKS, MOST_KIB_WRITTEN, MOST_MIB, Figures, Target, under_attack

# Of server.max_connections_per_address, web pages or paper exchange, and what the daemon has open itself.
MOST_FILES = 250 + 60
# The daemon's caps are for one address: these attacks come from ten, or through a proxy, which has no cap.
MANY_ADDRESSES = ("broken-json-addresses", "behind-proxy")


@pytest.fixture(params=ATTACKS)
def attacked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Figures, Target]]:
    plan = ATTACKS[request.param]
    if plan.prefix and shutil.which(plan.prefix[0]) is None:
        pytest.skip(f"{plan.prefix[0]} is not installed")
    with under_attack(plan, tmp_path) as target:
        yield plan.run(target, plan.small), target


def test_the_owner_is_served_and_nothing_grows(attacked: tuple[Figures, Target]) -> None:
    """Alerts are answered from another address and, where the attack allows it, from the attacker's; memory and files are bounded."""
    figures, target = attacked
    assert figures.unanswered == []
    assert figures.elsewhere_s or figures.shared_s or figures.written_kib is not None
    assert sum(figures.attacker.values()) > 0, "there was no attack"
    assert figures.during_mib - figures.before_mib < MOST_MIB
    assert figures.after_mib - figures.before_mib < MOST_MIB / 3
    assert figures.files < MOST_FILES or figures.name in MANY_ADDRESSES
    if figures.written_kib is not None:
        assert figures.written_kib < MOST_KIB_WRITTEN
    assert target.bridge.is_ready()
    lines = [line for line in target.bridge.log_path.read_text().splitlines() if '"refused"' in line]
    assert len(lines) <= 25, "refusals are logged once a minute for each address and code"
