"""WebSocket streams, private and public: logins, subscriptions, reports, keep-alive.

See docs/internals/orderly.md, section 12. Publishing never waits: every connection has its own queue and writer. The
faults of reports and streams are applied here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import WSMsgType, web

from kekbridge.paper import public_topics, stream_messages
from kekbridge.paper.auth import SignatureVerifier
from kekbridge.paper.codec import ApiError, encode, parse_json
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.models import AlgoNode, PaperMark, PaperPosition, PaperTrade
from kekbridge.paper.state import StreamUpdate

PING_S: Final = 10.0
#: A connection with more unanswered pings than this is closed.
MAX_UNANSWERED: Final = 10
_TICK_S: Final = 1.0
#: Topics in SLOW are pushed once per this many ticks.
_SLOW_TICKS: Final = 15
#: How long a report is held back by reorder_reports if no other report follows.
_REORDER_FLUSH_S: Final = 0.25


class StreamConnection:
    """One client connection: its login, its topics and its outgoing queue."""

    def __init__(self, socket: web.WebSocketResponse, account_id: str, *, private: bool) -> None:
        self.socket = socket
        self.account_id = account_id
        self.private = private
        self.key: str | None = None  # Orderly key of the login
        self.topics: dict[str, frozenset[str]] = {}  # topic -> symbols; empty: all
        self.unanswered = 0  # pings since the last pong
        self.held: str | None = None  # report held back by reorder_reports
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def send(self, message: Mapping[str, object]) -> None:
        """Queue a message."""
        self._queue.put_nowait(encode(message))

    def send_text(self, text: str) -> None:
        """Queue a message that is encoded already."""
        self._queue.put_nowait(text)

    def finish(self) -> None:
        """Close the connection after the queued messages."""
        self._queue.put_nowait(None)

    async def write(self) -> None:
        """Send queued messages until `finish` or until the client has disconnected."""
        with contextlib.suppress(ConnectionError):
            while (text := await self._queue.get()) is not None:
                await self.socket.send_str(text)
        await self.socket.close()


class Streams:
    """All open connections of one exchange."""

    def __init__(self, exchange: SimulatedExchange, verifier: SignatureVerifier) -> None:
        self.exchange = exchange
        self.verifier = verifier
        self._connections: set[StreamConnection] = set()
        self._last_balance: object = None
        exchange.state.listeners.append(self._publish)

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
        if private and self.exchange.faults.hit("stream_drop") and request.transport is not None:
            request.transport.abort()
            return web.Response(status=500)
        socket = web.WebSocketResponse(max_msg_size=1 << 16)
        await socket.prepare(request)
        connection = StreamConnection(socket, request.match_info["account_id"], private=private)
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
            # The writer must not wait for a client that disconnected without a close frame.
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                await asyncio.wait_for(writer, 1.0)
        return socket

    def _receive(self, connection: StreamConnection, text: str) -> None:
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
                self._reply_error(connection, message.get("id"), event, f"invalid event {str(event)[:40]}")

    def _now(self) -> int:
        return self.exchange.state.clock()

    def _reply(self, connection: StreamConnection, message_id: object, event: object, **facts: object) -> None:
        head = {} if message_id is None else {"id": _message_id(message_id)}
        connection.send({**head, "event": str(event), **facts, "ts": self._now()})

    def _reply_error(self, connection: StreamConnection, message_id: object, event: object, text: str) -> None:
        self._reply(connection, message_id, event, success=False, errorMsg=text)

    def _login(self, connection: StreamConnection, message_id: object, params: Mapping[str, Any], sign: object) -> None:
        missing = [name for name in ("orderly_key", "timestamp", "sign") if not params.get(name)]
        try:
            if missing:
                raise ApiError(-1001, f"missing required parameter {missing[0]}")
            key = self.verifier.check_login(
                connection.account_id, str(params["orderly_key"]), str(params["timestamp"]), str(sign)
            )
        except ApiError as error:
            self._reply_error(connection, message_id, "auth", error.message if missing else "auth failed")
            connection.finish()
            return
        connection.key = key.orderly_key
        self._reply(connection, message_id, "auth", success=True)

    def _subscribe(self, connection: StreamConnection, message: Mapping[str, Any]) -> None:
        message_id, event = message.get("id"), message["event"]
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        topic = message.get("topic") or params.get("topic")
        if not isinstance(topic, str) or not topic:
            self._reply_error(connection, message_id, event, "missing required parameter topic")
            return
        if topic in public_topics.PRIVATE_TOPICS:
            problem = None if connection.key is not None else "Auth is needed."
        else:
            problem = public_topics.subscription_error(self.exchange, topic)
        if event == "subscribe" and self.exchange.faults.hit("refuse_topic", topic=topic):
            problem = f"invalid topic {topic[:80]}"
        if problem is not None:
            self._reply_error(connection, message_id, event, problem)
            return
        self._reply(connection, message_id, event, success=True)
        if event == "unsubscribe":
            connection.topics.pop(topic, None)
            return
        symbols = str(params.get("symbol") or "")
        connection.topics[topic] = frozenset(one.strip() for one in symbols.split(",") if one.strip())
        if (
            topic not in public_topics.PRIVATE_TOPICS
            and (topic.partition("@")[2] or topic) not in public_topics.ON_CHANGE_ONLY
        ):
            self._push_current(connection, topic)

    def _request(self, connection: StreamConnection, message: Mapping[str, Any]) -> None:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        symbol = str(params.get("symbol"))
        if params.get("type") != "orderbook":
            self._reply_error(connection, message.get("id"), "request", f"invalid type {str(params.get('type'))[:40]}")
        elif symbol not in self.exchange.state.instruments:
            self._reply_error(connection, message.get("id"), "request", f"invalid symbol {symbol[:40]}")
        else:
            data = {**public_topics.book(self.exchange, symbol), "ts": self._now()}
            self._reply(connection, message.get("id"), "request", success=True, data=data)

    def _push_current(self, connection: StreamConnection, topic: str) -> None:
        data = public_topics.snapshot(self.exchange, topic)
        if data is not None and not self.exchange.faults.is_armed("stream_silence"):
            connection.send({"topic": topic, "ts": self._now(), "data": data})

    # --- publishing ----------------------------------------------------------------------------------------

    def _publish(self, updates: list[StreamUpdate]) -> None:
        if not self._connections:
            return
        changed: dict[str, PaperPosition] = {}
        for topic, data in updates:
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
                    self._close_connections_of(data)
                case "faults":
                    self._apply_stream_drop()
        if changed:
            self._report_positions(list(changed.values()))
        self._report_balance()

    def _subscribers(self, topic: str, symbol: str | None = None) -> list[StreamConnection]:
        return [
            one
            for one in self._connections
            if topic in one.topics and (not one.topics[topic] or symbol is None or symbol in one.topics[topic])
        ]

    def _report(self, topic: str, data: object, symbol: str | None) -> None:
        """Send a private report, subject to the faults that lose, duplicate or reorder reports."""
        subscribers = self._subscribers(topic, symbol)
        faults = self.exchange.faults
        if not subscribers or faults.is_armed("stream_silence"):
            return
        if faults.hit("stream_drop"):
            self._abort_private_connections()
            return
        if faults.hit("withhold_reports", topic=topic):
            return
        text = encode({"topic": topic, "ts": self._now(), "data": data})
        copies = 2 if faults.hit("duplicate_reports", topic=topic) else 1
        hold = faults.hit("reorder_reports", topic=topic) is not None
        for connection in subscribers:
            if hold and connection.held is None:
                connection.held = text
                asyncio.get_running_loop().call_later(_REORDER_FLUSH_S, _send_held, connection, text)
                continue
            for _ in range(copies):
                connection.send_text(text)
            _send_held(connection, connection.held)

    def _report_algo(self, root: AlgoNode) -> None:
        state = self.exchange.state
        if self._subscribers("algoexecutionreport", root.symbol):
            flat = stream_messages.algo_flat(state, self.exchange.algo_orders.tree(root))
            self._report("algoexecutionreport", flat, root.symbol)
        if self._subscribers("algoexecutionreportv2", root.symbol):
            self._report("algoexecutionreportv2", stream_messages.algo_nested(state, root), root.symbol)

    def _report_positions(self, rows: list[PaperPosition]) -> None:
        if not self._subscribers("position"):
            return
        portfolio = self.exchange.portfolio
        margin = portfolio.margin()
        listed = [row for row in rows if row.symbol in self.exchange.state.instruments]
        self._report("position", {"positions": [stream_messages.position(portfolio, r, margin) for r in listed]}, None)

    def _report_balance(self) -> None:
        if not self._subscribers("balance"):
            return
        margin = self.exchange.portfolio.margin()
        now = (margin.balance, margin.isolated, margin.isolated_frozen)
        if self._last_balance != now:
            self._last_balance = now
            self._report("balance", stream_messages.balance(self.exchange.portfolio, margin), None)

    def _report_account(self, changed: tuple[str, str] | None) -> None:
        """Report the account's settings; `changed`: symbol and margin mode whose leverage was set."""
        if self._subscribers("account"):
            portfolio = self.exchange.portfolio
            self._report("account", stream_messages.account(portfolio, portfolio.margin(), changed), None)

    def _push(self, topic: str) -> None:
        for connection in self._subscribers(topic):
            self._push_current(connection, topic)

    def _push_mark(self, mark: PaperMark) -> None:
        for kind in ("markprice", "bbo"):
            self._push(f"{mark.symbol}@{kind}")
        self._push("markprices")

    def _push_trade(self, trade: PaperTrade) -> None:
        topic = f"{trade.symbol}@trade"
        for connection in self._subscribers(topic):
            connection.send({"topic": topic, "ts": self._now(), "data": stream_messages.public_trade(trade)})

    def _abort_private_connections(self) -> None:
        for connection in [one for one in self._connections if one.private]:
            connection.topics.clear()
            transport = connection.socket._req.transport if connection.socket._req else None
            if transport is not None:
                transport.abort()

    def _apply_stream_drop(self) -> None:
        if any(one.private for one in self._connections) and self.exchange.faults.hit("stream_drop"):
            self._abort_private_connections()

    def _close_connections_of(self, orderly_key: str) -> None:
        for connection in self._connections:
            if connection.key == orderly_key:
                connection.finish()

    # --- time ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Push periodic topics and ping connections until canceled."""
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            if self.exchange.faults.is_armed("stream_silence"):
                continue
            for connection in list(self._connections):
                self._tick(connection, ticks)

    def _tick(self, connection: StreamConnection, ticks: int) -> None:
        if ticks % int(PING_S / _TICK_S) == 0:
            connection.unanswered += 1
            if connection.unanswered > MAX_UNANSWERED:
                connection.finish()
                return
            connection.send({"event": "ping", "ts": self._now()})
        for topic in list(connection.topics):
            kind = topic.partition("@")[2] or topic
            if topic in public_topics.PRIVATE_TOPICS or kind in public_topics.ON_CHANGE_ONLY:
                continue
            if kind not in public_topics.SLOW or ticks % _SLOW_TICKS == 0:
                self._push_current(connection, topic)


def _send_held(connection: StreamConnection, text: str | None) -> None:
    """Send a held report unless it was sent already."""
    if text is not None and connection.held == text:
        connection.held = None
        connection.send_text(text)


def _message_id(raw: object) -> object:
    return raw if isinstance(raw, str | int | bool) else str(raw)
