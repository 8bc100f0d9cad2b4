"""The changelog: every version has its part, and an upgrade shows the parts in between."""

from __future__ import annotations

import re

import pytest

from kekbridge import __version__
from kekbridge.cli.changelog import releases_between
from tests.paths import ROOT

TEXT = (ROOT / "kekbridge" / "docs" / "changelog.md").read_text(encoding="utf-8")


def test_the_newest_part_is_this_version() -> None:
    """A version is not released without saying what it changes; each has its date, and they are in order."""
    found = re.findall(r"^## (\S+) \([0-9]{4}-[0-9]{2}-[0-9]{2}\)$", TEXT, re.MULTILINE)
    assert len(found) == TEXT.count("\n## ")
    assert found[0] == __version__
    assert [each.version for each in releases_between("0", "99")] == found


@pytest.mark.parametrize(
    ("old", "new", "versions"),
    [
        ("0.1.0-0a1b2c3d", "0.2.0-99999999", ["0.2.0"]),
        ("0.1.0", "0.1.0", []),
        ("0.2.0-1", "0.2.0-2", []),
        ("0.2.0", "0.1.0", []),
        ("0.0.9", "0.10.0", ["0.2.0", "0.1.0"]),
    ],
)
def test_only_versions_in_between_are_shown(old: str, new: str, versions: list[str]) -> None:
    """A rebuild or a step back shows nothing, a jump over several versions shows each."""
    found = [each.version for each in releases_between(old, new)]
    assert [version for version in found if version in ("0.1.0", "0.2.0")] == versions


def test_what_behaves_differently_is_one_paragraph_each() -> None:
    """Wrapped lines are joined, and headings do not slip in."""
    (release,) = releases_between("0.1.0", "0.2.0")
    assert len(release.changes) >= 10
    for change in release.changes:
        assert change.startswith("**")
        assert "\n" not in change
        assert "##" not in change


def test_versions_that_are_only_numbered_have_no_changes() -> None:
    """The first version changed nothing."""
    (first,) = releases_between("0", "0.1.0")
    assert first.changes == ()
