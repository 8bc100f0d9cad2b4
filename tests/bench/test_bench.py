"""Every scenario of the benchmark runs at its smallest size; the measured values do not matter here."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.bench import brackets, exits
from tests.bench import systems as systems_under_test
from tests.bench.__main__ import main
from tests.bench.goals import GOALS
from tests.bench.load import run
from tests.bench.reading import COMMANDS
from tests.bench.scenarios import SCENARIOS, SIZES
from tests.bench.systems import ReferencePlus, spawn
from tests.paths import ROOT
from tests.system import forked
from tests.system.harness import clean_environment, wait_until

HAS_FLASK = all(importlib.util.find_spec(name) for name in ("flask", "ccxt"))


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_scenario_runs(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scenario ends and prints figures of each system that it was started with, and each goal has its row."""
    for module, function, quicker in (  # the same in less time
        (systems_under_test, "run_cli", forked.run_cli),
        (systems_under_test, "spawn", _spawn),
        (brackets, "bridge_process", forked.forked_bridge),
        (exits, "bridge_process", forked.forked_bridge),
    ):
        monkeypatch.setattr(module, function, quicker)
    scenario = SCENARIOS[name]
    if scenario.missing:
        pytest.skip(scenario.missing)
    systems = ",".join(_systems(name))
    assert main([name, "--rounds", "1", "--size", "smoke", "--systems", systems, "--markdown"]) == 0
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line.startswith("|")]
    rows = {(each[2], each[3]) for each in cells}
    zero = {
        (each[2], each[3]) for each in cells if each[4] == "0"
    }  # less than the system's clock shows: no ratio to it
    assert {system for _, system in rows if " / " not in system} - {"system", "---"} == set(systems.split(",")), printed
    started = set(systems.split(","))
    judged = {(figure, system) for key, figure, system in GOALS if key == name}
    possible = {
        (figure, system)
        for figure, system in judged
        if _has_row(figure, system)
        and (figure, system.removeprefix("kekbridge / ")) not in zero
        and {"kekbridge", system.removeprefix("kekbridge / ")} <= started | {"kekbridge"}
    }
    assert possible <= rows, printed


def _spawn(arguments: list[str], environment: dict[str, str] | None = None, log: Path | None = None) -> Any:
    """Like systems.spawn: a module in a fork, all else, such as strace, as a process."""
    if arguments[:2] != [sys.executable, "-m"]:
        return spawn(arguments, environment, log)
    given = {**clean_environment(), **(environment or {})}
    return forked.ForkedModule(*arguments[2:], environment=given, log=log)


def _systems(name: str) -> list[str]:
    """Every system for one scenario, which starts them all; otherwise one, since starting each takes a second or more."""
    names = [system.name for system in SCENARIOS[name].systems]
    wanted = names if name == "lone" else ["kekbridge"] if "kekbridge" in names else names[-1:]
    return [each for each in wanted if HAS_FLASK or not each.startswith("flask")]


def _has_row(figure: str, system: str) -> bool:
    return (HAS_FLASK or "flask" not in system) and not any(str(count) in figure for count in SIZES["full"].stored)


def test_the_program_starts() -> None:
    """`python -m tests.bench` runs a scenario as its documents say."""
    arguments = ["start", "--rounds", "1", "--size", "smoke", "--systems", "reference"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "start s" in done.stdout


def test_every_command_of_a_long_history_is_one(tmp_path: Path) -> None:
    """The commands that are measured have no wrong option; the smallest size runs only a few of them."""
    for arguments in COMMANDS.values():
        done = forked.run_forked(*arguments, "--data-dir", str(tmp_path), environment=clean_environment())
        assert done.returncode in (0, 3), (
            arguments,
            done.stderr,
        )  # 3: there is no such webhook or alert in an empty directory


def test_every_goal_is_of_a_scenario() -> None:
    """A goal belongs to a scenario and compares with one of its systems."""
    for key, _, row in GOALS:
        assert row.removeprefix("kekbridge / ") in {system.name for system in SCENARIOS[key].systems}


def test_the_reference_plus_keeps_its_chain() -> None:
    """R+ has the duties that it stands for: no double order, one row per alert, answer and report, chained across a restart."""
    with ReferencePlus() as system:
        for count, total in ((6, 6), (3, 9)):
            result = asyncio.run(run(system, count=count, at_once=3, copies=2))
            assert (len(result.orders), result.doubles) == (count, 0)
            wait_until(lambda total=total: len(_rows(system)) == 3 * total, what="answers and reports")
            system.stop()
            system.start()
        rows = _rows(system)
    assert Counter(kind for _, _, kind, *_ in rows) == {"alert": 9, "answer": 9, "report": 9}
    previous = bytes(32)
    for sequence, at, kind, name, data, previous_hash, stored in rows:
        assert previous_hash == previous
        previous = sha256(b"%b%d%d%b%b%b" % (previous, sequence, at, kind.encode(), name.encode(), data)).digest()
        assert stored == previous
        assert kind != "alert" or len(json.loads(data)["verdicts"]) == 32


def _rows(system: ReferencePlus) -> list[tuple[int, int, str, str, bytes, bytes, bytes]]:
    with closing(sqlite3.connect(system.directory / "reference.db")) as connection:
        return connection.execute("SELECT * FROM journal ORDER BY sequence").fetchall()
