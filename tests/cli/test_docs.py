"""`kekbridge docs`: lists every document of the package, prints Markdown in a pipe, pages on a terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import kekbridge
from kekbridge.cli.docs import documents
from tests.cli.terminal import at_terminal

DIRECTORY = Path(kekbridge.__file__).parent / "docs"
FILES = (*DIRECTORY.rglob("*.md"), DIRECTORY / "api.yaml")
TOPICS = sorted(str(path.relative_to(DIRECTORY).with_suffix("")) for path in FILES)


def test_every_file_is_a_topic(run: Any) -> None:
    """Nothing is registered by hand; folders are part of the name and come last."""
    shown = run("docs")
    names = [line.split()[0] for line in shown.out.splitlines()[1:] if not line.startswith(" ")]
    assert sorted(names) == TOPICS
    assert names == [one.name for one in documents()]
    assert "kekbridge docs TOPIC" in shown.err


@pytest.mark.parametrize("document", documents(), ids=lambda one: one.name)
def test_every_document_opens_with_a_heading_and_a_sentence(document: Any) -> None:
    """The list shows both."""
    assert document.text.startswith(f"# {document.title}\n")
    assert document.summary.endswith((".", ":"))
    assert len(document.summary) <= 160 or document.name.startswith("internals/")


def test_json_names_topics_titles_and_files(run: Any) -> None:
    """For scripts: one object for each topic."""
    found = run("docs", "--json").data
    assert sorted(one["name"] for one in found) == TOPICS
    for one in found:
        assert Path(one["path"]).read_text(encoding="utf-8").startswith(f"# {one['title']}\n")


def test_a_topic_in_a_pipe_is_its_markdown(run: Any) -> None:
    """Nothing is rendered or wrapped, so that grep sees the document; only the names of tested blocks are left out."""
    lines = (DIRECTORY / "alerts.md").read_text(encoding="utf-8").splitlines()
    expected = [line for line in lines if not line.startswith("<!-- test:")]
    assert expected != lines
    shown = run("docs", "alerts")
    assert shown.code == 0
    assert shown.out.splitlines() == expected
    assert run("docs", "alerts", "--json").data["text"] == shown.out


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("limit", "did you mean limits?"),
        ("operation", "did you mean operations?"),
        ("zzz", "`kekbridge docs` lists the topics"),
        ("../alerts", "did you mean alerts?"),
    ],
)
def test_an_unknown_topic_is_one_line_and_exit_code_3(run: Any, topic: str, hint: str) -> None:
    """Same as for other unknown names."""
    shown = run("docs", topic)
    assert shown.code == 3
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert hint in shown.err


def test_a_topic_on_a_terminal_is_rendered_and_paged(tmp_path: Path) -> None:
    """Markdown is rendered to headings and tables, in the pager named by $PAGER."""
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged with LESS=$LESS\ncat\n", encoding="utf-8")
    pager.chmod(0o755)
    environment = {**os.environ, "PAGER": str(pager), "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("MANPAGER", None)
    environment.pop("LESS", None)
    with at_terminal("docs", "answers", environment=environment) as terminal:
        code, screen = terminal.end()
    assert code == 0
    assert screen.startswith("paged with LESS=FRX")
    assert "\x1b[" in screen
    assert "HTTP statuses" in screen
    assert "## HTTP" not in screen
    assert "|---|" not in screen
    assert "<!--" not in screen
