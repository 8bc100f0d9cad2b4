"""Calls for account, keys and markets, against the paper exchange; and reply shapes known from the documentation only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kekbridge.exchange.base import Accepted, Rejected, Unknown
from kekbridge.exchange.orderly.account_api import key_info_of, prices_of, system_info_of, transfer_of
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS, PAPER_BROKER_ID, PAPER_ORDERLY_KEY

BTC = "PERP_BTC_USDC"
Control = Callable[..., Awaitable[Any]]
ClientFor = Callable[..., OrderlyExchange]


async def test_key_and_owner(exchange: OrderlyExchange) -> None:
    """The key's scopes and expiry, the owner's wallet and broker."""
    key = await exchange.account_api.key(PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY)
    assert key is not None
    assert key.scopes == {"read", "trading"}
    assert key.expires_at is not None
    assert key.expires_at > datetime.now(UTC)
    assert (
        await exchange.account_api.key(PAPER_ACCOUNT_ID, "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj") is None
    )
    owner = await exchange.account_api.owner(PAPER_ACCOUNT_ID)
    assert owner is not None
    assert (owner.address, owner.broker_id) == (PAPER_ADDRESS, PAPER_BROKER_ID)
    assert [known.orderly_key for known in await exchange.account_api.keys()] == [PAPER_ORDERLY_KEY]


async def test_funding_payments(exchange: OrderlyExchange, control: Control) -> None:
    """Funding paid is positive, received negative."""
    await control("/paper/positions", {BTC: "1"})
    since = datetime.now(UTC) - timedelta(minutes=1)
    await control("/paper/funding", {BTC: "0.0001"})
    (payment,) = await exchange.account_api.funding_payments(since)
    assert (payment.symbol, payment.fee) == (BTC, Decimal("6.5"))
    await control("/paper/funding", {BTC: "-0.0001"})
    assert sorted(each.fee for each in await exchange.account_api.funding_payments(since)) == [
        Decimal("-6.5"),
        Decimal("6.5"),
    ]


async def test_marks_and_rules(exchange: OrderlyExchange) -> None:
    """Every listed market has a mark."""
    marks = await exchange.account_api.marks()
    assert marks[BTC] == 65000
    assert {row["symbol"] for row in await exchange.account_api.rules()} == set(marks)


class OldExchange:
    """An exchange that has the singular leverage path only."""

    def __init__(self) -> None:
        self.plural: web.Response | None = None
        self.calls: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        if request.path.endswith("leverages") and self.plural is not None:
            return self.plural
        assert await request.json() == {"symbol": BTC, "leverage": 5, "margin_mode": "CROSS"}
        return web.json_response({"success": True, "timestamp": 1, "data": {"symbol": BTC, "leverage": 5}})


@pytest.fixture
async def old_exchange() -> AsyncIterator[OldExchange]:
    venue = OldExchange()
    app = web.Application()
    app.router.add_post("/v1/client/{name}", venue.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield venue
    await runner.cleanup()


@pytest.mark.parametrize(
    "missing",
    [
        lambda: web.Response(status=404, text="<html>nothing here</html>"),
        lambda: web.json_response({"success": False, "code": -1006, "message": "no such path"}, status=400),
    ],
    ids=["404", "-1006"],
)
async def test_leverage_falls_back_to_the_singular_path(
    old_exchange: OldExchange, client_for: ClientFor, missing: Callable[[], web.Response]
) -> None:
    """Plural first, singular where that does not exist, always with the symbol (docs/internals/orderly.md section 9)."""
    old_exchange.plural = missing()
    client = client_for(old_exchange.url)
    await client._transport.open()
    try:
        assert isinstance(await client.account_api.set_leverage(BTC, 5), Accepted)
    finally:
        await client.close()
    assert old_exchange.calls == ["/v1/client/leverages", "/v1/client/leverage"]


@pytest.mark.parametrize(("code", "status", "kind"), [(-1101, 400, Rejected), (-1000, 500, Unknown)])
async def test_rejected_leverage_does_not_fall_back(
    old_exchange: OldExchange, client_for: ClientFor, code: int, status: int, kind: type
) -> None:
    """A rejection for margin, or a server error, is not "no such path"."""
    old_exchange.plural = web.json_response({"success": False, "code": code, "message": "m"}, status=status)
    client = client_for(old_exchange.url)
    await client._transport.open()
    try:
        assert isinstance(await client.account_api.set_leverage(BTC, 5), kind)
    finally:
        await client.close()
    assert old_exchange.calls == ["/v1/client/leverages"]


def test_system_info_shapes() -> None:
    """Status 2 is maintenance, also as text; a missing window is none."""
    assert system_info_of({"status": 2}).is_maintenance
    assert system_info_of({"status": "2"}).is_maintenance
    assert not system_info_of({"status": 0, "scheduled_maintenance": None}).is_maintenance
    planned = system_info_of(
        {"status": 0, "scheduled_maintenance": {"startTime": 1790056800000, "endTime": 1790058600000}}
    )
    assert planned.starts_at == datetime(2026, 9, 22, 6, 0, tzinfo=UTC)


def test_key_info_shapes() -> None:
    """Address lists come as lists or as comma-separated text; scopes with or without spaces."""
    assert key_info_of({"scope": "read, trading", "ip_restriction_list": "1.2.3.4, 5.6.7.8"}).ip_list == (
        "1.2.3.4",
        "5.6.7.8",
    )
    assert key_info_of({"ip_restriction_list": ["1.2.3.4"]}).ip_list == ("1.2.3.4",)
    assert key_info_of({"scope": "read, trading"}).scopes == {"read", "trading"}
    assert key_info_of({}).scopes == frozenset()


def test_markets_without_a_mark_price_are_left_out() -> None:
    """A market without a price is left out instead of being priced at zero."""
    rows: list[Mapping[str, Any]] = [
        {"symbol": "A", "mark_price": None},
        {"symbol": "B", "mark_price": 0},
        {"symbol": "C", "mark_price": "1.5"},
    ]
    assert prices_of(rows, "mark_price") == {"C": Decimal("1.5")}


async def test_transfers_of_every_token_are_valued(client_for: ClientFor) -> None:
    """Dollar tokens count each to each, coins at their market's index price; a token without a price is left out."""
    requested: list[str] = []
    moved = [
        {"id": "1", "token": "USDC", "side": "DEPOSIT", "amount": 500, "trans_status": "COMPLETED", "updated_time": 1790000000100},
        {"id": "2", "token": "ETH", "side": "WITHDRAW", "amount": 2, "trans_status": "PROCESSING", "created_time": 1790000000200},
        {"id": "3", "token": "WBTC", "side": "DEPOSIT", "amount": 0.5, "trans_status": "COMPLETED", "updated_time": 1790000000300},
        {"id": "4", "token": "USDT", "side": "DEPOSIT", "amount": 70, "trans_status": "COMPLETED", "updated_time": 1790000000400},
        {"id": "5", "token": "NOBODY", "side": "DEPOSIT", "amount": 9, "trans_status": "COMPLETED", "updated_time": 1790000000500},
        {"id": "6", "token": "ETH", "side": "DEPOSIT", "amount": 9, "trans_status": "FAILED", "updated_time": 1790000000600},
    ]  # fmt: skip
    indices = [{"symbol": "PERP_ETH_USDC", "index_price": 2500.5}, {"symbol": BTC, "index_price": 60000}]

    async def answer(request: web.Request) -> web.Response:
        requested.append(request.path)
        rows = moved if request.path == "/v1/asset/history" else indices
        return web.json_response({"success": True, "timestamp": 1790000000000, "data": {"rows": rows}})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    client = client_for(str(server.make_url("")).rstrip("/"))
    await client._transport.open()
    try:
        since = datetime.now(UTC)
        found = await client.account_api.transfers(since)
        del moved[1:]
        await client.account_api.transfers(since)
    finally:
        await client.close()
        await server.close()
    assert {each.id: each.flow.amount for each in found} == {
        "1": Decimal(500),
        "2": Decimal(-5001),
        "3": Decimal(30000),
        "4": Decimal(70),
    }
    assert requested == ["/v1/asset/history", "/v1/public/futures", "/v1/asset/history"]


# --------------------------------------------------------------------------------------------------------- transfers

CREATED, UPDATED = 1_773_144_000_000, 1_773_144_060_000  # 12:00 and 12:01 UTC
PRICES = {"USDC": Decimal(1)}


def deposit(**changes: Any) -> dict[str, Any]:
    """A completed deposit as the exchange lists it."""
    row = {
        "id": "230707030600002",
        "side": "DEPOSIT",
        "token": "USDC",
        "amount": Decimal("555.5"),
        "fee": 0,
        "trans_status": "COMPLETED",
        "created_time": CREATED,
        "updated_time": UPDATED,
    }
    return row | changes


def test_a_deposit_counts_when_completed() -> None:
    """Before that the money is not in the account."""
    found = transfer_of(deposit(), PRICES)
    assert found is not None
    assert (found.flow.amount, found.flow.at) == (Decimal("555.5"), datetime(2026, 3, 10, 12, 1, tzinfo=UTC))


@pytest.mark.parametrize("status", ["PENDING", "PROCESSING", "COMPLETED", "PENDING_REBALANCE"])
def test_a_withdrawal_counts_from_its_request(status: str) -> None:
    """The exchange debits the account at once."""
    found = transfer_of(deposit(side="WITHDRAW", trans_status=status), PRICES)
    assert found is not None
    assert (found.flow.amount, found.flow.at) == (Decimal("-555.5"), datetime(2026, 3, 10, 12, 0, tzinfo=UTC))


def test_a_failed_withdrawal_moved_nothing() -> None:
    """It was debited at first, so it takes the place of the withdrawal that is stored."""
    found = transfer_of(deposit(side="WITHDRAW", trans_status="FAILED"), PRICES)
    assert found is not None
    assert found.flow.amount == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"trans_status": "PROCESSING"},
        {"trans_status": "FAILED"},
        {"side": "SOMETHING"},
        {"amount": None},
        {"id": ""},
        {"updated_time": None},
        {"token": "WITHOUT-PRICE"},
    ],
)
def test_transfers_without_effect_or_unreadable_are_left_out(changes: dict[str, Any]) -> None:
    """A wrongly parsed transfer would move the equity peak."""
    assert transfer_of(deposit(**changes), PRICES) is None


@pytest.mark.parametrize("lines", [3, 60])
async def test_closed_positions_since_a_time(exchange: OrderlyExchange, control: Control, lines: int) -> None:
    """Whether or not one read of the newest lines reaches the time."""
    await control("/paper/positions", {BTC: "1"})
    for _ in range(lines):
        await control("/paper/adl", {"symbol": BTC, "quantity": "0.01"})
    found = await exchange.account_api.closed_positions(datetime.now(UTC) - timedelta(minutes=1))
    assert [line.quantity for line in found] == [Decimal(number) / 100 for number in range(1, lines + 1)]
    assert [line.closed_at for line in found] == sorted(line.closed_at for line in found)
    assert await exchange.account_api.closed_positions(datetime.now(UTC) + timedelta(minutes=1)) == ()
