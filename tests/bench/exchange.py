"""Stub of the exchange with minimal cost: answers a client's requests, fills every order at once, and records when it arrived.

`python -m tests.bench.exchange --port N [--delay-s S] [--limit N]`. With a limit it rejects (429) what exceeds a strict sliding second.
GET /bench/arrivals lists arrivals by quantity, which is unique per alert of the benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import deque
from decimal import Decimal
from typing import Any

from aiohttp import WSMsgType, web

from tests.bench.markets import BASES

PRICE = 100
_TRADE_IDS = 1_000_000_000  # the id of an order plus this is the id of its trade
_MARKS_EVERY_S = 10.0  # a bridge denies entries on marks older than a minute


def _now() -> int:
    return time.time_ns() // 1_000_000


def _rules(symbol: str) -> dict[str, Any]:
    return {
        "symbol": f"PERP_{symbol}_USDC",
        "quote_min": 0,
        "quote_max": 1_000_000,
        "quote_tick": 0.01,
        "price_range": 0.9,
        "price_scope": 0.9,
        "base_min": 0.00001,
        "base_max": 1_000_000,
        "base_tick": 0.00001,
        "min_notional": 0,
        "base_mmr": 0.006,
        "base_imr": 0.01,
        "imr_factor": 0,
        "liquidation_tier": "1",
    }


class Stub:
    """State of the stub: orders by client order id, their arrivals, and the connected streams."""

    def __init__(self, delay_s: float, limit: int) -> None:
        self._delay_s = delay_s
        self._limit = limit
        self._recent: deque[float] = deque()
        self._orders: dict[str, dict[str, Any]] = {}
        self._by_id: dict[str, dict[str, Any]] = {}
        self._held: dict[str, Decimal] = {}
        self.arrivals: list[tuple[str, float, int]] = []
        self._sockets: list[web.WebSocketResponse] = []
        self._mark_sockets: list[web.WebSocketResponse] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith(("/v2/ws", "/ws")):
            return await self._stream(request)
        if path == "/bench/arrivals":
            return web.json_response(self.arrivals[int(request.query.get("since", "0")) :])
        if request.method == "POST" and path == "/v1/order":
            return await self._create(await request.read())
        return self._response(self._data(path))

    def _response(self, data: Any) -> web.Response:
        if data is None:
            text = json.dumps({"success": False, "code": -1006, "message": "order not found", "timestamp": _now()})
            return web.Response(status=400, text=text, content_type="application/json")
        text = json.dumps({"success": True, "timestamp": _now(), "data": data})
        return web.Response(text=text, content_type="application/json")

    async def _create(self, body: bytes) -> web.Response:
        arrived = time.monotonic()
        order = json.loads(body)
        is_rejected = self._is_over_the_limit(arrived)
        self.arrivals.append((str(order["order_quantity"]), arrived, 429 if is_rejected else 200))
        if is_rejected:
            text = json.dumps({"success": False, "code": -1003, "message": "rate limit", "timestamp": _now()})
            return web.Response(status=429, text=text, content_type="application/json")
        order_id = 1_000_000 + len(self.arrivals)
        row = self._filled(order, order_id)
        self._orders[str(order.get("client_order_id"))] = row
        self._by_id[str(order_id)] = row
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        task = asyncio.create_task(self._report(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._response(
            {"order_id": order_id, "client_order_id": order.get("client_order_id"), "error_message": "none"}
        )

    def _is_over_the_limit(self, now: float) -> bool:
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if self._limit and len(self._recent) >= self._limit:
            return True
        self._recent.append(now)
        return False

    def _filled(self, order: dict[str, Any], order_id: int) -> dict[str, Any]:
        quantity = order["order_quantity"]
        return {
            "order_id": order_id,
            "client_order_id": order.get("client_order_id"),
            "symbol": order["symbol"],
            "side": order["side"],
            "type": order["order_type"],
            "status": "FILLED",
            "quantity": quantity,
            "executed_quantity": quantity,
            "total_executed_quantity": quantity,
            "price": None,
            "average_executed_price": PRICE,
            "total_fee": 0,
            "fee_asset": "USDC",
            "realized_pnl": 0,
            "reduce_only": False,
            "created_time": _now(),
            "updated_time": _now(),
            "margin_mode": "CROSS",
        }

    def _trade(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": row["order_id"] + _TRADE_IDS,
            "order_id": row["order_id"],
            "symbol": row["symbol"],
            "side": row["side"],
            "executed_price": PRICE,
            "executed_quantity": row["quantity"],
            "fee": 0,
            "fee_asset": "USDC",
            "executed_timestamp": row["updated_time"],
            "is_maker": 0,
            "realized_pnl": 0,
            "margin_mode": "CROSS",
        }

    async def _report(self, row: dict[str, Any]) -> None:
        """Send the `executionreport` of a filled order, as documented (docs/internals/orderly.md section 12)."""
        symbol, sign = row["symbol"], 1 if row["side"] == "BUY" else -1
        self._held[symbol] = self._held.get(symbol, Decimal(0)) + sign * Decimal(str(row["quantity"]))
        data = {
            "symbol": symbol,
            "clientOrderId": row["client_order_id"] or "",
            "orderId": row["order_id"],
            "type": row["type"],
            "side": row["side"],
            "quantity": row["quantity"],
            "price": 0,
            "tradeId": row["order_id"] + _TRADE_IDS,
            "executedPrice": PRICE,
            "executedQuantity": row["quantity"],
            "fee": 0,
            "feeAsset": "USDC",
            "totalExecutedQuantity": row["quantity"],
            "avgExecutedPrice": PRICE,
            "status": "FILLED",
            "reason": "",
            "totalFee": 0,
            "visibleQuantity": 0,
            "timestamp": row["updated_time"],
            "reduceOnly": False,
            "marginMode": "CROSS",
            "maker": False,
            "match_id": str(row["order_id"]),
            "seq": row["order_id"],
        }
        for socket in self._sockets:
            try:
                await socket.send_json({"topic": "executionreport", "ts": _now(), "data": data})
            except (ConnectionError, RuntimeError):
                continue

    def _positions(self) -> list[dict[str, Any]]:
        return [
            {
                "symbol": symbol,
                "position_qty": float(quantity),
                "average_open_price": PRICE,
                "cost_position": float(quantity) * PRICE,
                "mark_price": PRICE,
                "unsettled_pnl": 0,
                "est_liq_price": None,
                "leverage": 10,
                "margin_mode": "CROSS",
                "updated_time": _now(),
            }
            for symbol, quantity in self._held.items()
        ]

    def _data(self, path: str) -> Any:
        last = path.rpartition("/")[2]
        match path:
            case "/v1/public/info":
                return {"rows": [_rules(symbol) for symbol in BASES]}
            case "/v1/public/futures":
                rows = [{"symbol": f"PERP_{each}_USDC", "mark_price": PRICE, "index_price": PRICE} for each in BASES]
                return {"rows": rows}
            case "/v1/public/system_info":
                return {"status": 0, "msg": "ok"}
            case "/v1/client/info":
                return {"account_id": "0x0", "account_mode": "FUTURES", "max_leverage": 100, "imr_factor": {}}
            case "/v1/client/holding":
                return {"holding": [{"token": "USDC", "holding": 1e9, "frozen": 0, "updated_time": _now()}]}
            case "/v1/positions":
                totals = dict.fromkeys(("free_collateral", "total_collateral_value", "account_value"), 1_000_000_000)
                return {**totals, "margin_ratio": 10, "total_pnl_24_h": 0, "rows": self._positions()}
            case _ if path.startswith("/v1/client/order/"):
                return self._orders.get(last)
            case _ if path.startswith("/v1/order/") and last == "trades":
                row = self._by_id.get(path.split("/")[3])
                return None if row is None else {"rows": [self._trade(row)]}
            case _ if path.startswith("/v1/order/"):
                return self._by_id.get(last)
        return {"rows": [], "meta": {"total": 0, "records_per_page": 500, "current_page": 1}}

    async def _stream(self, request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if "private" in request.path:
            self._sockets.append(socket)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            incoming = json.loads(message.data)
            if incoming.get("event") == "ping":
                await socket.send_json({"event": "pong", "ts": _now()})
            elif incoming.get("event") in ("auth", "subscribe"):
                await socket.send_json(
                    {"id": incoming.get("id"), "event": incoming["event"], "success": True, "ts": _now()}
                )
                if incoming.get("topic") == "markprices":
                    self._mark_sockets.append(socket)
                    await self._send_marks(socket)
        for sockets in (self._sockets, self._mark_sockets):
            if socket in sockets:
                sockets.remove(socket)
        return socket

    async def _send_marks(self, socket: web.WebSocketResponse) -> None:
        marks = [{"symbol": f"PERP_{symbol}_USDC", "price": PRICE} for symbol in BASES]
        await socket.send_json({"topic": "markprices", "ts": _now(), "data": marks})

    async def keep_marks_fresh(self) -> None:
        """Send the mark prices periodically, without end."""
        while True:
            await asyncio.sleep(_MARKS_EVERY_S)
            for socket in list(self._mark_sockets):
                try:
                    await self._send_marks(socket)
                except (ConnectionError, RuntimeError):
                    continue


async def _serve(port: int, stub: Stub) -> None:
    runner = web.ServerRunner(web.Server(stub.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(json.dumps({"port": port}), flush=True)
    await stub.keep_marks_fresh()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, Stub(given.delay_s, given.limit)))
