"""The README's picture: a paper bridge with three strategies on its overview page, as a WebP file that carries the words it shows."""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.model import Limits
from kekbridge.store import codec
from tests.bridge import BTC, ETH, SOL, Bridge
from tests.paths import ROOT

PICTURE = ROOT / "kekbridge" / "docs" / "overview.webp"
#: When the picture is taken: a fixed time, so that it changes with the page only.
TAKEN_AT = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)
WIDTH = 1280
_WORDS = b"WORD"

#: Account value (USDC) every four hours before the alerts: what a paper account of 10,000 USDC did in five days.
_EQUITY = (
    *(10000, 10012, 9991, 10034, 10078, 10112, 10119, 10141, 10158, 10155, 10129, 10104, 10120, 10178, 10246, 10305),
    *(10317, 10331, 10330, 10322, 10346, 10371, 10398, 10384, 10402, 10391, 10420, 10438, 10431, 10444),
)

# Minutes before the picture, prices of BTC, ETH and SOL, the webhook, and the fields of each alert of the last hour.
_ALERTS: tuple[tuple[int, tuple[str, str, str], str, dict[str, Any]], ...] = (
    (41, ("64980", "1804", "139.8"), "btc-trend", {"quantity": "0.06", "stopLoss": "3%"}),
    (35, ("65110", "1806", "140.1"), "eth-dip", {"symbol": "ETHUSDT.P", "action": "sell", "quantity": "1.2"}),
    (28, ("65240", "1801", "140.9"), "sol-range", {"symbol": "SOLUSDT.P", "quantity": "20", "takeProfit": "6%"}),
    (21, ("65190", "1794", "141.6"), "sol-range", {"symbol": "SOLUSDT.P", "quantity": "900"}),
    (14, ("65320", "1786", "142.2"), "eth-dip", {"symbol": "ETHUSDT.P", "action": "close"}),
    (6, ("65410", "1789", "142.8"), "btc-trend", {"orderType": "limit", "limitPrice": "64600", "quantity": "0.03"}),
    (1, ("65480", "1791", "143.4"), "sol-range", {"symbol": "SOLUSDT.P", "action": "close", "quantity": "50%"}),
)


async def trade_for_an_hour(bridge: Bridge) -> None:
    """Send the alerts of three strategies within the hour before `TAKEN_AT`, while prices move, after five days of equity."""
    for name, symbol, largest in (
        ("btc-trend", BTC, "0.1"),
        ("eth-dip", ETH, "2"),
        ("sol-range", SOL, "50"),
    ):
        limits = Limits(allowed_symbols=(symbol,), max_order_size=Decimal(largest), max_notional=None, daily_orders=10)
        bridge.add_webhook(name, limits=limits)
    started = TAKEN_AT - timedelta(hours=1)
    with bridge.daemon.database.transaction() as connection:
        for place, value in enumerate(_EQUITY):
            at = codec.time_text(started - timedelta(hours=4 * (len(_EQUITY) - 1 - place)))
            peak = max(_EQUITY[: place + 1])
            connection.execute("INSERT INTO equity_marks VALUES (?, ?, '0', ?)", (at, str(value), str(peak)))
    for minutes, (btc, eth, sol), webhook, fields in _ALERTS:
        await bridge.control("prices", {BTC: btc, ETH: eth, SOL: sol})
        await bridge.jump_to(TAKEN_AT - timedelta(minutes=minutes))
        await bridge.send(webhook, **{"action": "buy", **fields})
        await bridge.daemon.operator_services.equity.run()
    await bridge.jump_to(TAKEN_AT)
    await bridge.until_ready()


def shown_words(text: str) -> str:
    """Return the text of a page without what differs between two bridges: figures and generated ids."""
    without_ids = re.sub(r"\b0[0-9A-Z]{11,25}\b", "ID", text)
    return " ".join(re.sub(r"[-+]?\d[\d,.:]*", "0", without_ids).split())


def save(picture: bytes, words: str, file: Path) -> None:
    """Write a WebP picture, with the words that it shows in a last chunk of its own, which viewers pass over."""
    body = words.encode()
    body += b" " * (len(body) % 2)
    chunks = picture[8:] + _WORDS + struct.pack("<I", len(body)) + body
    file.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)


def words_of(file: Path) -> str:
    """Return the words that were saved with a picture."""
    return file.read_bytes().rpartition(_WORDS)[2][4:].decode().strip()
