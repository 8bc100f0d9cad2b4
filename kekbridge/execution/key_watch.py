"""Key watch: when the exchange rejects the API key, ask it whether the key is gone, and halt if it is.

One rejection proves nothing: exits go on being tried. A key that was removed or has expired stays so, and then no order can be sent until
the trader has made a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Exchange
from kekbridge.execution.book import Book
from kekbridge.log import get_logger
from kekbridge.model import TradingState
from kekbridge.store.settings import ACCOUNT

log = get_logger("kekbridge.execution.key_watch")


class KeyWatch:
    """Watches the API key of one daemon."""

    def __init__(self, *, book: Book, exchange: Exchange, clock: Callable[[], datetime]) -> None:
        self._book = book
        self._exchange = exchange
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def check_soon(self) -> None:
        """The exchange rejected the key: ask for it, unless that is under way. No answer: the next rejection asks again."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._check())

    def stop(self) -> None:
        """End the query."""
        if self._task is not None:
            self._task.cancel()

    async def _check(self) -> None:
        try:
            key = await self._exchange.own_key()
        except ExchangeUnavailable as error:
            log.warning("key_not_asked", error=error.message)
            return
        now = self._clock()
        if key is None:
            found = "was removed at the exchange"
        elif key.expires_at is not None and key.expires_at <= now:
            found = f"expired on {key.expires_at:%Y-%m-%d}"
        else:
            log.warning("key_rejected_but_valid")
            return
        if self._book.control(ACCOUNT, now=now, ignore_breaches=True).state is TradingState.HALTED:
            return
        log.error("key_gone", detail=found)
        reason = f"the API key {found}: create a new one with `kekbridge keys generate`, then `kekbridge resume`"
        self._book.set_state(ACCOUNT, TradingState.HALTED, reason=reason, by="kekbridge", now=now)
