"""REST calls for orders and algo orders: acquire a permit, send once, classify the reply.

Queries raise ExchangeUnavailable if no usable reply came; commands return a SubmitResult and never raise for the network.
Nothing is sent twice. Calls: docs/internals/orderly.md sections 6 and 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Accepted, Rejected, Retryable, SubmitResult, Unknown
from kekbridge.exchange.orderly import classify, parsing, requests
from kekbridge.exchange.orderly.classify import Found, Missing
from kekbridge.exchange.orderly.order_line import OrderLine
from kekbridge.exchange.orderly.rate_limiter import Endpoint, RateLimiter, WindowPermit
from kekbridge.exchange.orderly.replies import HttpReply, TransportResult
from kekbridge.exchange.orderly.transport import Transport
from kekbridge.model import Fill
from kekbridge.model.orders import OrderStatusReport

T = TypeVar("T")
RowKey = Callable[[Mapping[str, Any]], object]

_PAGE_SIZE: Final = 500
# Bounds one read, whatever the exchange answers; a year of trading has fewer.
_MAX_PAGES: Final = 1_000
_MAX_REPEATED: Final = 3
# A 401 while the clock offset differs this much from the known one is due to the clock, not to the key (window: 300 s).
_CLOCK_JUMP_MS: Final = 60_000


class OrdersApi:
    """Order calls over one transport, creates over the order line.

    `on_result` gets the result of every request, of AccountApi too (for health and logs).
    """

    def __init__(
        self,
        transport: Transport,
        order_line: OrderLine,
        rate_limiter: RateLimiter,
        *,
        on_result: Callable[[TransportResult], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._order_line = order_line
        self._rate_limiter = rate_limiter
        self._on_result = on_result

    # ----------------------------------------------------------------------------------------------------- requests

    async def query(
        self, endpoint: Endpoint, path: str, *, is_signed: bool = True, is_urgent: bool = False
    ) -> Found | Missing:
        """Send one GET. Raises ExchangeUnavailable with the exchange's code if the reply is not usable."""
        permit = await self._rate_limiter.acquire(endpoint, is_urgent=is_urgent)
        sent = await self._transport.send("GET", path, is_signed=is_signed, permit=permit)
        self._record_result(endpoint, sent, is_urgent=is_urgent)
        answer = classify.query(sent)
        if isinstance(answer, classify.Unavailable):
            raise ExchangeUnavailable(
                answer.code, f"the exchange gave no usable answer to GET {path.partition('?')[0]}: {answer.reason}"
            )
        return answer

    async def query_existing(
        self, endpoint: Endpoint, path: str, *, is_signed: bool = True, is_urgent: bool = False
    ) -> Found:
        """As `query`, for resources that must exist: raise ExchangeUnavailable for "does not exist" as well."""
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
        """Send one POST or DELETE that creates no order; `order_id` is returned in Accepted."""
        permit = await self._rate_limiter.acquire(endpoint, is_urgent=is_urgent)
        text = b"" if body is None else requests.encode(dict(body)).encode("ascii")
        sent = await self._transport.send(method, path, body=text, permit=permit)
        self._record_result(endpoint, sent, is_urgent=is_urgent)
        return classify.command(sent, order_id=order_id)

    def _record_result(self, endpoint: Endpoint, result: TransportResult, *, is_urgent: bool) -> None:
        if isinstance(result, HttpReply) and (result.status == 429 or result.code == -1003):
            self._rate_limiter.pause(endpoint, result.retry_after_s, is_urgent=is_urgent)
        self._on_result(result)

    # ------------------------------------------------------------------------------------------------------------ create

    def create(
        self, request: requests.CreateRequest, permit: WindowPermit, *, expires_at: datetime, is_urgent: bool = False
    ) -> asyncio.Future[SubmitResult]:
        """Send one create request once, on the order line: written before this returns if a connection is free.

        Its receive window bounds how long it may still be accepted (docs/internals/reliability.md section 4). Nothing is written after
        `expires_at`. Cancelling the future withdraws a request that is not written yet.
        """
        future: asyncio.Future[SubmitResult] = asyncio.get_running_loop().create_future()
        known_offset = self._transport.offset.learned_ms

        def on_result(sent: TransportResult, signed_at: datetime | None) -> None:
            try:
                self._record_result(create_endpoint(request.kind), sent, is_urgent=is_urgent)
                result = self._judge_create(sent, signed_at, known_offset)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
                return
            if not future.done():
                future.set_result(result)

        self._order_line.send(
            request.path,
            request.text.encode("ascii"),
            permit,
            on_result,
            expires_at=expires_at,
            is_urgent=is_urgent,
            is_cancelled=future.cancelled,
        )
        return future

    def _judge_create(
        self, sent: TransportResult, signed_at: datetime | None, known_offset: int | None
    ) -> SubmitResult:
        match classify.create(sent):
            case Accepted(order_id):
                return Accepted(order_id, sent_at=signed_at)
            case Unknown(reason):
                return Unknown(reason, sent_at=signed_at)
            case Rejected(code=code, is_key_rejected=True) if self._clock_jumped(known_offset):
                return Retryable(code, "this machine's clock was off; the offset is known now, sign again", 1.0)
            case result:
                return result

    def _clock_jumped(self, known_ms: int | None) -> bool:
        now = self._transport.offset.learned_ms
        return now is not None and abs(now - (known_ms or 0)) > _CLOCK_JUMP_MS

    # ------------------------------------------------------------------------------------------------------------ orders

    async def order_by_client_id(self, client_order_id: str, *, is_urgent: bool = False) -> OrderStatusReport | None:
        """Query a plain order by client order id; None only if the exchange states that it does not exist."""
        answer = await self.query(Endpoint.ORDER_GET, f"/v1/client/order/{client_order_id}", is_urgent=is_urgent)
        return None if isinstance(answer, Missing) else parse_reply(parsing.order_report, answer.data)

    async def orders(self, since: datetime | None = None) -> tuple[OrderStatusReport, ...]:
        """All open plain orders, or all made since a time, newest first."""
        rows = await self.rows(Endpoint.ORDERS_LIST, f"/v1/orders?{_open_or_since(since)}")
        return tuple(_parse_rows(parsing.order_report, rows))

    async def order_trades(self, order_id: str) -> tuple[Fill, ...]:
        """All executions of one plain order, oldest first."""
        found = await self.query(Endpoint.TRADES, f"/v1/order/{order_id}/trades")
        return _oldest_first(_parse_rows(parsing.trade, rows_of(found)))

    async def trades(self, since: datetime) -> tuple[Fill, ...]:
        """All executions of the account since a time, oldest first."""
        path = f"/v1/trades?start_t={parsing.milliseconds(since)}"
        return _oldest_first(_parse_rows(parsing.trade, await self.rows(Endpoint.TRADES, path)))

    async def cancel_order(self, symbol: str, order_id: str) -> SubmitResult:
        path = f"/v1/order?{_query_string(order_id=order_id, symbol=symbol)}"
        return await self.command(Endpoint.ORDER_CANCEL, "DELETE", path, order_id=order_id, is_urgent=True)

    async def cancel_orders(self, symbol: str | None = None) -> SubmitResult:
        """Cancel every plain order, of one symbol or all. Algo orders stay: see `cancel_algos`."""
        query = _query_string(symbol=symbol)
        path = f"/v1/orders?{query}" if query else "/v1/orders"
        return await self.command(Endpoint.ORDERS_CANCEL, "DELETE", path, is_urgent=True)

    # -------------------------------------------------------------------------------------------------------------- algos

    async def algo_by_client_id(self, client_order_id: str, *, is_urgent: bool = False) -> OrderStatusReport | None:
        """As `order_by_client_id`, for an algo order with its children."""
        answer = await self.query(Endpoint.ALGO_GET, f"/v1/algo/client/order/{client_order_id}", is_urgent=is_urgent)
        return None if isinstance(answer, Missing) else parse_reply(parsing.algo_report, answer.data)

    async def algos(self, *, symbol: str | None = None, since: datetime | None = None) -> tuple[OrderStatusReport, ...]:
        """Algo orders (roots, with their children) that are open, or all made since a time, of one symbol or all, newest first."""
        query = _open_or_since(since) + (f"&symbol={symbol}" if symbol else "")
        rows = await self.rows(Endpoint.ALGOS_LIST, f"/v1/algo/orders?{query}")
        return tuple(_parse_rows(parsing.algo_report, rows))

    async def algo_trades(self, order_id: str) -> tuple[Fill, ...]:
        """All executions of an algo order and its children, oldest first."""
        found = await self.query(Endpoint.ALGO_TRADES, f"/v1/algo/order/{order_id}/trades")
        return _oldest_first(_parse_rows(parsing.trade, rows_of(found)))

    async def cancel_algo(self, symbol: str, order_id: str) -> SubmitResult:
        path = f"/v1/algo/order?{_query_string(order_id=order_id, symbol=symbol)}"
        return await self.command(Endpoint.ALGO_CANCEL, "DELETE", path, order_id=order_id, is_urgent=True)

    async def cancel_algos(self, algo_type: str, symbol: str | None = None) -> SubmitResult:
        """Cancel every algo order of one root type (`requests.ALGO_TYPES`), of one symbol or all."""
        path = f"/v1/algo/orders?{_query_string(symbol=symbol, algo_type=algo_type)}"
        return await self.command(Endpoint.ALGOS_CANCEL, "DELETE", path, is_urgent=True)

    # -------------------------------------------------------------------------------------------------------------- pages

    async def rows(self, endpoint: Endpoint, path: str, key: RowKey | None = None) -> list[Mapping[str, Any]]:
        """Every row of a list, whatever the size of the exchange's pages; a row that moves to the next page meanwhile is kept once.

        `key` tells rows apart (None: by their id). Raises ExchangeUnavailable if the list could not be read to its end.
        """
        rows: dict[object, Mapping[str, Any]] = {}
        listed = 0  # rows of all pages: one that moved to the next page meanwhile is listed twice
        repeated = 0  # pages in a row without a new row
        separator = "&" if "?" in path else "?"
        for page in range(1, _MAX_PAGES + 1):
            found = await self.query_existing(endpoint, f"{path}{separator}page={page}&size={_PAGE_SIZE}")
            batch = rows_of(found)
            known = len(rows)
            listed += len(batch)
            for row in batch:
                rows.setdefault(_id_of(row) or ("row", len(rows)) if key is None else key(row), row)
            meta = found.data.get("meta")
            total = parsing.integer_or_none(meta.get("total")) if isinstance(meta, Mapping) else None
            repeated = repeated + 1 if len(rows) == known else 0
            if total is None and (repeated or len(batch) < _PAGE_SIZE):
                return list(rows.values())  # not paged
            if total is not None and (len(rows) >= total or (not batch and listed >= total)):
                return list(rows.values())
            if not batch or repeated > _MAX_REPEATED:
                break
        raise ExchangeUnavailable(
            "exchange_unreachable", f"the list of GET {path.partition('?')[0]} could not be read to its end"
        )


def _id_of(row: Mapping[str, Any]) -> object:
    return row.get("id") or row.get("order_id") or row.get("algo_order_id")


def create_endpoint(kind: requests.OrderKind) -> Endpoint:
    """The rate-limit window that creating an order of this kind needs."""
    return Endpoint.ALGO_CREATE if kind.is_algo else Endpoint.ORDER_CREATE


def rows_of(answer: Found | Missing) -> list[Mapping[str, Any]]:
    """The `rows` of a list reply; empty if there are none."""
    rows = answer.data.get("rows") if isinstance(answer, Found) else None
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def parse_reply(parse: Callable[[Mapping[str, Any]], T], row: Mapping[str, Any]) -> T:
    """Parse a reply that must be readable. Raises ExchangeUnavailable if it is not."""
    try:
        return parse(row)
    except parsing.ParseError as error:
        raise ExchangeUnavailable("exchange_unreachable", str(error)) from None


def worst(results: list[SubmitResult]) -> SubmitResult:
    """The worst of several results: Unknown, then Retryable, Rejected, Accepted."""
    for kind in (Unknown, Retryable, Rejected):
        for result in results:
            if isinstance(result, kind):
                return result
    return results[0] if results else Accepted("")


def _parse_rows(parse: Callable[[Mapping[str, Any]], T], rows: list[Mapping[str, Any]]) -> list[T]:
    """Parse rows, leaving out those that cannot be read: one odd order placed elsewhere must not hide all others."""
    found: list[T] = []
    for row in rows:
        try:
            found.append(parse(row))
        except parsing.ParseError:
            continue
    return found


def _oldest_first(fills: list[Fill]) -> tuple[Fill, ...]:
    return tuple(sorted(fills, key=lambda fill: (fill.executed_at, len(fill.trade_id), fill.trade_id)))


def _open_or_since(since: datetime | None) -> str:
    return "status=INCOMPLETE" if since is None else f"start_t={parsing.milliseconds(since)}"


def _query_string(**values: str | None) -> str:
    return "&".join(f"{name}={value}" for name, value in values.items() if value is not None)
