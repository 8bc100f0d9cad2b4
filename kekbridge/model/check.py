"""One line of a health check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, the result, and the fix."""

    #: What is checked, one or two words: the first column of `doctor`.
    name: str
    #: `broken`: orders will fail.
    level: Level
    #: What was found.
    text: str
    #: What to do about it; empty if nothing.
    fix: str = ""
