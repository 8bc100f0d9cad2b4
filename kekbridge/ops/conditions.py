"""Conditions in force (exchange down, disk low, ...): each change is one history event, a check without change costs no write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from kekbridge.store import conditions
from kekbridge.store.database import Database


class Conditions:
    """Cached view of the stored conditions; one per daemon, which alone changes them."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._active: dict[str, str] | None = None

    async def active(self) -> Mapping[str, str]:
        """The event kind of each condition in force, by the condition's name."""
        if self._active is None:
            found = await self._database.read(conditions.list_active)
            self._active = {name: one.kind for name, one in found.items()}
        return dict(self._active)  # a copy: callers update conditions while they iterate

    async def update(
        self, name: str, kind: str | None, *, over: str | None, data: Mapping[str, object] | None = None
    ) -> None:
        """Set a condition to event `kind`, or end it with event `over` if `kind` is None. Only changes are published.

        `over` None ends it silently.
        """
        if (await self.active()).get(name) == kind:
            return
        now = self._clock()
        if kind is None:
            await self._database.write(conditions.end, name, over, now=now, data=data)
        else:
            await self._database.write(conditions.begin, name, kind, now=now, data=data)
        assert self._active is not None  # noqa: S101 - active() has filled it
        if kind is None:
            self._active.pop(name, None)
        else:
            self._active[name] = kind

    async def keep_only(self, prefix: str, names: set[str]) -> None:
        """End, without an event, the conditions under `prefix` that are not in `names`: their subject is gone."""
        for name in [name for name in await self.active() if name.startswith(prefix) and name not in names]:
            await self.update(name, None, over=None)
