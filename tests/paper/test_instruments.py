"""Listed instruments and their settings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from tests.paper.trader import BTC, Trader


async def test_restricted_instruments_and_start_marks(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Settings restrict the symbols, set start prices and override rules; an unknown symbol is an error at start."""
    chosen = PaperSettings(
        prices="static",
        instruments=(BTC,),
        marks={BTC: Decimal(50000)},
        rules={BTC: {"min_notional": Decimal(1)}},
    )
    paper = PaperExchange(tmp_path, settings=chosen)
    trader = Trader(session, await paper.start())
    (row,) = (await trader.raw("GET", "/v1/public/info"))[1]["data"]["rows"]
    assert (row["symbol"], row["min_notional"]) == (BTC, 1)
    assert (await trader.raw("GET", f"/v1/public/futures/{BTC}"))[1]["data"]["mark_price"] == 50000
    await paper.close()
    with pytest.raises(ValueError, match="PERP_X_USDC"):
        await PaperExchange(tmp_path / "b", settings=PaperSettings(instruments=("PERP_X_USDC",))).start()
