"""The manual page names every command and option, is what the wheel installs, and is accepted by mandoc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from typing import Any

import pytest
from typer.main import get_command

from kekbridge import __version__
from kekbridge.cli.app import app
from kekbridge.cli.man_page import man_page
from kekbridge.documents import attachment
from tests.cli.tree import walk
from tests.paths import ROOT

# Macros of man(7) and requests that both groff and mandoc know.
MACROS = {"TH", "SH", "SS", "PP", "TP", "B", "RS", "RE", "nf", "fi", "nh", "ad"}


@pytest.fixture(scope="module")
def page() -> str:
    """The manual page."""
    return man_page()


def plain(text: str) -> str:
    """The text without escapes for characters and fonts."""
    text = re.sub(r"\\f[BIPR]", "", text)
    text = re.sub(r"\\\[u([0-9A-F]{4,6})\]", lambda found: chr(int(found[1], 16)), text)
    for escape, character in (
        (r"\-", "-"),
        (r"\(aq", "'"),
        (r"\(dq", '"'),
        (r"\(ga", "`"),
        (r"\(ha", "^"),
        (r"\(ti", "~"),
        (r"\&", ""),
    ):
        text = text.replace(escape, character)
    return text.replace(r"\e", "\\")


def test_the_page_that_is_installed_is_current(page: str) -> None:
    """The wheel installs the file where man looks for it."""
    assert attachment("kekbridge.1") == page.encode(), "run `kekbridge docs --man > kekbridge/docs/kekbridge.1`"
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert built["targets"]["wheel"]["shared-data"] == {"kekbridge/docs/kekbridge.1": "share/man/man1/kekbridge.1"}


def test_it_has_every_command_with_its_options_and_examples(page: str) -> None:
    """Whatever --help shows, and nothing that it hides."""
    parts = re.split(r'^\.SS "(.*)"$', page, flags=re.MULTILINE)
    shown = {plain(heading): plain(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    by_command = {re.sub(r" (\[?[A-Z]|\[)[^a-z].*$| [A-Z\[].*$", "", heading): text for heading, text in shown.items()}
    expected = {
        f"kekbridge {' '.join(path)}": command
        for path, command in walk(get_command(app))
        if path and not command.hidden
    }
    assert set(by_command) == set(expected)
    for name, command in expected.items():
        text = by_command[name]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0] in text, f"{name} {parameter.opts[0]}"
        for line in (command.epilog or "").split("\n")[2:]:
            assert line.strip() in text
        assert command.help.split()[0] in text


def test_it_has_the_sections_of_a_manual_page(page: str) -> None:
    """Those of man-pages(7), in its order, with the version."""
    sections = re.findall(r"^\.SH (.*)$", page, re.MULTILINE)
    assert sections == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"),
        *("EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"),
    ]
    assert f'"kekbridge {__version__}"' in page.splitlines()[0]
    text = plain(page)
    for word in ("KEKBRIDGE_DATA_DIR", "kekbridge.db", "\n130\n", "systemctl(1)"):
        assert word in text


def test_nothing_is_a_request_by_accident(page: str) -> None:
    """ASCII only; a line begins with a dot only for a macro; blocks end; every escape is one that is meant."""
    assert page.isascii()
    assert "`" not in page
    lines = page.splitlines()
    assert {line[1:].split()[0] for line in lines if line.startswith(".")} <= MACROS
    assert not [line for line in lines if line.startswith("'") or not line]
    for begin, end in ((".nf", ".fi"), (".RS 4", ".RE")):
        assert lines.count(begin) == lines.count(end)
    assert set(re.findall(r"\\(f.|\(..|\[u|.)", page)) <= {
        "fB",
        "fI",
        "fP",
        "(aq",
        "(dq",
        "(ga",
        "(ha",
        "(ti",
        "[u",
        "-",
        "&",
        "e",
    }


@pytest.mark.skipif(shutil.which("mandoc") is None and not os.environ.get("CI"), reason="mandoc is not installed")
def test_mandoc_finds_no_fault(page: str) -> None:
    """A version that is not in the changelog yet has no date; nothing else is missing or misspelt."""
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning"], input=page, capture_output=True, text=True, check=False
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_the_command_prints_it(page: str, run: Any) -> None:
    """For `man -l -`; it is one page, so it takes no topic."""
    assert run("docs", "--man").out == page
    refused = run("docs", "alerts", "--man")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
