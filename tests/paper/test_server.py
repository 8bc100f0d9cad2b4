"""The server: start, restart, kill -9, bursts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from tests.paper.trader import BTC, ETH, Trader, until

SETTINGS = PaperSettings(prices="static", rate_limits=False)
RUNNER = """
import asyncio, sys
from pathlib import Path
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings

async def run():
    paper = PaperExchange(Path(sys.argv[1]), settings=PaperSettings(prices="static", rate_limits=False))
    print(await paper.start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(run())
"""


async def test_state_survives_a_restart(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Positions, orders, algo orders, mark prices and journal are restored after a restart and still work."""
    paper = PaperExchange(tmp_path, settings=SETTINGS)
    trader = Trader(session, await paper.start())
    await trader.prices(BTC="66000")
    await trader.done(await trader.order(client_order_id="kb-1"))
    resting = await trader.order(order_type="LIMIT", order_price="65900")
    stop = {
        "symbol": BTC,
        "algo_type": "STOP",
        "type": "MARKET",
        "side": "SELL",
        "quantity": "0.01",
        "trigger_price": "65000",
        "reduce_only": True,
    }
    await trader.ok("POST", "/v1/algo/order", stop)
    journal = await trader.journal()
    await paper.close()
    again = PaperExchange(tmp_path, settings=SETTINGS)
    trader = Trader(session, await again.start())
    assert (await trader.journal())[: len(journal)] == journal
    assert await trader.position() == Decimal("0.01")
    assert (await trader.ok("GET", f"/v1/order/{resting}"))["status"] == "NEW"
    await trader.prices(BTC="65850")
    assert (await trader.done(resting))["status"] == "FILLED"
    await trader.prices(BTC="64990")
    assert await trader.position() == Decimal("0.01")
    await again.close()


async def test_orders_accepted_before_a_restart_are_matched_after_it(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """An order accepted but not matched before a restart is matched after it, once."""
    slow = PaperSettings(prices="static", rate_limits=False, match_delay_ms=60_000)
    paper = PaperExchange(tmp_path, settings=slow)
    trader = Trader(session, await paper.start())
    order_id = await trader.order()
    await paper.close()
    again = PaperExchange(tmp_path, settings=SETTINGS)
    trader = Trader(session, await again.start())
    assert (await trader.done(order_id))["status"] == "FILLED"
    assert sum(1 for e in await trader.journal() if e["event"] == "fill") == 1
    await again.close()


async def test_kill_9_loses_no_accepted_order(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """After SIGKILL under load, every acknowledged create is in the journal and in the orders, and fills once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUNNER, str(tmp_path), stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert process.stdout is not None
    trader = Trader(session, (await process.stdout.readline()).decode().strip())
    answered: list[int] = []

    async def send(number: int) -> None:
        try:
            answered.append(await trader.order(client_order_id=f"kb-{number}", order_quantity="0.001"))
        except (aiohttp.ClientError, OSError):
            return

    tasks = [asyncio.create_task(send(number)) for number in range(60)]

    async def enough() -> bool | None:
        return True if len(answered) >= 20 else None

    await until(enough)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await asyncio.gather(*tasks)
    paper = PaperExchange(tmp_path, settings=SETTINGS)
    trader = Trader(session, await paper.start())
    for order_id in answered:
        assert (await trader.done(order_id))["status"] == "FILLED"
    journal = await trader.journal()
    accepted = {e["order_id"] for e in journal if e["event"] == "order_accepted"}
    filled = [e["order_id"] for e in journal if e["event"] == "fill"]
    assert set(answered) <= accepted
    assert len(filled) == len(set(filled)) == len(accepted)
    assert await trader.position() == Decimal("0.001") * len(accepted)
    await paper.close()


async def test_fifty_creates_at_one_instant(paper: PaperExchange, trader: Trader) -> None:
    """Every create of a burst is acknowledged and fills once."""
    ids = await asyncio.gather(*(trader.order(symbol=ETH, order_quantity="0.01") for _ in range(50)))
    assert len(set(ids)) == 50
    await trader.until_position(ETH, "0.5")
    assert paper.journal()[-1]["event"] == "fill"


async def test_file_is_private_and_close_is_repeatable(tmp_path: Path) -> None:
    """paper.db has mode 0600; closing twice is harmless; a closed exchange raises RuntimeError."""
    paper = PaperExchange(tmp_path, settings=SETTINGS)
    await paper.start()
    assert (tmp_path / "paper.db").stat().st_mode & 0o777 == 0o600
    await paper.close()
    await paper.close()
    with pytest.raises(RuntimeError):
        _ = paper.exchange
