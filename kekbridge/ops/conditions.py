"""Conditions for the watches: a look every minute costs no write, and each change is one event of the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from kekbridge.store import conditions
from kekbridge.store.database import Database


class Conditions:
    """One per daemon, which alone changes the conditions that it is asked about."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._holding: dict[str, str] | None = None

    async def known(self) -> Mapping[str, str]:
        """The event by which each condition that holds was told, by the condition's name."""
        if self._holding is None:
            found = await self._database.read(conditions.list_active)
            self._holding = {name: one.kind for name, one in found.items()}
        return dict(self._holding)  # its own: whoever goes through it may change conditions meanwhile

    async def update(
        self, name: str, kind: str | None, *, over: str | None, data: Mapping[str, object] | None = None
    ) -> None:
        """Tell `kind` if the condition has not been told so; with None tell `over` (None: nothing) if it had been."""
        if (await self.known()).get(name) == kind:
            return
        now = self._clock()
        if kind is None:
            await self._database.write(conditions.end, name, over, now=now, data=data)
        else:
            await self._database.write(conditions.begin, name, kind, now=now, data=data)
        assert self._holding is not None  # noqa: S101 - known() has filled it
        if kind is None:
            self._holding.pop(name, None)
        else:
            self._holding[name] = kind

    async def keep_only(self, prefix: str, names: set[str]) -> None:
        """Forget, without a word, the conditions under `prefix` whose subject is gone."""
        for name in [name for name in await self.known() if name.startswith(prefix) and name not in names]:
            await self.update(name, None, over=None)
