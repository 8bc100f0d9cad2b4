"""The reference with the duties of a bridge: limits judged, a hash chain kept, the exchange's report stream read. Shows what those cost.

Per alert it judges 32 limits against totals in memory and commits one row with the message, all verdicts and the exact request; answers
and reports are rows, too, and each row's hash contains the one before. `python -m tests.bench.reference_plus`, as the reference.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import sqlite3
import time
from contextlib import closing
from decimal import Decimal
from typing import Any, Final

import msgspec

from tests.bench.reference import Message, Reference, arguments, order_text, serve

_SCOPES: Final = ("webhook", "account")
_RULES: Final = (
    *("order_size", "order_notional", "position_size", "position_notional", "orders_per_minute", "orders_per_hour"),
    *("orders_per_day", "notional_per_hour", "notional_per_day", "notional_per_week", "open_positions", "exposure"),
    *("leverage", "daily_loss", "drawdown", "queue_length"),
)
_LIMIT: Final = Decimal(1_000_000_000)
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS journal (sequence INTEGER PRIMARY KEY, at INTEGER, kind TEXT, id TEXT, data BLOB,"
    " previous_hash BLOB, hash BLOB) STRICT",
    "CREATE UNIQUE INDEX IF NOT EXISTS alerts ON journal (id) WHERE kind = 'alert'",
)


class Verdict(msgspec.Struct, frozen=True):
    """What one rule found."""

    rule: str
    scope: str
    passed: bool
    found: str
    limit: str


class _Report(msgspec.Struct, rename="camel"):
    """The fields of an `executionreport` that count."""

    client_order_id: str
    symbol: str
    side: str
    trade_id: int
    executed_price: Decimal
    executed_quantity: Decimal
    status: str


class _StreamMessage(msgspec.Struct):
    topic: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_encode = msgspec.json.Encoder().encode
_decode_message = msgspec.json.Decoder(_StreamMessage).decode
_decode_report = msgspec.json.Decoder(_Report).decode


class ReferencePlus(Reference):
    """Checks for duplicates in memory, so that a row's place in the chain is known when it is queued; the index only confirms it."""

    def __init__(self, exchange: str, database: str) -> None:
        super().__init__(exchange, database)
        self._database = database
        self._received: dict[str, asyncio.Future[int]] = {}
        self._sequence = itertools.count(1)
        self._hash = bytes(32)
        self._totals = {(scope, rule): Decimal(0) for scope in _SCOPES for rule in _RULES}
        self._held: dict[str, Decimal] = {}

    async def start(self) -> None:
        """Continue the chain, log in to the report stream and read it from then on."""
        for statement in _SCHEMA:
            await self._store.write(statement)
        with closing(sqlite3.connect(self._database)) as connection:
            for (alert_id,) in connection.execute("SELECT id FROM journal WHERE kind = 'alert'"):
                self._received[alert_id] = done = asyncio.get_running_loop().create_future()
                done.set_result(1)
            last = connection.execute("SELECT sequence, hash FROM journal ORDER BY sequence DESC LIMIT 1").fetchone()
        if last is not None:
            self._sequence, self._hash = itertools.count(last[0] + 1), last[1]
        self._socket = await self._session.ws_connect(self._exchange + "/v2/ws/private/stream/0x0")
        stamp = str(time.time_ns() // 1_000_000)
        signature = self._key.sign(stamp.encode()).signature.hex()
        await self._socket.send_json(
            {"id": "login", "event": "auth", "params": {"timestamp": stamp, "sign": signature}}
        )
        await self._socket.send_json({"id": "reports", "event": "subscribe", "topic": "executionreport"})
        task = asyncio.create_task(self._read_reports())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _save_intent(self, message: Message, client_order_id: str, body: bytes) -> bool:
        earlier = self._received.get(message.alertId)
        if earlier is not None:
            await earlier
            return False
        verdicts = self._judge(message.quantity)
        request = order_text(message, client_order_id)
        decision = {"message": body.decode(), "order": client_order_id, "verdicts": verdicts, "request": request}
        saved = self._received[message.alertId] = self._append("alert", message.alertId, _encode(decision))
        await saved
        return all(verdict.passed for verdict in verdicts)

    async def _save_answer(self, message: Message, text: str) -> None:
        await self._append("answer", message.alertId, text.encode())

    def _judge(self, quantity: Decimal) -> list[Verdict]:
        """Judge every limit with the order added, and take it into the totals."""
        limit, verdicts = str(_LIMIT), []
        for (scope, rule), total in self._totals.items():
            found = total + quantity
            self._totals[scope, rule] = found
            verdicts.append(Verdict(rule, scope, found <= _LIMIT, str(found), limit))
        return verdicts

    def _append(self, kind: str, name: str, data: bytes) -> asyncio.Future[int]:
        """Queue a row behind all others; the future is done after the flush."""
        sequence, at, previous = next(self._sequence), time.time_ns() // 1_000_000, self._hash
        self._hash = hashlib.sha256(
            b"%b%d%d%b%b%b" % (previous, sequence, at, kind.encode(), name.encode(), data)
        ).digest()
        return self._store.write(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", sequence, at, kind, name, data, previous, self._hash
        )

    async def _read_reports(self) -> None:
        async for frame in self._socket:
            self._handle(frame.data)

    def _handle(self, text: Any) -> None:
        message = _decode_message(text)
        if message.topic != "executionreport":
            return
        report = _decode_report(message.data)
        sign = 1 if report.side == "BUY" else -1
        self._held[report.symbol] = self._held.get(report.symbol, Decimal(0)) + sign * report.executed_quantity
        self._append("report", report.client_order_id, bytes(message.data))


async def _main(given: argparse.Namespace) -> None:
    reference = ReferencePlus(given.exchange, given.database)
    await reference.start()
    await serve(given.port, reference)


if __name__ == "__main__":
    asyncio.run(_main(arguments(__doc__)))
