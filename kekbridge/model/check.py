"""One line of a health check: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the screen. `broken` means that orders will fail; `fix` is empty when there is nothing to do."""

    name: str
    level: Level
    text: str
    fix: str = ""
