"""What is new between two versions, from the changelog that is part of the package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kekbridge.documents import find_document

_HEADING: Final = re.compile(r"^## ([0-9]+(?:\.[0-9]+)*).*$", re.MULTILINE)
_BEHAVIOUR: Final = re.compile(r"^### What behaves differently\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
# An item of a list, with the lines that it wraps into.
_ITEM: Final = re.compile(r"^- (.*(?:\n  .*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Release:
    """One version's part of the changelog."""

    #: Such as `0.2.0`.
    version: str
    #: What behaves differently from the version before, one paragraph each, as Markdown.
    changes: tuple[str, ...]


def releases_between(old: str, new: str) -> list[Release]:
    """The versions after `old`, up to and with `new`, newest first; none if `new` is not newer."""
    _, *parts = _HEADING.split(find_document("changelog").text)
    releases = zip(parts[::2], parts[1::2], strict=True)
    return [
        Release(version, _changes(part)) for version, part in releases if _order(old) < _order(version) <= _order(new)
    ]


def _changes(part: str) -> tuple[str, ...]:
    found = _BEHAVIOUR.search(part)
    return tuple(" ".join(item.split()) for item in _ITEM.findall(found[1])) if found else ()


def _order(version: str) -> tuple[int, ...]:
    """Versions in their order: `0.10.0` comes after `0.9.2`. Of `0.2.0-1a2b3c4d`, a copy of the program, the build does not count."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", version.partition("-")[0]))
