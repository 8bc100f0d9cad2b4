"""The README is true: its commands run as printed, its tables name what exists, and CI runs its very test command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from kekbridge.cli.app import COMMANDS, app
from kekbridge.codes import CODES
from tests.cli.processes import DEADLINE_S, Served, bare_environment, paste, shells, starting
from tests.cli.tree import walk
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
# An HTML comment before a code block names it, invisible to the reader.
BLOCKS = dict(re.findall(r"<!-- test: (\w+) -->\n[ ]*```sh\n(.*?)[ ]*```", README, re.DOTALL))

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the README's line is a curl line")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `.venv/bin/kekbridge` is this package, as after the README's first command."""
    directory = tmp_path_factory.mktemp("clone")
    command = directory / ".venv" / "bin" / "kekbridge"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kekbridge "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Served]:
    """The bridge as the README's first command leaves it running, with one order placed by the printed line."""
    with starting(bare_environment(place / "data")) as start:
        bridge = start("serve")
        bridge.line(lambda text: text.startswith("Ready."))
        assert paste(shells()[0], bridge.line(lambda text: text.startswith("curl ")))["status"] == "filled"
        yield bridge


def script(name: str) -> str:
    """A block as it stands, without the indentation of its list."""
    return "\n".join(line.strip() for line in BLOCKS[name].splitlines())


def test_run_and_test_are_one_line_each() -> None:
    """One command to run, one to test: nothing before them, no root, only Python."""
    for name, end in (("run", "/kekbridge serve"), ("test", "/pytest")):
        line = script(name)
        assert "\n" not in line
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert line.endswith(end)
        assert "sudo" not in line


def test_ci_runs_the_command_of_the_readme() -> None:
    """CI has no test command of its own: it reads the README's, with the same result as this test."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (program,) = re.findall(r"awk '(.*?)' README\.md", ci)
    found = subprocess.run(["awk", program, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == script("test")
    assert ".venv/bin/pytest" not in ci


@needs_curl
@pytest.mark.parametrize("name", ["look", "webhooks", "templates", "rehearsal", "settings"])
def test_every_block_runs(name: str, served: Served, place: Path) -> None:
    """Blocks pasted into a shell beside the running bridge, each line without an error."""
    assert tuple(block for block in BLOCKS if block not in ("run", "test")) == (
        "look",
        "webhooks",
        "templates",
        "rehearsal",
        "settings",
    )
    if name in ("templates", "rehearsal"):  # their webhook is the one that the block before creates
        served.run("webhook", "create", "btc-trend")
    done = subprocess.run(
        ["sh", "-e", "-c", script(name)],
        cwd=place,
        env=served.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@needs_curl
def test_looking_shows_the_order(served: Served) -> None:
    """After the line, `orders`, `positions` and `logs` all speak of it."""
    assert "buy 0.001 market" in served.run("orders").stdout
    assert "filled" in served.run("logs").stdout


def test_options_named_in_the_readme_exist() -> None:
    """Every option in the README's text, tables and blocks can be typed after some command (or belongs to pip)."""
    known = {
        option
        for _, command in walk(get_command(app))
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    of_the_campaigns = {
        "--trials",
        "--seed",
        "--size",
        "--bodies",
    }  # python -m tests.system.campaign, tests.system.fuzz
    of_the_benchmark = {"--rounds", "--markdown", "--systems"}  # python -m tests.bench
    others = of_the_campaigns | of_the_benchmark | {"--quiet", "--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known | others


def test_status_table_is_that_of_the_codes() -> None:
    """Every status that a code can answer with is explained, and no other."""
    table = README.split("## What the answers mean")[1].split("\n## ")[0]
    explained = {
        int(number) for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for number in row.split(",")
    }
    answered = {code.status for code in CODES.values() if code.status is not None} | {200, 202}
    assert explained == answered - {404, 405, 408}  # a wrong path, method or a cut connection is no alert


def test_commands_named_in_the_readme_exist() -> None:
    """`kekbridge something` in the text can be typed."""
    named = set(
        re.findall(r"kekbridge ([a-z][a-z-]+)\b", re.sub(r"^kekbridge takes.*$", "", README, flags=re.MULTILINE))
    )
    assert {name for name in named if f"`kekbridge {name}" in README or f"bin/kekbridge {name}" in README} <= set(
        COMMANDS
    )


def test_files_named_in_the_readme_exist() -> None:
    """Links into the repository lead somewhere."""
    for target in re.findall(r"\]\(([A-Za-z.]+)\)", README):
        assert (ROOT / target).is_file(), target


@needs_curl
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("CI"), reason="installs everything anew: done in CI")
def test_the_first_command_works_in_a_fresh_clone(tmp_path: Path) -> None:
    """README's first command, as printed, in a clean clone and an empty home: it serves, and the printed line is filled."""
    clone = tmp_path / "kekbridge"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, capture_output=True)
    environment = bare_environment(tmp_path / "data") | {"HOME": str(tmp_path)}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    process = subprocess.Popen(
        ["bash", "-c", script("run")],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed: list[str] = []
    try:
        for line in process.stdout:
            printed.append(line)
            if line.startswith("Ready."):
                break
        curl = next((line for line in printed if line.startswith("curl ")), None)
        assert curl is not None, "".join(printed)
        assert paste("sh", curl)["status"] == "filled"
    finally:
        os.killpg(process.pid, 15)
        process.stdout.close()
        process.wait(DEADLINE_S)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout == ""
