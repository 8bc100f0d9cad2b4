"""Documents on a terminal: every line fits 80 columns except lines of code, no word is cut, no table loses a cell."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from rich.cells import cell_len

from kekbridge.cli.document_view import WIDTH, render
from kekbridge.documents import Document, documents

MARKDOWN = [one for one in documents() if one.is_markdown]


def shown(text: str, width: int = WIDTH) -> list[str]:
    """The lines of a document with this text below its heading."""
    return render(Document("alerts", "T", "", "alerts.md", f"# T\n\n{text}\n"), width=width).splitlines()[2:]


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda one: one.name)
def test_every_document_fits_eighty_columns(document: Document) -> None:
    """Only lines of code, which are copied, may be wider. No cell of a table is lost."""
    text = render(document, width=WIDTH)
    blocks = re.compile(r"```.*?\n(.*?)```", re.DOTALL)
    code = {line.strip() for block in blocks.findall(document.text) for line in block.splitlines()}
    for line in text.splitlines():
        assert cell_len(line) <= WIDTH or line.strip() in code, line
        assert line == line.rstrip()
    words = " ".join(set(re.findall(r"\w+", text)))
    for line, below in pairwise([*blocks.sub("", document.text).splitlines(), ""]):
        if line.startswith("|") and not re.match(r"\|[ :-]+\|", below):  # no heading of a table
            cells = re.sub(r"\]\([^)]*\)|`[^`]*`", "", line)
            assert [word for word in re.findall(r"[a-z]{3,12}", cells) if word not in words] == []


def test_a_line_of_code_is_never_wrapped() -> None:
    """A command can be copied whole, also from a list."""
    command = "kekbridge webhook edit btc-trend " + "--max-notional 5000 " * 6 + "--cooldown 5m"
    assert shown(f"```sh\n{command}\n```") == [f"    {command}"]
    assert shown(f"- Do this:\n\n  ```sh\n  {command}\n  ```") == [" • Do this:", f"       {command}"]


def test_a_table_is_columns_where_they_are_wide_enough_and_else_one_block_per_row() -> None:
    """Columns that need little do not wrap; rows that wrap are apart; a value that is missing is left out of a block."""
    wide = f"| name | what |\n|---|---|\n| `a_name` | {'many words ' * 12}|\n| b | one |"
    lines = shown(wide)
    assert lines[0].split() == ["name", "what"]
    assert lines[2].startswith("a_name  many words")
    assert "" in lines
    assert lines[-1] == "b       one"
    stacked = shown(
        "| case | "
        + " | ".join(f"column{n}" for n in range(9))
        + " |\n"
        + "|---" * 10
        + "|\n| R1 | 1 | - |"
        + " 3 |" * 7
    )
    assert stacked[0] == "R1"
    assert stacked[1].startswith("  column0: 1; column2: 3;")


def test_links_are_followed_by_commands() -> None:
    """A link to a document names its topic at the end, once; one to a heading of the same text, to another file or outside names none."""
    lines = shown(
        "[a](limits.md) [b](limits.md#x) [c](#t) [d](internals/orderly.md) [e](../../README.md) [f](https://example.com)"
    )
    assert lines[0] == "a b c d e f (https://example.com)"
    assert lines[1:] == ["", "Links", "  kekbridge docs limits", "  kekbridge docs internals/orderly"]


@pytest.mark.parametrize("name", ["api", "config.example"])
def test_yaml_and_toml_keep_their_lines(name: str) -> None:
    """Only a comment that is too long wraps, between words; everything else can be copied."""
    document = next(one for one in documents() if one.name == name)
    shown = render(document, width=WIDTH)
    of_code = [line for line in document.text.splitlines() if not line.startswith("# ")]
    assert [line for line in shown.splitlines() if not line.startswith("# ")] == of_code
    assert not [line for line in shown.splitlines() if line.startswith("# ") and len(line) > WIDTH]
    assert shown.replace("# ", "").split() == document.text.replace("# ", "").split()


def test_rows_are_apart_only_if_one_wraps() -> None:
    """A table of short cells stays dense."""
    lines = shown("| a | b |\n|---|---:|\n| one | 2 |\n| three | 44 |")
    assert lines == ["a       b", "─────  ──", "one     2", "three  44"]
    assert all(first or second for first, second in pairwise(lines))
