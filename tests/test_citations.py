"""Documents and sections cited by code, tests and internal documents exist; so do modules that architecture.md names."""

from __future__ import annotations

import ast
import re
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from tests.paths import ROOT

PACKAGE = ROOT / "kekbridge"
INTERNALS = PACKAGE / "docs" / "internals"
SOURCES = sorted(file for part in ("kekbridge", "tests") for file in (ROOT / part).rglob("*.py"))
# A citation may be wrapped anywhere, also inside a comment.
BREAK = r"\s+(?:#:?\s+)?"
NUMBER = r"\d+(?:\.\d+)*"
NUMBERS = rf"{NUMBER}(?:(?:,|,?{BREAK}and|{BREAK}to){BREAK}{NUMBER}|,{BREAK}{NUMBER})*"
DOCUMENT = re.compile(
    r"(?<![\w/.*-])(?P<document>[A-Za-z][\w/.-]*\.md)\b" rf"(?:{BREAK}sections?{BREAK}(?P<sections>{NUMBERS}))?"
)
# After a document's name it belongs to that citation; alone it refers to a document the same file names elsewhere.
BARE = re.compile(rf"(?<!\.md)(?<!\.md\s)(?<!\.md\s#\s)\bsections?{BREAK}(?P<sections>{NUMBERS})")
HEADING = re.compile(rf"^#{{2,3}} ({NUMBER})[. ]", re.MULTILINE)
RANGE = re.compile(rf"({NUMBER}){BREAK}to{BREAK}({NUMBER})")
MEMBER = re.compile(r"`([A-Z]\w+)\.(\w+)`")
MODULE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml|json))`")


@cache
def sections_of(document: Path) -> frozenset[str]:
    """Return the section numbers of a document."""
    return frozenset(HEADING.findall(document.read_text(encoding="utf-8")))


def numbers_in(text: str) -> set[str]:
    """Return the section numbers in `3, 4 and 9` or `5 to 9, 12`."""
    numbers = set(re.findall(NUMBER, text))
    for first, last in RANGE.findall(text):
        numbers |= {str(number) for number in range(int(first), int(last) + 1)}
    return numbers


def find_document(name: str) -> Path | None:
    """Find a cited document relative to the package, to its documents, or to the repository's root."""
    return next((found for found in (PACKAGE / name, PACKAGE / "docs" / name, ROOT / name) if found.is_file()), None)


def citations(text: str) -> list[tuple[str, set[str]]]:
    """Return every document that a text cites, with the cited sections."""
    return [(found["document"], numbers_in(found["sections"] or "")) for found in DOCUMENT.finditer(text)]


def problems_in(text: str) -> list[str]:
    """Describe the broken citations of one source file."""
    problems: list[str] = []
    cited: set[str] = set()
    for name, sections in citations(text):
        document = find_document(name)
        if document is None:
            problems.append(f"{name} is not in the repository")
            continue
        known = sections_of(document)
        cited |= known
        problems += [f"{name} has no section {number}" for number in sorted(sections - known)]
    for bare in BARE.finditer(text):
        problems += [f"section {number} of which document?" for number in sorted(numbers_in(bare["sections"]) - cited)]
    return problems


def test_cited_documents_and_sections_exist() -> None:
    """Every document and section cited in a comment or docstring exists."""
    found = {
        str(file.relative_to(ROOT)): problems_in(file.read_text(encoding="utf-8"))
        for file in SOURCES
        if file != Path(__file__)  # its examples are broken on purpose
    }
    assert {file: problems for file, problems in found.items() if problems} == {}


@pytest.mark.parametrize("document", sorted(INTERNALS.glob("*.md")), ids=lambda file: file.name)
def test_internals_cite_sections_that_exist(document: Path) -> None:
    """Internal documents cite each other by file name, and their own sections by number."""
    text = document.read_text(encoding="utf-8")
    for name, sections in citations(text):
        beside = INTERNALS / name.removeprefix("docs/internals/")
        assert beside.is_file() or find_document(name), f"{document.name} cites {name}"
        if beside.is_file():
            assert sections <= sections_of(beside), f"{document.name} cites {name} {sorted(sections)}"
    for bare in BARE.finditer(text):
        assert numbers_in(bare["sections"]) <= sections_of(document), bare[0]


def test_architecture_names_modules_that_exist() -> None:
    """Paths in architecture.md exist in the package or at the root; a bare file name exists somewhere in the package."""
    names = {file.name for file in PACKAGE.rglob("*.py")}
    for path in set(MODULE.findall((INTERNALS / "architecture.md").read_text(encoding="utf-8"))):
        if "/" in path:
            assert (PACKAGE / path).is_file() or (ROOT / path).is_file(), path
        else:
            assert path in names or (ROOT / path).is_file(), path


def test_architecture_names_classes_and_members_that_exist() -> None:
    """`Class.member` in architecture.md is a member of that class in the package."""
    members: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                members.setdefault(node.name, set()).update(_names_in(node))
    named = MEMBER.findall((INTERNALS / "architecture.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [f"{owner}.{name}" for owner, name in named if name not in members.get(owner, ())] == []


def _names_in(owner: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(owner):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_architecture_lists_the_layers_of_the_contract() -> None:
    """The layers in section 12 are those that import-linter enforces."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    section = (INTERNALS / "architecture.md").read_text(encoding="utf-8").split("## 12. ")[1].split("```")[1]
    listed = [line.partition("   ")[0].strip() for line in section.strip().splitlines()]
    assert listed == [layer.replace("kekbridge.", "") for layer in layers]


def test_architecture_lists_every_table(tmp_path: Path) -> None:
    """Section 8 names each table of the database, and the module that it names beside it exists."""
    Database.open(tmp_path).close_now()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    section = (INTERNALS / "architecture.md").read_text(encoding="utf-8").split("## 8. ")[1].split("\n## ")[0]
    assert {name for name in tables if f"`{name}`" not in section} == {"_sqlite_migrations"}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("docs/internals/orderly.md section 7", []),
        ("docs/internals/orderly.md sections 5 to 9, 12", []),
        ("# docs/internals/orderly.md\n# section 99", ["docs/internals/orderly.md has no section 99"]),
        ("docs/internals/reliability.md section 8.1", []),
        ("nowhere.md section 1", ["nowhere.md is not in the repository"]),
        ("(section 3)", ["section 3 of which document?"]),
    ],
)
def test_a_broken_citation_is_found(text: str, problems: list[str]) -> None:
    """The check finds missing documents, missing sections, and sections without a document."""
    assert problems_in(text) == problems
