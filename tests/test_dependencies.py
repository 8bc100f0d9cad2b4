"""What is installed is what was tested: every dependency has an upper bound, and the lock that CI installs from covers them all."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import distributions
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.paths import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
NEEDED = PROJECT["project"]["dependencies"] + EXTRAS["dev"] + PROJECT["build-system"]["requires"]
EVERY = sorted({*NEEDED, *(text for extra in EXTRAS.values() for text in extra)})
LOCK = (ROOT / ".ci" / "lock.txt").read_text(encoding="utf-8")
LOCKED = {
    canonicalize_name(name): Version(version) for name, version in re.findall(r"^(\S+)==([^\s;]+)", LOCK, re.MULTILINE)
}


@pytest.mark.parametrize("text", EVERY)
def test_every_dependency_is_bounded_above(text: str) -> None:
    """A major version that nobody has tested yet is not installed."""
    requirement = Requirement(text)
    assert any(each.operator in ("<", "<=", "==", "~=") for each in requirement.specifier), (
        f"{text}: add an upper bound"
    )
    assert any(each.operator in (">=", "==", "~=") for each in requirement.specifier), f"{text}: add a lower bound"


@pytest.mark.parametrize("text", sorted({*NEEDED}))
def test_the_lock_has_an_allowed_version_of_every_dependency(text: str) -> None:
    """Else run .ci/lock: it is older than pyproject.toml."""
    requirement = Requirement(text)
    assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_package_in_the_lock_has_hashes() -> None:
    """An exchanged file is not installed."""
    blocks = re.findall(r"^\S+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*", LOCK, re.MULTILINE)
    assert len(blocks) == len(LOCKED) > 50
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert set(re.findall(r"--hash=(\w+):", LOCK)) == {"sha256"}


@pytest.mark.skipif(not os.environ.get("CI"), reason="a developer may try other versions")
def test_the_tests_run_on_the_lock() -> None:
    """Nothing that CI has installed is missing from it or of another version."""
    found = {canonicalize_name(each.metadata["Name"]): Version(each.version) for each in distributions()}
    installed = {name: version for name, version in found.items() if name not in ("kekbridge", "setuptools", "pip")}
    assert {name: version for name, version in installed.items() if LOCKED.get(name) != version} == {}
