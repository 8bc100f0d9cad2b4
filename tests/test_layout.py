"""The package keeps its layout: what lies in the root, one name per class, documented packages and values, tests that mirror modules."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "kekbridge"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(file.parent for file in MODULES if file.name == "__init__.py")
ROOT_MODULES = {
    "__init__",
    "__main__",
    "config",
    "documents",
    "errors",
    "codes",
    "log",
    "formatting",
    "parsing",
    "failpoints",
}
# docs/internals/architecture.md section 12; import-linter enforces their order.
MOST_LAYERS = 8
# Test files that take a whole package at once: a browser, every command that reads, a foreign client, a long history.
NOT_MIRRORS = {
    "tests/admin/test_in_chromium.py",
    "tests/cli/test_readers.py",
    "tests/paper/test_connector.py",
    "tests/store/test_long_histories.py",
}


def classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


def test_only_shared_modules_lie_in_the_root() -> None:
    """Everything else belongs to the package of its stage."""
    assert {file.stem for file in PACKAGE.glob("*.py")} == ROOT_MODULES


def test_class_names_are_unique() -> None:
    """One class name, one class: a search finds the right one."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in MODULES:
        for each in classes(file):
            found[each.name].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_no_file_has_marks_of_a_merge() -> None:
    """What a merge left unresolved is found in code by its parser, in documents by nothing else."""
    files = [ROOT / "README.md", ROOT / "config.example.toml", *PACKAGE.rglob("*.md"), *PACKAGE.rglob("*.yaml")]
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [file.name for file in files if marks.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda each: str(each.relative_to(ROOT)))
def test_packages_and_modules_have_a_docstring(package: Path) -> None:
    """The first line says what it is for, in one sentence."""
    for file in package.glob("*.py"):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        assert docstring, f"{file} has no docstring"
        if file.name not in ("__init__.py", "__main__.py"):
            assert docstring.splitlines()[0].rstrip().endswith((".", ":")) or len(docstring.splitlines()) > 1, file


def test_public_values_are_documented_field_by_field() -> None:
    """Each field of a public dataclass or Struct has a `#:` line above it or above its group: no unit has to be guessed."""
    assert {str(file.relative_to(PACKAGE)): missing for file in MODULES if (missing := _undocumented(file))} == {}


def _undocumented(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    missing = []
    for each in classes(file):
        if each.name.startswith("_") or not _is_value(each):
            continue
        fields = [node for node in each.body if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node)]
        is_documented = False
        for field in fields:
            above = lines[field.lineno - 2].strip()
            is_documented = above.startswith("#:") or (is_documented and not above.startswith("#") and above != "")
            if not is_documented and not _explains_itself(field):
                missing.append(f"{each.name}.{ast.unparse(field.target)}")
    return missing


def _is_value(each: ast.ClassDef) -> bool:
    bases = [ast.unparse(base) for base in each.bases]
    return "Struct" in bases or any("dataclass" in ast.unparse(one) for one in each.decorator_list)


def _explains_itself(field: ast.AnnAssign) -> bool:
    """A field whose name is its type's, or an id, says all there is to say: `side: Side`, `symbol: str`, `webhook_id: str`."""
    name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
    return (
        kind.lower().replace("_", "").startswith(name.replace("_", ""))
        or name in ("symbol", "id")
        or name.endswith("_id")
    )


def test_tests_mirror_the_package() -> None:
    """`tests/risk/test_rules.py` tests `risk/rules.py`; a suffix names one side of it (`test_rules_properties.py`)."""
    astray = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        where = file.relative_to(ROOT / "tests").parent
        if (
            where.parts[:1] in (("system",), ("bench",))
            or where == Path()
            or str(file.relative_to(ROOT)) in NOT_MIRRORS
        ):
            continue
        modules = {each.stem for each in (PACKAGE / where).glob("*.py")} | {
            each.name for each in (PACKAGE / where).glob("*/")
        }
        subject = file.stem.removeprefix("test_")
        if where.name != subject and not any(subject == name or subject.startswith(f"{name}_") for name in modules):
            astray.append(str(file.relative_to(ROOT)))
    assert astray == []


def test_layers_are_few() -> None:
    """At most eight, so that a newcomer can hold them in mind."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^layers = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert len(layers.splitlines()) <= MOST_LAYERS
