"""Watches the room on the disks that the data and the backups are on: with none, no alert can be stored."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kekbridge.ops.conditions import Conditions

_MIB: Final = 1 << 20
# Told to be over only with some more room than the limit: files come and go.
_ENOUGH: Final = 1.1


class DiskWatch:
    """`look` every minute; `least_mb` 0 watches nothing."""

    def __init__(self, conditions: Conditions, places: Sequence[Path], *, least_mb: int) -> None:
        self._conditions = conditions
        self._places = tuple(dict.fromkeys(places))
        self._least = least_mb * _MIB

    async def look(self) -> None:
        known = await self._conditions.known()
        for place in self._places:
            if not place.is_dir():
                continue  # no backup was made yet: its directory is made with the first
            name = f"disk:{place}"
            free = (await asyncio.to_thread(shutil.disk_usage, place)).free
            is_low = free < (self._least * _ENOUGH if name in known else self._least)
            data = {"free": size(free), "place": str(place)}
            await self._conditions.note(name, "disk_low" if is_low else None, over="disk_enough", data=data)
        await self._conditions.keep_only("disk:", {f"disk:{place}" for place in self._places})


def size(free: int) -> str:
    """`812 MiB`, `3.4 GiB`."""
    return f"{free / (1 << 30):.1f} GiB" if free >= 1 << 30 else f"{free // _MIB} MiB"
