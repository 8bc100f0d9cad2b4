"""Every REST call of orders and algo orders, by name: waits for its rate window, sends once, judges the answer by the one table.

Reads raise ExchangeUnavailable when no usable answer came; commands return a Submission and never raise for what the network did.
Nothing is sent a second time here. Calls: docs/internals/orderly.md sections 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Accepted, Rejected, Retryable, SubmitResult, Unknown
from kekbridge.exchange.orderly import classify, parsing, requests
from kekbridge.exchange.orderly.classify import Found, Missing
from kekbridge.exchange.orderly.rate_limiter import Endpoint, RateLimiter, WindowPermit
from kekbridge.exchange.orderly.replies import HttpReply, TransportResult
from kekbridge.exchange.orderly.transport import Transport
from kekbridge.model import Fill
from kekbridge.model.orders import OrderStatusReport

T = TypeVar("T")

_PAGE_SIZE: Final = 500
_MAX_PAGES: Final = 40
# An answer 401 while our clock is this far from what it was believed to be is the clock's fault, not the key's (window: 300 s).
_CLOCK_JUMP_MS: Final = 60_000


class OrdersApi:
    """The signed calls about orders. `on_outcome` hears of every answer and every failure (for health and logs)."""

    def __init__(
        self,
        wire: Transport,
        pacer: RateLimiter,
        *,
        recv_window_ms: int,
        on_outcome: Callable[[TransportResult], None] = lambda outcome: None,
    ) -> None:
        self._wire = wire
        self._pacer = pacer
        self._recv_window_ms = recv_window_ms
        self._on_outcome = on_outcome

    # ----------------------------------------------------------------------------------------------------- the two ways

    async def query(
        self, endpoint: Endpoint, path: str, *, is_signed: bool = True, is_urgent: bool = False
    ) -> Found | Missing:
        """One GET. Raises ExchangeUnavailable (`code` says why) when the answer proves nothing."""
        ticket = await self._pacer.acquire(endpoint, is_urgent=is_urgent)
        outcome = await self._wire.send("GET", path, is_signed=is_signed, ticket=ticket)
        self._record_outcome(endpoint, outcome)
        answer = classify.query(outcome)
        if isinstance(answer, classify.Unavailable):
            raise ExchangeUnavailable(
                answer.code, f"the exchange gave no usable answer to GET {path.partition('?')[0]}: {answer.reason}"
            )
        return answer

    async def found(self, endpoint: Endpoint, path: str, *, is_signed: bool = True, is_urgent: bool = False) -> Found:
        """As `ask`, for things that must exist: "does not exist" raises as well."""
        answer = await self.query(endpoint, path, is_signed=is_signed, is_urgent=is_urgent)
        if isinstance(answer, Missing):
            raise ExchangeUnavailable("orderly:-1006", f"the exchange knows no GET {path.partition('?')[0]}")
        return answer

    async def command(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        order_id: str = "",
        is_urgent: bool = False,
    ) -> SubmitResult:
        """One POST, PUT or DELETE that creates no order."""
        ticket = await self._pacer.acquire(endpoint, is_urgent=is_urgent)
        text = b"" if body is None else requests.dump(dict(body)).encode("ascii")
        outcome = await self._wire.send(method, path, body=text, ticket=ticket)
        self._record_outcome(endpoint, outcome)
        return classify.command(outcome, order_id=order_id)

    def _record_outcome(self, endpoint: Endpoint, outcome: TransportResult) -> None:
        if isinstance(outcome, HttpReply) and (outcome.status == 429 or outcome.code == -1003):
            self._pacer.pause(endpoint, outcome.retry_after_s)
        self._on_outcome(outcome)

    # ------------------------------------------------------------------------------------------------------------ create

    async def acquire_permit(self, request: requests.CreateRequest, *, is_urgent: bool) -> WindowPermit:
        """Wait until one more create of this kind fits into the exchange's window."""
        endpoint = Endpoint.ALGO_CREATE if request.kind.is_algo else Endpoint.ORDER_CREATE
        return await self._pacer.acquire(endpoint, is_urgent=is_urgent)

    async def create(self, request: requests.CreateRequest, ticket: WindowPermit) -> SubmitResult:
        """Send one create, once. The receive window bounds how long it may still be accepted (docs/internals/reliability.md section 4)."""
        believed = self._wire.offset.ms
        outcome = await self._wire.send(
            "POST",
            request.path,
            body=request.text.encode("ascii"),
            recv_window_ms=self._recv_window_ms,
            ticket=ticket,
        )
        self._record_outcome(Endpoint.ALGO_CREATE if request.kind.is_algo else Endpoint.ORDER_CREATE, outcome)
        submission = classify.create(outcome)
        if isinstance(submission, Rejected) and submission.is_key_rejected and self._clock_jumped(believed):
            return Retryable(
                submission.code, "this machine's clock had moved; the difference is known now, sign again", 1.0
            )
        return submission

    def _clock_jumped(self, believed_ms: int | None) -> bool:
        now = self._wire.offset.ms
        return now is not None and abs(now - (believed_ms or 0)) > _CLOCK_JUMP_MS

    # ------------------------------------------------------------------------------------------------------------ orders

    async def order_by_client_id(self, client_order_id: str, *, is_urgent: bool = False) -> OrderStatusReport | None:
        """A plain order by our id; None only when the exchange says that it does not exist."""
        answer = await self.query(Endpoint.ORDER_GET, f"/v1/client/order/{client_order_id}", is_urgent=is_urgent)
        return None if isinstance(answer, Missing) else readable(parsing.order_report, answer.data)

    async def orders(self) -> tuple[OrderStatusReport, ...]:
        """All open plain orders, newest first."""
        rows = await self._rows(Endpoint.ORDERS_LIST, "/v1/orders?status=INCOMPLETE")
        return tuple(_readable_rows(parsing.order_report, rows))

    async def order_trades(self, order_id: str) -> tuple[Fill, ...]:
        """The executions of one plain order, oldest first."""
        found = await self.query(Endpoint.TRADES, f"/v1/order/{order_id}/trades")
        return _in_order(_readable_rows(parsing.trade, rows_of(found)))

    async def trades(self, since: datetime) -> tuple[Fill, ...]:
        """All executions of the account since a time, oldest first."""
        path = f"/v1/trades?start_t={parsing.milliseconds(since)}"
        return _in_order(_readable_rows(parsing.trade, await self._rows(Endpoint.TRADES, path)))

    async def cancel_order(self, symbol: str, order_id: str) -> SubmitResult:
        path = f"/v1/order?{_query(order_id=order_id, symbol=symbol)}"
        return await self.command(Endpoint.ORDER_CANCEL, "DELETE", path, order_id=order_id, is_urgent=True)

    async def cancel_orders(self, symbol: str | None = None) -> SubmitResult:
        """Every plain order of a symbol, or all. Algo orders stay: see `cancel_algos`."""
        query = _query(symbol=symbol)
        path = f"/v1/orders?{query}" if query else "/v1/orders"
        return await self.command(Endpoint.ORDERS_CANCEL, "DELETE", path, is_urgent=True)

    # -------------------------------------------------------------------------------------------------------------- algos

    async def algo_by_client_id(self, client_order_id: str, *, is_urgent: bool = False) -> OrderStatusReport | None:
        """An algo order by our id, with its children."""
        answer = await self.query(Endpoint.ALGO_GET, f"/v1/algo/client/order/{client_order_id}", is_urgent=is_urgent)
        return None if isinstance(answer, Missing) else readable(parsing.algo_report, answer.data)

    async def algos(self, *, symbol: str | None = None) -> tuple[OrderStatusReport, ...]:
        """Open algo orders (roots, with their children), of one symbol or all, newest first."""
        query = _query(status="INCOMPLETE", symbol=symbol)
        rows = await self._rows(Endpoint.ALGOS_LIST, f"/v1/algo/orders?{query}")
        return tuple(_readable_rows(parsing.algo_report, rows))

    async def algo_trades(self, order_id: str) -> tuple[Fill, ...]:
        """The executions of an algo order and of its children, oldest first."""
        found = await self.query(Endpoint.ALGO_TRADES, f"/v1/algo/order/{order_id}/trades")
        return _in_order(_readable_rows(parsing.trade, rows_of(found)))

    async def cancel_algo(self, symbol: str, order_id: str) -> SubmitResult:
        path = f"/v1/algo/order?{_query(order_id=order_id, symbol=symbol)}"
        return await self.command(Endpoint.ALGO_CANCEL, "DELETE", path, order_id=order_id, is_urgent=True)

    async def cancel_algos(self, algo_type: str, symbol: str | None = None) -> SubmitResult:
        """Every algo order of one root type (bodies.ALGO_TYPES)."""
        path = f"/v1/algo/orders?{_query(symbol=symbol, algo_type=algo_type)}"
        return await self.command(Endpoint.ALGOS_CANCEL, "DELETE", path, is_urgent=True)

    # -------------------------------------------------------------------------------------------------------------- pages

    async def _rows(self, endpoint: Endpoint, path: str) -> list[Mapping[str, Any]]:
        """All pages of a list; a row that moved from one page to the next while we read is kept once by its id."""
        rows: dict[object, Mapping[str, Any]] = {}
        for page in range(1, _MAX_PAGES + 1):
            found = await self.found(endpoint, f"{path}&page={page}&size={_PAGE_SIZE}")
            batch = rows_of(found)
            for row in batch:
                rows.setdefault(row.get("id") or row.get("order_id") or row.get("algo_order_id") or len(rows), row)
            meta = found.data.get("meta")
            total = parsing.integer_or_none(meta.get("total")) if isinstance(meta, Mapping) else None
            is_last = len(batch) < _PAGE_SIZE if total is None else page * _PAGE_SIZE >= total
            if is_last or not batch:
                break
        return list(rows.values())


def rows_of(answer: Found | Missing) -> list[Mapping[str, Any]]:
    """The `rows` of a list answer; empty when there are none."""
    rows = answer.data.get("rows") if isinstance(answer, Found) else None
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def readable(read: Callable[[Mapping[str, Any]], T], row: Mapping[str, Any]) -> T:
    """Parse one answer that must be readable; raises ExchangeUnavailable when it is not."""
    try:
        return read(row)
    except parsing.ParseError as error:
        raise ExchangeUnavailable("exchange_unreachable", str(error)) from None


def worst(submissions: list[SubmitResult]) -> SubmitResult:
    """Several commands told as one: unknown outweighs deferred, deferred refused, refused accepted."""
    for kind in (Unknown, Retryable, Rejected):
        for submission in submissions:
            if isinstance(submission, kind):
                return submission
    return submissions[0] if submissions else Accepted("")


def _readable_rows(read: Callable[[Mapping[str, Any]], T], rows: list[Mapping[str, Any]]) -> list[T]:
    """Rows that cannot be read are left out: one odd order of somebody else must not hide all others."""
    found: list[T] = []
    for row in rows:
        try:
            found.append(read(row))
        except parsing.ParseError:
            continue
    return found


def _in_order(fills: list[Fill]) -> tuple[Fill, ...]:
    return tuple(sorted(fills, key=lambda fill: (fill.executed_at, len(fill.trade_id), fill.trade_id)))


def _query(**values: str | None) -> str:
    return "&".join(f"{name}={value}" for name, value in values.items() if value is not None)
