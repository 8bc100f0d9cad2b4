"""Each attack of `python -m tests.system.attack` at a small size: every alert of the owner is answered, and nothing grows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.system.attack import ATTACKS, MOST_KIB_WRITTEN, MOST_MIB, MOST_MIB_LEFT, Effort, Plan, Target, under_attack
from tests.system.forked import forked_bridge
from tests.system.harness import bridge_process

SMALL = Effort(alerts=10, one_byte_s=2.0, calm_s=0.0)
# Of server.max_connections_per_address, web pages or paper exchange, and what the daemon has open itself.
MOST_FILES = 250 + 60
# The daemon's caps are for one address: these attacks come from ten, or through a proxy, which has no cap.
MANY_ADDRESSES = ("broken-json-addresses", "behind-proxy")


@pytest.fixture(scope="module")
def target_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Plan], Target]]:
    """Returns the target of a plan: plans for the same kind of daemon attack one daemon, each from an address of its own."""
    targets: dict[tuple[object, ...], Target] = {}
    with ExitStack() as stack:

        def start_or_find(plan: Plan) -> Target:
            if plan.daemon not in targets:
                start = bridge_process if plan.prefix else forked_bridge
                directory = tmp_path_factory.mktemp("attacked")
                targets[plan.daemon] = stack.enter_context(under_attack(plan, directory, SMALL, start))
            target = targets[plan.daemon]
            target.attacker = f"127.0.2.{1 + list(ATTACKS.values()).index(plan)}"
            return target

        yield start_or_find


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may list the files of a process that forbids core dumps")
@pytest.mark.parametrize("name", ATTACKS)
def test_the_owner_is_served_and_nothing_grows(target_of: Callable[[Plan], Target], name: str) -> None:
    """Alerts are answered from another address and, where the attack allows it, from the attacker's; memory and files are bounded.

    Memory is compared with what the daemon used before the first attack, so that many attacks may not add up, either.
    """
    plan = ATTACKS[name]
    if plan.prefix and shutil.which(plan.prefix[0]) is None:
        pytest.skip(f"{plan.prefix[0]} is not installed")
    target = target_of(plan)
    before = _refusals(target)
    figures = plan.run(target, plan.small)
    assert figures.unanswered == []
    assert figures.elsewhere_s or figures.shared_s or figures.written_kib is not None
    assert sum(figures.attacker.values()) > 0, "there was no attack"
    assert figures.during_mib - figures.before_mib < MOST_MIB
    assert figures.after_mib - figures.before_mib < MOST_MIB_LEFT
    assert figures.files < MOST_FILES or name in MANY_ADDRESSES
    if figures.written_kib is not None:
        assert figures.written_kib < MOST_KIB_WRITTEN
    assert target.bridge.is_ready()
    assert _refusals(target) - before <= 25, "refusals are logged once a minute for each address and code"


def _refusals(target: Target) -> int:
    """Lines about refused requests in the daemon's log."""
    return sum('"refused"' in line for line in target.bridge.log_path.read_text().splitlines())
