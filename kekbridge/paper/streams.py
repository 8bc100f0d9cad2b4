"""Both WebSocket streams of the exchange: logins, subscriptions, pushes, keep-alive (orderly-api.md section 12).

Publishing never waits: every connection has its own queue and writer. The report faults act here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import WSMsgType, web

from kekbridge.paper import public_topics as topics
from kekbridge.paper import stream_messages as reports
from kekbridge.paper.auth import Gate
from kekbridge.paper.codec import Refusal, encode, parse_json
from kekbridge.paper.exchange import Venue
from kekbridge.paper.models import Algo, Mark, Position, Trade
from kekbridge.paper.state import Notice

PING_S: Final = 10.0
MAX_UNANSWERED: Final = 10
_TICK_S: Final = 1.0
_SLOW_TICKS: Final = 15
_REORDER_FLUSH_S: Final = 0.25


class Connection:
    """One client: what it may see, what it wants, and its outgoing queue."""

    def __init__(self, socket: web.WebSocketResponse, account_id: str, *, private: bool) -> None:
        self.socket = socket
        self.account_id = account_id
        self.private = private
        self.key: str | None = None
        self.topics: dict[str, frozenset[str]] = {}
        self.unanswered = 0
        self.held: str | None = None
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def send(self, message: Mapping[str, object]) -> None:
        """Queue a message."""
        self._queue.put_nowait(encode(message))

    def send_text(self, text: str) -> None:
        """Queue a message that is text already."""
        self._queue.put_nowait(text)

    def finish(self) -> None:
        """Close the connection after what is queued."""
        self._queue.put_nowait(None)

    async def write(self) -> None:
        """Send what is queued until the end or until the client is gone."""
        with contextlib.suppress(ConnectionError):
            while (text := await self._queue.get()) is not None:
                await self.socket.send_str(text)
        await self.socket.close()


class Streams:
    """All open connections of one venue."""

    def __init__(self, venue: Venue, gate: Gate) -> None:
        self.venue = venue
        self.gate = gate
        self._connections: set[Connection] = set()
        self._last_balance: object = None
        venue.engine.listeners.append(self._publish)

    def mount(self, app: web.Application) -> None:
        """Add both stream paths to an application."""
        app.router.add_get("/ws/stream/{account_id}", self._public)
        app.router.add_get("/v2/ws/private/stream/{account_id}", self._private)
        app.on_shutdown.append(self._shutdown)

    async def _public(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, private=False)

    async def _private(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, private=True)

    async def _shutdown(self, _: web.Application) -> None:
        for connection in list(self._connections):
            connection.finish()

    # --- one connection ------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request, *, private: bool) -> web.StreamResponse:
        if private and self.venue.faults.take("stream_drop") and request.transport is not None:
            request.transport.abort()
            return web.Response(status=500)
        socket = web.WebSocketResponse(max_msg_size=1 << 16)
        await socket.prepare(request)
        connection = Connection(socket, request.match_info["account_id"], private=private)
        self._connections.add(connection)
        writer = asyncio.create_task(connection.write())
        try:
            if private and request.query.get("orderly_key"):
                query = request.query
                self._login(connection, None, query, query.get("sign", ""))
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._receive(connection, message.data)
        finally:
            self._connections.discard(connection)
            connection.finish()
            # A client that is gone without a goodbye must not keep the writer waiting.
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                await asyncio.wait_for(writer, 1.0)
        return socket

    def _receive(self, connection: Connection, text: str) -> None:
        try:
            message = parse_json(text)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            connection.send({"event": "error", "success": False, "errorMsg": "invalid message", "ts": self._now()})
            return
        match message.get("event"):
            case "pong":
                connection.unanswered = 0
            case "ping":
                connection.send({"event": "pong", "ts": self._now()})
            case "auth":
                params = message.get("params")
                params = params if isinstance(params, dict) else {}
                self._login(connection, message.get("id"), params, params.get("sign"))
            case "subscribe" | "unsubscribe":
                self._subscribe(connection, message)
            case "request":
                self._request(connection, message)
            case event:
                self._fail(connection, message.get("id"), event, f"invalid event {str(event)[:40]}")

    def _now(self) -> int:
        return self.venue.engine.clock()

    def _told(self, connection: Connection, message_id: object, event: object, **facts: object) -> None:
        head = {} if message_id is None else {"id": _plain_id(message_id)}
        connection.send({**head, "event": str(event), **facts, "ts": self._now()})

    def _fail(self, connection: Connection, message_id: object, event: object, text: str) -> None:
        self._told(connection, message_id, event, success=False, errorMsg=text)

    def _login(self, connection: Connection, message_id: object, params: Mapping[str, Any], sign: object) -> None:
        missing = [name for name in ("orderly_key", "timestamp", "sign") if not params.get(name)]
        try:
            if missing:
                raise Refusal(-1001, f"missing required parameter {missing[0]}")
            key = self.gate.check_login(
                connection.account_id, str(params["orderly_key"]), str(params["timestamp"]), str(sign)
            )
        except Refusal as refusal:
            self._fail(connection, message_id, "auth", refusal.message if missing else "auth failed")
            connection.finish()
            return
        connection.key = key.orderly_key
        self._told(connection, message_id, "auth", success=True)

    def _subscribe(self, connection: Connection, message: Mapping[str, Any]) -> None:
        message_id, event = message.get("id"), message["event"]
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        topic = message.get("topic") or params.get("topic")
        if not isinstance(topic, str) or not topic:
            self._fail(connection, message_id, event, "missing required parameter topic")
            return
        if topic in topics.PRIVATE:
            trouble = None if connection.key is not None else "Auth is needed."
        else:
            trouble = topics.problem(self.venue, topic)
        if trouble is not None:
            self._fail(connection, message_id, event, trouble)
            return
        self._told(connection, message_id, event, success=True)
        if event == "unsubscribe":
            connection.topics.pop(topic, None)
            return
        symbols = str(params.get("symbol") or "")
        connection.topics[topic] = frozenset(one.strip() for one in symbols.split(",") if one.strip())
        if topic not in topics.PRIVATE and (topic.partition("@")[2] or topic) not in topics.QUIET:
            self._push_current(connection, topic)

    def _request(self, connection: Connection, message: Mapping[str, Any]) -> None:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        symbol = str(params.get("symbol"))
        if params.get("type") != "orderbook":
            self._fail(connection, message.get("id"), "request", f"invalid type {str(params.get('type'))[:40]}")
        elif symbol not in self.venue.engine.instruments:
            self._fail(connection, message.get("id"), "request", f"invalid symbol {symbol[:40]}")
        else:
            data = {**topics.book(self.venue, symbol), "ts": self._now()}
            self._told(connection, message.get("id"), "request", success=True, data=data)

    def _push_current(self, connection: Connection, topic: str) -> None:
        data = topics.current(self.venue, topic)
        if data is not None and not self.venue.faults.active("stream_silence"):
            connection.send({"topic": topic, "ts": self._now(), "data": data})

    # --- publishing ----------------------------------------------------------------------------------------

    def _publish(self, notices: list[Notice]) -> None:
        if not self._connections:
            return
        changed: dict[str, Position] = {}
        for topic, data in notices:
            match topic:
                case "executionreport":
                    self._report("executionreport", data, str(data["symbol"]))
                case "algo":
                    self._report_algo(data)
                case "position":
                    changed[data.row_id] = data
                case "mark":
                    self._push_mark(data)
                case "trade":
                    self._push_trade(data)
                case "account":
                    self._report_account(data)
                case "settle":
                    self._report("settle", data, None)
                case "liquidation":
                    self._report("liquidationsaccount", data, None)
                case "maintenance":
                    self._push("maintenance_status")
                case "key_removed":
                    self._expel(data)
                case "faults":
                    self._drop_now()
        if changed:
            self._report_positions(list(changed.values()))
        self._report_balance()

    def _wanting(self, topic: str, symbol: str | None = None) -> list[Connection]:
        return [
            one
            for one in self._connections
            if topic in one.topics and (not one.topics[topic] or symbol is None or symbol in one.topics[topic])
        ]

    def _report(self, topic: str, data: object, symbol: str | None) -> None:
        """Send a private report; this is where reports get lost, doubled, or out of order."""
        wanting = self._wanting(topic, symbol)
        faults = self.venue.faults
        if not wanting or faults.active("stream_silence"):
            return
        if faults.take("stream_drop"):
            self._cut()
            return
        if faults.take("withhold_reports", topic=topic):
            return
        text = encode({"topic": topic, "ts": self._now(), "data": data})
        copies = 2 if faults.take("duplicate_reports", topic=topic) else 1
        hold = faults.take("reorder_reports", topic=topic) is not None
        for connection in wanting:
            if hold and connection.held is None:
                connection.held = text
                asyncio.get_running_loop().call_later(_REORDER_FLUSH_S, _release, connection, text)
                continue
            for _ in range(copies):
                connection.send_text(text)
            _release(connection, connection.held)

    def _report_algo(self, root: Algo) -> None:
        engine = self.venue.engine
        if self._wanting("algoexecutionreport", root.symbol):
            flat = reports.algo_flat(engine, self.venue.algos.tree(root))
            self._report("algoexecutionreport", flat, root.symbol)
        if self._wanting("algoexecutionreportv2", root.symbol):
            self._report("algoexecutionreportv2", reports.algo_nested(engine, root), root.symbol)

    def _report_positions(self, rows: list[Position]) -> None:
        if not self._wanting("position"):
            return
        clearing = self.venue.clearing
        margin = clearing.margin()
        listed = [row for row in rows if row.symbol in self.venue.engine.instruments]
        self._report("position", {"positions": [reports.position(clearing, r, margin) for r in listed]}, None)

    def _report_balance(self) -> None:
        if not self._wanting("balance"):
            return
        margin = self.venue.clearing.margin()
        now = (margin.balance, margin.isolated, margin.isolated_frozen)
        if self._last_balance != now:
            self._last_balance = now
            self._report("balance", reports.balance(self.venue.clearing, margin), None)

    def _report_account(self, symbol: str | None) -> None:
        if self._wanting("account"):
            clearing = self.venue.clearing
            message = reports.account(clearing, clearing.margin(), symbol)
            for connection in self._wanting("account"):
                connection.send({"topic": "account", "ts": self._now(), "data": message})

    def _push(self, topic: str) -> None:
        for connection in self._wanting(topic):
            self._push_current(connection, topic)

    def _push_mark(self, mark: Mark) -> None:
        for kind in ("markprice", "bbo"):
            self._push(f"{mark.symbol}@{kind}")
        self._push("markprices")

    def _push_trade(self, trade: Trade) -> None:
        topic = f"{trade.symbol}@trade"
        for connection in self._wanting(topic):
            connection.send({"topic": topic, "ts": self._now(), "data": reports.public_trade(trade)})

    def _cut(self) -> None:
        for connection in [one for one in self._connections if one.private]:
            connection.topics.clear()
            transport = connection.socket._req.transport if connection.socket._req else None
            if transport is not None:
                transport.abort()

    def _drop_now(self) -> None:
        if any(one.private for one in self._connections) and self.venue.faults.take("stream_drop"):
            self._cut()

    def _expel(self, orderly_key: str) -> None:
        for connection in self._connections:
            if connection.key == orderly_key:
                connection.finish()

    # --- time ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Push what is periodic and keep connections alive, until cancelled."""
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            if self.venue.faults.active("stream_silence"):
                continue
            for connection in list(self._connections):
                self._tick(connection, ticks)

    def _tick(self, connection: Connection, ticks: int) -> None:
        if ticks % int(PING_S / _TICK_S) == 0:
            connection.unanswered += 1
            if connection.unanswered > MAX_UNANSWERED:
                connection.finish()
                return
            connection.send({"event": "ping", "ts": self._now()})
        for topic in list(connection.topics):
            kind = topic.partition("@")[2] or topic
            if topic in topics.PRIVATE or kind in topics.QUIET:
                continue
            if kind not in topics.SLOW or ticks % _SLOW_TICKS == 0:
                self._push_current(connection, topic)


def _release(connection: Connection, text: str | None) -> None:
    """Send a held report, unless that happened already."""
    if text is not None and connection.held == text:
        connection.held = None
        connection.send_text(text)


def _plain_id(raw: object) -> object:
    return raw if isinstance(raw, str | int | bool) else str(raw)
