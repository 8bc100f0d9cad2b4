"""The pager: a text that fits the screen is printed, as is any text where no pager can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from kekbridge.cli.pager import page


@pytest.fixture
def pager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pager that writes what it shows into the file beside it, on a screen of 20 columns and 5 rows."""
    program = tmp_path / "pager"
    program.write_text('#!/bin/sh\ncat > "$0.shown"\n', encoding="utf-8")
    program.chmod(0o755)
    for name, value in (("PAGER", str(program)), ("TERM", "xterm"), ("COLUMNS", "20"), ("LINES", "5")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MANPAGER", raising=False)
    return tmp_path / "pager.shown"


@pytest.mark.parametrize(
    ("text", "is_paged"),
    [
        ("a line\n" * 4, False),
        ("a line\n" * 5, True),
        ("x" * 81 + "\n", True),  # wraps to five rows
        ("x" * 80 + "\n", False),
        (f"\x1b[1m{'x' * 76}\x1b[0m\n", False),  # colours take no room
    ],
)
def test_only_what_does_not_fit_is_paged(
    text: str, is_paged: bool, pager: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last row is left for the prompt."""
    page(text)
    assert pager.exists() == is_paged
    assert (pager.read_text(encoding="utf-8") if is_paged else capsys.readouterr().out) == text


@pytest.mark.parametrize(
    ("name", "value"), [("PAGER", ""), ("PAGER", "cat"), ("PAGER", "/nonexistent/pager"), ("TERM", "dumb")]
)
def test_a_text_is_printed_where_no_pager_can_be_used(
    name: str, value: str, pager: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reader wants none, it cannot be started, or the terminal cannot page."""
    monkeypatch.setenv(name, value)
    page("a line\n" * 9)
    assert capsys.readouterr().out == "a line\n" * 9
    assert not pager.exists()


def test_manpager_is_the_second_choice(pager: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$PAGER is the first; less shows colours whatever options the reader has set."""
    monkeypatch.delenv("PAGER")
    monkeypatch.setenv("MANPAGER", f'cat > "{pager}"; echo "$LESS" >> "{pager}"')
    monkeypatch.setenv("LESS", "FX")
    page("a line\n" * 5)
    assert pager.read_text(encoding="utf-8") == "a line\n" * 5 + "-R FX\n"
