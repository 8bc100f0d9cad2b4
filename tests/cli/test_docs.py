"""`kekbridge docs`: lists every document of the package, prints Markdown in a pipe, is readable and paged on a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import kekbridge
from kekbridge.documents import documents
from tests.cli.terminal import at_terminal

DIRECTORY = Path(kekbridge.__file__).parent / "docs"
FILES = (*DIRECTORY.rglob("*.md"), DIRECTORY / "api.yaml", DIRECTORY / "grafana.json")
TOPICS = sorted([*(str(path.relative_to(DIRECTORY).with_suffix("")) for path in FILES), "config.example"])


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
    assert document.text.startswith(f"# {document.title}\n") or document.path.endswith(".json")
    assert document.summary.endswith((".", ":"))
    assert len(document.summary) <= 160 or document.name.startswith("internals/")


def test_json_names_topics_titles_and_files(run: Any) -> None:
    """For scripts: one object for each topic."""
    found = run("docs", "--json").data
    assert sorted(one["name"] for one in found) == TOPICS
    for one in found:
        beginning = '{\n  "title": "kekbridge"' if one["name"] == "grafana" else f"# {one['title']}\n"
        assert Path(one["path"]).read_text(encoding="utf-8").startswith(beginning)


def test_the_dashboard_in_a_pipe_is_its_json(run: Any) -> None:
    """`kekbridge docs grafana > dashboard.json` is what Grafana imports."""
    shown = run("docs", "grafana")
    assert shown.out == (DIRECTORY / "grafana.json").read_text(encoding="utf-8")
    assert json.loads(shown.out)["panels"]


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


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """That of a terminal whose pager marks what it shows."""
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged with LESS=$LESS\ncat\n", encoding="utf-8")
    pager.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in ("PAGER", "MANPAGER", "LESS", "NO_COLOR")}
    return {**clean, "TERM": "xterm-256color", "PAGER": str(pager), **variables}


def on_screen(*arguments: str, environment: dict[str, str]) -> str:
    """What a command shows on a terminal of 80 columns and 50 rows."""
    with at_terminal(*arguments, environment=environment, columns=80) as terminal:
        code, screen = terminal.end()
    assert code == 0, screen
    return screen


def test_a_topic_on_a_terminal_is_rendered_and_paged(tmp_path: Path) -> None:
    """Colours pass through less; nothing of Markdown is left, links name the command that shows them."""
    screen = on_screen("docs", "settings", environment=environment(tmp_path))
    assert screen.startswith("paged with LESS=-R\r\n")
    assert "\x1b[1m" in screen
    assert not [mark for mark in ("## ", "|---|", "<!--", "```", "](") if mark in screen]
    assert "  kekbridge docs live\r\n" in screen


def test_leaving_the_pager_early_is_no_error(tmp_path: Path) -> None:
    """The reader quits on the first screen of a long document: no message, exit code 0, and NO_COLOR leaves no colours."""
    quitting = environment(tmp_path, PAGER="head -n 3", NO_COLOR="1")
    screen = on_screen("docs", "internals/orderly", environment=quitting)
    assert screen.count("\n") == 3
    assert "\x1b[3" not in screen


@pytest.mark.parametrize("topic", ["api.yaml", "config.example.toml", "LIMITS", "internals/orderly.md"])
def test_a_topic_may_be_named_after_its_file(run: Any, topic: str) -> None:
    """With its suffix, in any case."""
    shown = run("docs", topic, "--json")
    assert Path(shown.data["path"]).name.lower().startswith(topic.rpartition("/")[2].lower())
