"""An exchange that commands can reach: the paper exchange on a thread and a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings


class Venue:
    """A running paper exchange as other processes see it, with its state readable from the test's thread."""

    def __init__(self, exchange: PaperExchange, loop: asyncio.AbstractEventLoop) -> None:
        self.exchange = exchange
        self.base_url = exchange.base_url
        self._loop = loop

    def key(self, orderly_key: str) -> Any:
        """A registered key's record, None when there is none."""

        async def look() -> Any:
            return self.exchange.exchange.state.keys.get(orderly_key)

        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(20)


@contextmanager
def running_venue(directory: Path, **settings: Any) -> Iterator[Venue]:
    """A paper exchange with static prices on a free port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    exchange = PaperExchange(directory, settings=PaperSettings(prices="static", rate_limits=False, **settings))
    try:
        asyncio.run_coroutine_threadsafe(exchange.start(), loop).result(20)
        yield Venue(exchange, loop)
    finally:
        asyncio.run_coroutine_threadsafe(exchange.close(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
