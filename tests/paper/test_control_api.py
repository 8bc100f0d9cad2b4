"""Control API: the unsigned /paper/... paths."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kekbridge.paper.server import PaperExchange
from tests.paper.trader import BTC, ETH, Trader


async def test_prices_are_set_all_or_none(trader: Trader) -> None:
    """POST /paper/prices sets all mark prices, or none if one symbol or price is invalid."""
    assert await trader.control("/paper/prices", {BTC: "66000", ETH: 1900}) == {BTC: "66000", ETH: "1900"}
    status, answer = await trader.raw("POST", "/paper/prices", {BTC: "1", "PERP_X_USDC": "2"})
    assert (status, "PERP_X_USDC" in answer["error"]) == (400, True)
    _, response = await trader.raw("GET", f"/v1/public/futures/{BTC}")
    assert response["data"]["mark_price"] == 66000
    for bad in ({BTC: "0"}, {BTC: None}, {BTC: "x"}, [1]):
        assert (await trader.raw("POST", "/paper/prices", bad))[0] == 400


async def test_positions_are_set_without_a_change_of_account_value(trader: Trader) -> None:
    """POST /paper/positions replaces all positions ({}: none); the account value stays the same."""
    await trader.done(await trader.order(order_quantity="1"))
    value = (await trader.ok("GET", "/v1/positions"))["account_value"]
    await trader.control("/paper/positions", {ETH: "-2"})
    rows = (await trader.ok("GET", "/v1/positions"))["rows"]
    assert [(r["symbol"], r["position_qty"], r["average_open_price"]) for r in rows] == [(ETH, -2, 1800)]
    assert (await trader.ok("GET", "/v1/positions"))["account_value"] == value
    await trader.control("/paper/positions", {})
    assert (await trader.ok("GET", "/v1/positions"))["rows"] == []


async def test_reset_is_a_fresh_account(trader: Trader) -> None:
    """POST /paper/reset: no positions, orders or faults, start balance and prices, empty journal."""
    await trader.prices(BTC="70000")
    await trader.done(await trader.order(client_order_id="kb-r"))
    await trader.order(order_type="LIMIT", order_price="69000")
    await trader.control("/paper/faults", {"fault": "no_fill"})
    await trader.control("/paper/reset")
    assert await trader.journal() == []
    assert (await trader.ok("GET", "/v1/orders"))["rows"] == []
    assert (await trader.ok("GET", "/v1/positions"))["total_collateral_value"] == 100_000
    assert (await trader.raw("GET", f"/v1/public/futures/{BTC}"))[1]["data"]["mark_price"] == 65000
    assert await trader.raw("GET", "/paper/faults") == (200, {"faults": []})
    assert await trader.rejected("GET", "/v1/client/order/kb-r") == (400, -1006)


async def test_journal_is_text_numbers_oldest_first(trader: Trader) -> None:
    """Events are oldest first with numbers as text and t in ms; `after` returns later ones."""
    await trader.done(await trader.order(client_order_id="kb-j", order_quantity="0.010"))
    events = await trader.journal()
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    fill = next(e for e in events if e["event"] == "fill")
    assert (fill["quantity"], fill["price"], fill["side"], fill["client_order_id"]) == ("0.01", "65000", "BUY", "kb-j")
    assert isinstance(fill["t"], int)
    _, schedule = await trader.raw("GET", f"/paper/journal?after={events[0]['seq']}")
    assert schedule == events[1:]


async def test_state_summary(trader: Trader) -> None:
    """GET /paper/state shows mark prices, positions and open orders, numbers as text."""
    await trader.control("/paper/positions", {BTC: "0.5"})
    await trader.order(order_type="LIMIT", order_price="64000")
    _, state = await trader.raw("GET", "/paper/state")
    assert (state["marks"][BTC], state["positions"], len(state["open_orders"])) == ("65000", {BTC: "0.5"}, 1)


async def test_hints_give_way_to_overrides(trader: Trader, paper: PaperExchange) -> None:
    """A hint sets a mark price unless it was overridden."""
    assert await trader.control("/paper/hints", {BTC: "64321"}) == {BTC: "64321"}
    await trader.prices(BTC="65000")
    assert await trader.control("/paper/hints", {BTC: "1000"}) == {BTC: "65000"}
    assert paper.hint_price(ETH, Decimal("1777")) is True
    assert paper.hint_price("PERP_NOPE_USDC", Decimal(1)) is False


async def test_rate_limit_switch(trader: Trader) -> None:
    """POST /paper/limits switches the rate limits on: the sixth leverage change of a minute is 429."""
    await trader.control("/paper/limits", {"enabled": True})
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}
    answers = [(await trader.call("POST", "/v1/client/leverages", {}))[0] for _ in range(6)]
    assert answers == [400] * 5 + [429]
    await trader.control("/paper/limits", {"enabled": False})
    assert (await trader.call("POST", "/v1/client/leverages", {}))[0] == 400
    assert (await trader.call("POST", "/v1/order", body))[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),  # DNS rebinding: its name resolves to this machine
        ({"Host": "127.0.0.1.evil.example:80"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
    ],
)
async def test_pages_in_a_browser_change_nothing(trader: Trader, headers: dict[str, str], status: int) -> None:
    """Every control path refuses what a foreign page can make the trader's browser send; nothing is changed."""
    answered, body = await trader.raw("POST", "/paper/prices", {BTC: "1"}, **headers)
    assert (answered, body["success"]) == (status, False)
    if "Content-Type" not in headers:
        assert (await trader.raw("GET", "/paper/journal", **headers))[0] == status
    assert (await trader.raw("GET", "/paper/state"))[1]["marks"][BTC] == "65000"


async def test_this_machine_may_use_them(trader: Trader) -> None:
    """Under each of its names, from a page of the same origin, and with a parameter in the Content-Type."""
    authority = trader.base_url.removeprefix("http://")
    port = authority.rpartition(":")[2]
    for headers in (
        {"Host": f"localhost:{port}"},
        {"Origin": trader.base_url},
        {"Content-Type": "application/json; charset=utf-8"},
    ):
        assert (await trader.raw("POST", "/paper/prices", {BTC: "66000"}, **headers))[0] == 200
    async with trader.session.post(trader.base_url + "/paper/reset") as answer:
        assert answer.status == 200
