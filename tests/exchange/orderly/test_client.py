"""The whole client against the paper exchange over HTTP and WebSocket: orders, exits, faults, loss of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from kekbridge import errors
from kekbridge.config import ExchangeSettings
from kekbridge.exchange.base import Accepted, Rejected, Retryable, Unknown
from kekbridge.exchange.orderly import requests
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model import AccountSnapshot, Fill, MarginMode, Order, OrderStatus, OrderType, Purpose, Side, TakeProfit
from kekbridge.model.orders import OrderStatusReport
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET
from tests.system.harness import free_port
from tests.waiting import DEADLINE_S

BTC, ETH = "PERP_BTC_USDC", "PERP_ETH_USDC"
Control = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]
ClientFor = Callable[..., OrderlyExchange]


class MakeOrder(Protocol):
    def __call__(self, client_order_id: str, **intent: Any) -> Order: ...


async def settled(exchange: OrderlyExchange, order: Order) -> OrderStatusReport:
    """Query until the order is final."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        report = await exchange.find(order)
        if report is not None and report.status.is_final:
            return report
        assert asyncio.get_running_loop().time() < end, f"{order.client_order_id} did not end: {report}"
        await asyncio.sleep(0.02)


def created(paper: PaperExchange, client_order_id: str) -> list[dict[str, Any]]:
    return [
        e for e in paper.journal() if e["event"] == "order_received" and e.get("client_order_id") == client_order_id
    ]


# ------------------------------------------------------------------------------------------------------------- snapshot


async def test_snapshot_after_start(exchange: OrderlyExchange) -> None:
    """Rules, marks, balance, leverage and fees are known; health reports it."""
    snapshot = exchange.snapshot
    assert snapshot is not None
    assert len(snapshot.instruments) >= 40
    assert snapshot.mark_price(BTC) == 65000
    assert snapshot.account_value == snapshot.free_collateral == 100_000
    assert snapshot.taker_fee_rate == Decimal("0.00045")
    assert snapshot.leverage[BTC] == 10
    health = exchange.health
    assert health.is_reachable
    assert health.stream_is_live
    assert not health.is_maintenance
    assert health.clock_offset_ms is not None
    assert abs(health.clock_offset_ms) < 500


async def test_market_order_fills_and_shows_at_once(
    exchange: OrderlyExchange, make_order: MakeOrder, until: Until
) -> None:
    """Accepted, filled, its trade parsed, the position in the snapshot, every step reported by the stream."""
    reports: list[OrderStatusReport] = []
    snapshots: list[AccountSnapshot] = []
    exchange.listen_reports(reports.append)
    exchange.listen_account(snapshots.append)
    order = make_order("kb-market")
    result = await exchange.submit(order)
    assert isinstance(result, Accepted)
    report = await settled(exchange, order)
    assert (report.order_id, report.status, report.executed_quantity) == (
        result.order_id,
        OrderStatus.FILLED,
        Decimal("0.01"),
    )
    (execution,) = await exchange.fills(report)
    assert (execution.client_order_id, execution.price, execution.fee) == (
        "kb-market",
        report.average_price,
        report.fee,
    )
    await until(lambda: [r.status for r in reports if r.client_order_id == "kb-market"][-1:] == [OrderStatus.FILLED])
    await until(lambda: exchange.snapshot and exchange.snapshot.position_quantity(BTC) == Decimal("0.01"))
    await until(lambda: snapshots and snapshots[-1].position_quantity(BTC) == Decimal("0.01"))


async def test_streamed_fills_equal_queried_fills(
    exchange: OrderlyExchange, make_order: MakeOrder, until: Until
) -> None:
    """An execution that opens or enlarges is taken from the stream, equal to the queried one in every field; a close is queried."""
    reports: dict[str | None, OrderStatusReport] = {}
    exchange.listen_reports(lambda report: reports.update({report.client_order_id: report}))

    async def fills_of(client_order_id: str, **changes: Any) -> tuple[Fill, ...]:
        await exchange.submit(make_order(client_order_id, **changes))
        await until(lambda: client_order_id in reports and reports[client_order_id].status is OrderStatus.FILLED)
        return await exchange.fills(reports[client_order_id])

    for client_order_id, changes in (
        ("kb-open", {}),
        ("kb-add", {}),
        ("kb-less", {"side": Side.SELL, "quantity": Decimal("0.005")}),
        ("kb-turn", {"side": Side.SELL, "quantity": Decimal("0.1")}),
    ):
        streamed = await fills_of(client_order_id, **changes)
        queried = await exchange.fills(reports[client_order_id])  # a streamed fill is returned once: this is a query
        assert streamed == queried, client_order_id
        assert streamed[0].realized_pnl is not None


async def test_fills_show_without_the_stream(
    paper: PaperExchange, client_for: ClientFor, make_order: MakeOrder, control: Control
) -> None:
    """While the stream is down, reading an order's fills puts them into the snapshot; a later refresh agrees."""
    await control("/paper/faults", {"fault": "stream_drop"})
    client = client_for(paper.base_url)
    try:
        await client.start()
        order = make_order("kb-blind")
        await client.submit(order)
        await client.fills(await settled(client, order))
        assert client.snapshot is not None
        assert client.snapshot.position_quantity(BTC) == Decimal("0.01")
        assert (await client.refresh()).position_quantity(BTC) == Decimal("0.01")
        assert not client.health.stream_is_live
    finally:
        await client.close()


async def test_closed_position_is_gone(exchange: OrderlyExchange, make_order: MakeOrder, until: Until) -> None:
    """A reduce-only close larger than the position ends flat, never short."""
    await settled(exchange, await placed(exchange, make_order("kb-open")))
    exit_ = make_order("kb-close", side=Side.SELL, purpose=Purpose.EXIT, reduce_only=True, quantity=Decimal("0.05"))
    await settled(exchange, await placed(exchange, exit_))
    await until(lambda: exchange.snapshot is not None and not exchange.snapshot.positions)
    assert (await exchange.refresh()).position_quantity(BTC) == 0


@pytest.mark.parametrize("fields", [{}, {"stop_loss": Decimal(61000)}], ids=["plain", "algo"])
async def test_submit_now_writes_before_it_returns(
    exchange: OrderlyExchange, paper: PaperExchange, make_order: MakeOrder, fields: dict[str, Any]
) -> None:
    """With a permit and a free connection the request leaves in the same call: no turn of the event loop, one create."""
    order = make_order("kb-now", **fields)
    permit = exchange.try_acquire_permit(order)
    assert permit is not None
    before = datetime.now(UTC)
    future = exchange.submit_now(order, permit)
    assert permit.sent_at is not None
    assert not future.done()
    after = datetime.now(UTC)
    result = await future
    assert isinstance(result, Accepted)
    assert result.sent_at is not None
    assert before <= result.sent_at <= after
    assert (await settled(exchange, order)).order_id == result.order_id
    assert len(created(paper, "kb-now")) == 1
    with pytest.raises(ValueError, match="still held"):
        exchange.submit_now(order, permit)


async def test_submit_now_sends_nothing_that_must_not_be_sent(
    exchange: OrderlyExchange, paper: PaperExchange, make_order: MakeOrder
) -> None:
    """Expired, or not to be expressed in one request: the result is known at once, and the permit is free again."""
    expired = replace(make_order("kb-old"), expires_at=datetime.now(UTC) - timedelta(seconds=1))
    impossible = make_order("kb-no", order_type=OrderType.IOC, limit_price=Decimal(65000), stop_loss=Decimal(64000))
    for order, kind, code in ((expired, Retryable, "alert_expired"), (impossible, Rejected, "order_type_unsupported")):
        permit = await exchange.acquire_permit(order)
        result = await exchange.submit_now(order, permit)
        assert isinstance(result, kind)
        assert result.code == code
        assert not permit.is_held
        assert permit.sent_at is None
        assert created(paper, order.client_order_id) == []


async def test_a_cancelled_create_that_was_not_written_is_never_sent(
    paper: PaperExchange, client_for: ClientFor, make_order: MakeOrder, until: Until
) -> None:
    """The caller went away while the connection was being opened: no order that nobody follows."""
    client = client_for(paper.base_url)
    try:
        await client.checks()  # opens no connection for creates
        gone, kept = make_order("kb-gone"), make_order("kb-kept")
        permits = [await client.acquire_permit(order) for order in (gone, kept)]
        future = client.submit_now(gone, permits[0])
        assert permits[0].sent_at is None
        future.cancel()
        assert isinstance(await client.submit_now(kept, permits[1]), Accepted)
        await until(lambda: not permits[0].is_held)
        assert created(paper, "kb-gone") == []
    finally:
        await client.close()


async def placed(exchange: OrderlyExchange, order: Order) -> Order:
    assert isinstance(await exchange.submit(order), Accepted)
    return order


# --------------------------------------------------------------------------------------------------------------- exits


async def test_bracket_through_its_stop(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, until: Until
) -> None:
    """Entry, live stop, price through it: the bracket's report stays the entry's, the position is flat, the other exit gone."""
    order = make_order(
        "kb-bracket", stop_loss=Decimal(64000), take_profits=(TakeProfit(Decimal(67000), Decimal("0.01")),)
    )
    await placed(exchange, order)
    report = await settled(exchange, order)
    assert (report.status, report.executed_quantity, report.average_price) == (
        OrderStatus.FILLED,
        Decimal("0.01"),
        Decimal(65000),
    )
    assert report.stop_is_live is True
    (stop,) = await exchange.live_stops(BTC)
    assert (stop.side, stop.trigger_price, stop.quantity) == (Side.SELL, Decimal(64000), Decimal("0.01"))
    assert [fill.side for fill in await exchange.fills(report)] == [Side.BUY]
    await control("/paper/prices", {BTC: "63900"})
    await until(lambda: exchange.snapshot is not None and exchange.snapshot.position_quantity(BTC) == 0)
    after = await exchange.find(order)
    assert after is not None
    assert (after.status, after.executed_quantity, after.stop_is_live) == (OrderStatus.FILLED, Decimal("0.01"), False)
    assert [fill.side for fill in await exchange.fills(after)] == [Side.BUY]
    assert await exchange.open_orders() == ()
    assert [fill.side for fill in await exchange.trades_since(datetime.now(UTC) - timedelta(minutes=5))] == [
        Side.BUY,
        Side.SELL,
    ]


async def test_several_take_profits(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, until: Until
) -> None:
    """Two take-profits: the bracket's stop covers the rest after the nearer one executed, and closes all of it."""
    take_profits = (TakeProfit(Decimal(66000), Decimal("0.004")), TakeProfit(Decimal(68000), Decimal("0.006")))
    order = make_order("kb-multi", stop_loss=Decimal(64000), take_profits=take_profits)
    await placed(exchange, order)
    report = await settled(exchange, order)
    assert report.stop_is_live is True, "the stop left the bracket and stands by itself"
    assert exchange.snapshot is not None
    (later,) = requests.later_exits(order.intent, report.executed_quantity, exchange.snapshot.instruments[BTC])
    exit_ = replace(order, client_order_id="kb-multi-tp", intent=later)
    await placed(exchange, exit_)
    await control("/paper/prices", {BTC: "66001"})
    await until(lambda: exchange.snapshot and exchange.snapshot.position_quantity(BTC) == Decimal("0.006"))
    assert (await settled(exchange, exit_)).executed_quantity == Decimal("0.004")
    await control("/paper/prices", {BTC: "63999"})
    await until(lambda: exchange.snapshot is not None and exchange.snapshot.position_quantity(BTC) == 0)
    assert await exchange.open_orders() == ()


async def test_a_foreign_stop_is_not_the_bracket_s(
    exchange: OrderlyExchange, make_order: MakeOrder, until: Until
) -> None:
    """When the independent exit of a bracket is gone, another stop in the same symbol does not count as its stop."""
    order = make_order("kb-own", stop_loss=Decimal(64000), take_profits=(TakeProfit(Decimal(66000), Decimal("0.004")),))
    await settled(exchange, await placed(exchange, order))
    (own,) = [report for report in await exchange.open_orders() if report.venue_type == "POSITIONAL_TP_SL"]
    foreign = make_order(
        "kb-foreign",
        side=Side.SELL,
        order_type=OrderType.STOP,
        trigger_price=Decimal(60000),
        quantity=Decimal("0.001"),
        purpose=Purpose.PROTECT,
        reduce_only=True,
    )
    await placed(exchange, foreign)
    assert isinstance(await exchange.cancel(own), Accepted)
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        report = await exchange.find(order)
        assert report is not None
        if report.stop_is_live is False:
            break
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)
    assert [report.venue_type for report in await exchange.live_stops(BTC)] == ["STOP"]


async def test_cancel_all_cancels_plain_and_algo_orders_of_every_type(
    exchange: OrderlyExchange, make_order: MakeOrder, until: Until
) -> None:
    """A stop, a resting order, a trailing stop, a pair: one call cancels them all."""
    await settled(exchange, await placed(exchange, make_order("kb-base", quantity=Decimal("0.03"))))
    protect = {"side": Side.SELL, "purpose": Purpose.PROTECT, "reduce_only": True}
    await placed(exchange, make_order("kb-stop", order_type=OrderType.STOP, trigger_price=Decimal(60000), **protect))
    await placed(exchange, make_order("kb-trail", trailing_callback_rate=Decimal("0.02"), **protect))
    await placed(exchange, make_order("kb-pair", stop_loss=Decimal(61000), **protect))
    await placed(exchange, make_order("kb-rest", order_type=OrderType.LIMIT, limit_price=Decimal(60000)))
    reports = await exchange.open_orders()
    assert {report.client_order_id for report in reports} == {"kb-stop", "kb-trail", "kb-pair", "kb-rest"}
    assert {report.venue_type for report in await exchange.live_stops(BTC, Side.SELL)} == {
        "STOP",
        "TRAILING_STOP",
        "STOP_LOSS",
    }
    assert await exchange.live_stops(BTC, Side.BUY) == ()
    assert isinstance(await exchange.cancel_all(BTC), Accepted)
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while await exchange.open_orders():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.05)


async def test_cancel_one_and_cancel_again(exchange: OrderlyExchange, make_order: MakeOrder) -> None:
    """A cancel is passed on; cancelling a finished order is rejected with the exchange's code."""
    order = await placed(exchange, make_order("kb-c", order_type=OrderType.LIMIT, limit_price=Decimal(60000)))
    report = await exchange.find(order)
    assert report is not None
    assert report.status is OrderStatus.ACCEPTED
    assert isinstance(await exchange.cancel(report), Accepted)
    done = await settled(exchange, order)
    assert done.status is OrderStatus.CANCELED
    again = await exchange.cancel(done)
    assert isinstance(again, Rejected)
    assert again.code == "orderly:-1006"


# ------------------------------------------------------------------------------------------------------ rejected, unknown


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"quantity": Decimal("0.0001")}, "orderly:-1102"),
        ({"order_type": OrderType.LIMIT, "limit_price": Decimal("60000.05")}, "orderly:-1103"),
        ({"quantity": Decimal("0.000000001")}, "orderly:-1104"),
        ({"order_type": OrderType.LIMIT, "limit_price": Decimal(70000)}, "orderly:-1105"),
        ({"quantity": Decimal(2)}, "orderly:-1101"),
        ({"stop_loss": Decimal(66000)}, "orderly:-1005"),
        (
            {"order_type": OrderType.IOC, "limit_price": Decimal(65000), "stop_loss": Decimal(64000)},
            "order_type_unsupported",
        ),
    ],
)
async def test_rejections_keep_their_code(
    exchange: OrderlyExchange, make_order: MakeOrder, fields: dict[str, Any], code: str
) -> None:
    """Each filter of the exchange is a rejection with its code, and no order exists afterwards."""
    await exchange.set_leverage(BTC, Decimal(1))
    order = make_order("kb-no", **fields)
    result = await exchange.submit(order)
    assert isinstance(result, Rejected)
    assert result.code == code
    assert await exchange.find(order) is None


@pytest.mark.parametrize("fault", ["lose_answer", "reset_inside"])
async def test_lost_reply_is_unknown_and_the_order_is_found(
    exchange: OrderlyExchange, paper: PaperExchange, make_order: MakeOrder, control: Control, fault: str
) -> None:
    """The order was executed and the reply lost: Unknown, one create sent, found by its id."""
    await control("/paper/faults", {"fault": fault, "path": "/v1/order", "count": 1})
    order = make_order("kb-lost")
    before = datetime.now(UTC)
    result = await exchange.submit(order)
    assert isinstance(result, Unknown)
    assert result.sent_at is not None
    assert before <= result.sent_at <= datetime.now(UTC)
    assert (await settled(exchange, order)).status is OrderStatus.FILLED
    assert len(created(paper, "kb-lost")) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"fault": "reset_before"}, Unknown),
        ({"fault": "html"}, Unknown),
        ({"fault": "server_error"}, Unknown),
        ({"fault": "server_error", "when": "after"}, Unknown),
        ({"fault": "refuse", "code": -1012}, Unknown),
        ({"fault": "refuse", "code": -1011}, Unknown),
        ({"fault": "rate_limit"}, Retryable),
        ({"fault": "refuse", "code": -1101}, Rejected),
    ],
    ids=["reset", "html", "500", "500 after", "liquidation", "internal", "429", "margin"],
)
async def test_faults_are_classified(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, fault: dict[str, Any], kind: type
) -> None:
    """Each network fault is classified as docs/internals/reliability.md section 5 requires, with one create sent."""
    await control("/paper/faults", {**fault, "path": "/v1/order", "count": 1})
    assert isinstance(await exchange.submit(make_order("kb-fault")), kind)


async def test_timeout_is_unknown(
    paper: PaperExchange, client_for: ClientFor, make_order: MakeOrder, control: Control
) -> None:
    """A reply after the timeout is unknown; the order is found later."""
    client = client_for(paper.base_url, request_timeout_s=1)
    try:
        await client.start()
        await control(
            "/paper/faults", {"fault": "delay", "delay_ms": 3000, "when": "after", "path": "/v1/order", "count": 1}
        )
        order = make_order("kb-late")
        assert isinstance(await client.submit(order), Unknown)
        assert (await settled(client, order)).status is OrderStatus.FILLED
    finally:
        await client.close()


async def test_revoked_key(exchange: OrderlyExchange, make_order: MakeOrder, control: Control) -> None:
    """A revoked key is rejected as such for orders, and queries raise with its code."""
    await control("/paper/faults", {"fault": "key_revoked"})
    result = await exchange.submit(make_order("kb-key"))
    assert isinstance(result, Rejected)
    assert result.is_key_rejected
    with pytest.raises(errors.ExchangeUnavailable) as caught:
        await exchange.refresh()
    assert caught.value.code == "orderly:-1002"


@pytest.mark.parametrize("fault", ["html", "server_error", "reset_before", "rate_limit"])
async def test_a_broken_query_never_reads_as_not_found(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, fault: str
) -> None:
    """None means that the exchange said so; everything else raises."""
    order = make_order("kb-nobody")
    assert await exchange.find(order) is None
    await control("/paper/faults", {"fault": fault, "path": "/v1/client/order/kb-nobody"})
    with pytest.raises(errors.ExchangeUnavailable):
        await exchange.find(order)


async def test_maintenance_holds_entries_and_lets_exits_try(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, until: Until
) -> None:
    """During maintenance entries are retryable without being sent; an exit is sent, and deferred by the exchange."""
    await control("/paper/faults", {"fault": "maintenance"})
    exit_ = make_order("kb-x", side=Side.SELL, purpose=Purpose.EXIT, reduce_only=True)
    result = await exchange.submit(exit_)
    assert isinstance(result, Retryable)
    assert result.code == "orderly:-1011"
    assert (await exchange.account_api.system_info()).is_maintenance
    await until(lambda: exchange.health.is_maintenance)
    result = await exchange.submit(make_order("kb-n"))
    assert isinstance(result, Retryable)
    assert result.code == "exchange_busy"


async def test_clock_jump_is_not_a_rejected_key(paper: PaperExchange, make_order: MakeOrder) -> None:
    """Our clock jumps: the 401 that follows is due to the clock, proves that nothing was placed, and the next attempt succeeds."""
    shift = timedelta(0)
    signer = Signer(PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET)
    client = OrderlyExchange(
        "paper", paper.base_url, signer, ExchangeSettings(), clock=lambda: datetime.now(UTC) + shift
    )
    try:
        await client.checks()
        shift = timedelta(hours=-1)
        result = await client.submit(make_order("kb-jump"))
        assert isinstance(result, Retryable)
        assert isinstance(await client.submit(make_order("kb-jump")), Accepted)
        assert len(created(paper, "kb-jump")) == 1
    finally:
        await client.close()


async def test_a_failing_listener_does_not_end_the_stream(
    exchange: OrderlyExchange, make_order: MakeOrder, until: Until
) -> None:
    """A listener that raises costs a reconnect."""
    reports: list[OrderStatusReport] = []

    def broken(report: OrderStatusReport) -> None:
        reports.append(report)
        if len(reports) == 1:
            raise KeyError("a defect")

    exchange.listen_reports(broken)
    await settled(exchange, await placed(exchange, make_order("kb-d1")))
    await until(lambda: reports and exchange.health.stream_is_live)
    await settled(exchange, await placed(exchange, make_order("kb-d2")))
    await until(lambda: any(report.client_order_id == "kb-d2" for report in reports))


async def test_expired_order_is_not_sent(
    exchange: OrderlyExchange, paper: PaperExchange, make_order: MakeOrder
) -> None:
    """An order that expired while it waited for its permit is not sent (promise 8)."""
    order = replace(make_order("kb-old"), expires_at=datetime.now(UTC) - timedelta(seconds=1))
    result = await exchange.submit(order)
    assert isinstance(result, Retryable)
    assert result.code == "alert_expired"
    assert created(paper, "kb-old") == []


async def test_burst_meets_the_exchange_s_limit_exactly(
    exchange: OrderlyExchange, paper: PaperExchange, make_order: MakeOrder
) -> None:
    """25 entries and an exit at once against a strict 10 a second: none rejected, and the exit is not the last."""
    results = [
        asyncio.create_task(exchange.submit(make_order(f"kb-b{n}", symbol=ETH, quantity=Decimal("0.01"))))
        for n in range(25)
    ]
    await asyncio.sleep(0)
    exit_ = make_order(
        "kb-bx", symbol=ETH, side=Side.SELL, purpose=Purpose.EXIT, reduce_only=True, quantity=Decimal("0.01")
    )
    results.append(asyncio.create_task(exchange.submit(exit_)))
    assert {type(result) for result in await asyncio.gather(*results)} == {Accepted}
    received = [event["client_order_id"] for event in paper.journal() if event["event"] == "order_received"]
    assert len(received) == 26
    assert received.index("kb-bx") <= 11


async def test_the_fee_of_a_market_is_what_its_fills_cost(exchange: OrderlyExchange, make_order: MakeOrder) -> None:
    """Markets of real-world assets have a rate of their own; the margin check counts the rate of the market."""
    assert exchange.snapshot is not None
    for symbol, quantity in ((BTC, "0.01"), ("PERP_XAU_USDC", "0.1")):
        order = await placed(exchange, make_order(f"kb-{symbol[5:8]}", symbol=symbol, quantity=Decimal(quantity)))
        (fill,) = await exchange.fills(await settled(exchange, order))
        assert fill.fee == fill.price * fill.quantity * exchange.snapshot.taker_fee_rate_of(symbol)
    assert exchange.snapshot.taker_fee_rate_of(BTC) != exchange.snapshot.taker_fee_rate_of("PERP_XAU_USDC")


# ------------------------------------------------------------------------------------------------------------ leverage


async def test_leverage(exchange: OrderlyExchange, paper: PaperExchange) -> None:
    """Set once per symbol, read back, not sent again when known; invalid values are never sent."""
    assert isinstance(await exchange.set_leverage(BTC, Decimal(5)), Accepted)
    assert (await exchange.account_api.leverages())[BTC, MarginMode.CROSS] == 5
    assert exchange.snapshot is not None
    assert exchange.snapshot.leverage[BTC] == 5
    assert exchange.snapshot.leverage[ETH] == 10, "other symbols stay"
    for _ in range(20):
        assert isinstance(await exchange.set_leverage(BTC, Decimal(5)), Accepted)
    for bad in ("0", "101", "2.5"):
        assert isinstance(await exchange.set_leverage(BTC, Decimal(bad)), Rejected)


# ------------------------------------------------------------------------------------------------------------ the stream


async def test_resync_after_the_stream_was_down(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, until: Until
) -> None:
    """After a loss: positions and open orders are queried, and the gap is announced so that unfinished orders are queried."""
    gaps: list[int] = []
    reports: list[OrderStatusReport] = []
    exchange.listen_gaps(lambda: gaps.append(1))
    order = await placed(exchange, make_order("kb-gap", order_type=OrderType.LIMIT, limit_price=Decimal(64000)))
    await control("/paper/faults", {"fault": "stream_drop", "count": 1})
    await until(lambda: not exchange.health.stream_is_live)
    exchange.listen_reports(reports.append)
    await until(lambda: exchange.health.stream_is_live and gaps)
    await until(lambda: any(report.client_order_id == "kb-gap" for report in reports))
    await control("/paper/prices", {BTC: "63990"})
    assert (await settled(exchange, order)).status is OrderStatus.FILLED
    await until(lambda: exchange.snapshot and exchange.snapshot.position_quantity(BTC) == Decimal("0.01"))


@pytest.mark.parametrize("fault", ["duplicate_reports", "reorder_reports"])
async def test_repeated_and_reordered_reports(
    exchange: OrderlyExchange, make_order: MakeOrder, control: Control, until: Until, fault: str
) -> None:
    """Repeated or reordered reports leave the position right."""
    await control("/paper/faults", {"faults": [{"fault": fault}, {"fault": "partial_fills", "parts": 3}]})
    order = await placed(exchange, make_order("kb-r", quantity=Decimal("0.03")))
    await settled(exchange, order)
    await until(lambda: exchange.snapshot and exchange.snapshot.position_quantity(BTC) == Decimal("0.03"))


async def test_marks_follow_the_public_stream(exchange: OrderlyExchange, control: Control, until: Until) -> None:
    """A new mark price arrives without a query."""
    await control("/paper/prices", {BTC: "65432.1"})
    await until(lambda: exchange.snapshot and exchange.snapshot.mark_price(BTC) == Decimal("65432.1"))


# --------------------------------------------------------------------------------------------------------- life, addresses


async def test_start_while_the_exchange_is_down(
    paper: PaperExchange, client_for: ClientFor, make_order: MakeOrder, until: Until
) -> None:
    """Start does not fail; the client connects once the exchange is up. Until then nothing can have been placed."""
    await paper.close()
    port = free_port()  # the old one may be given to any connection now
    client = client_for(f"http://127.0.0.1:{port}")
    try:
        await client.start()
        assert client.snapshot is None
        assert not client.health.is_reachable
        assert client.health.detail
        with pytest.raises(errors.ExchangeUnavailable):
            await client.refresh()
        result = await client.submit(make_order("kb-down"))
        assert isinstance(result, Retryable)
        assert result.code == "exchange_unreachable"
        await paper.start(port=port)
        await until(lambda: client.health.is_reachable and client.health.stream_is_live and client.snapshot)
    finally:
        await client.close()
