"""Key watch: when the exchange rejects the API key, ask it whether the key is gone, and halt if it is.

One rejection proves nothing: exits go on being tried. A key that was removed or has expired stays so, and then no order can be sent until
the trader has made a new one. A standby that takes over removes the key of this machine (ops/takeover.py): a machine that comes back
halts before it has sent anything, and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Exchange, KeyInfo
from kekbridge.execution.book import Book
from kekbridge.log import get_logger
from kekbridge.model import TradingState
from kekbridge.store.settings import ACCOUNT, TradingControl

log = get_logger("kekbridge.execution.key_watch")

#: While the exchange does not confirm the account's state, it is asked for the key this often.
_CHECK_EVERY_S: Final = 3.0
# How the reasons of the states begin that a rejected key leads to: here, and in the submitter.
_REASONS: Final = ("the API key ", "the exchange rejected the API key ")
_BY: Final = "kekbridge"
_NEW_KEY: Final = "create a new one with `kekbridge keys generate`, then `kekbridge resume`"


def is_about_key(control: TradingControl) -> bool:
    """True for a trading state that a rejected or removed key has led to."""
    return control.by == _BY and control.reason.startswith(_REASONS)


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

    async def run(self) -> None:
        """Until cancelled: while the account's state cannot be read, or the stream is refused, ask whether that is because of the key.

        Two answers in a row are needed: an exchange that is just coming back may not list a key that it has.
        """
        doubts = 0
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            health = self._exchange.health
            if health.is_reachable and health.stream_is_live:
                doubts = 0
                continue
            doubts = doubts + 1 if await self._is_gone() else 0
            if doubts > 1:
                await self._check()

    async def _is_gone(self) -> bool:
        try:
            return self._what_is_wrong(await self._exchange.own_key()) is not None
        except ExchangeUnavailable:
            return False

    def _what_is_wrong(self, key: KeyInfo | None) -> tuple[str, str] | None:
        """What happened to the key and what to do; None if it is valid."""
        if key is None:
            fix = f"if a standby has taken over, leave this machine off (`kekbridge docs standby`); else {_NEW_KEY}"
            return "was removed at the exchange", fix
        if key.expires_at is not None and key.expires_at <= self._clock():
            return f"expired on {key.expires_at:%Y-%m-%d}", _NEW_KEY
        return None

    async def _check(self) -> None:
        try:
            key = await self._exchange.own_key()
        except ExchangeUnavailable as error:
            log.warning("key_not_asked", error=error.message)
            return
        now = self._clock()
        wrong = self._what_is_wrong(key)
        if wrong is None:
            log.warning("key_rejected_but_valid")
            return
        found, fix = wrong
        if self._book.control(ACCOUNT, now=now, ignore_breaches=True).state is TradingState.HALTED:
            return
        log.error("key_gone", detail=found)
        reason = f"the API key {found}: {fix}"
        self._book.set_state(ACCOUNT, TradingState.HALTED, reason=reason, by=_BY, now=now)
