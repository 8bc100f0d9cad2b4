"""Control API: the unsigned /paper/... paths."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from kekbridge.paper.control_api import ControlApi
from kekbridge.paper.faults import KINDS
from kekbridge.paper.rate_limits import RequestLimiter
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import Options
from tests.paper.trader import BTC, ETH, Trader
from tests.paths import ROOT


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


async def test_isolated_positions_are_set_beside_all_others(trader: Trader) -> None:
    """POST /paper/isolated-positions opens one as by hand in the front end; cross positions stay, and /paper/state shows both apart."""
    await trader.done(await trader.order(order_quantity="1"))
    await trader.control(
        "/paper/isolated-positions", {BTC: {"quantity": "-0.5", "leverage": 4}, ETH: {"quantity": "2"}}
    )
    rows = {(r["symbol"], r["margin_mode"]): r for r in (await trader.ok("GET", "/v1/positions"))["rows"]}
    assert {key: row["position_qty"] for key, row in rows.items()} == {
        (BTC, "CROSS"): 1,
        (BTC, "ISOLATED"): Decimal("-0.5"),
        (ETH, "ISOLATED"): 2,
    }
    assert (rows[BTC, "ISOLATED"]["leverage"], rows[BTC, "CROSS"]["leverage"]) == (4, 10)
    _, state = await trader.raw("GET", "/paper/state")
    assert (state["positions"], state["isolated_positions"]) == ({BTC: "1"}, {BTC: "-0.5", ETH: "2"})
    refused: list[Any] = [
        {BTC: "1"},
        {BTC: {"leverage": 3}},
        {BTC: {"quantity": "1", "leverage": 1000}},
        {"PERP_X_USDC": {}},
    ]
    for bad in refused:
        assert (await trader.raw("POST", "/paper/isolated-positions", bad))[0] == 400


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


async def test_ids_go_on_after_a_reset(trader: Trader) -> None:
    """An account is emptied, but no ID of an order or a trade comes again, nor a position in the stream's order."""
    before = await trader.done(await trader.order())
    (trade,) = (await trader.ok("GET", "/v1/trades"))["rows"]
    await trader.control("/paper/reset")
    after = await trader.done(await trader.order())
    (later,) = (await trader.ok("GET", "/v1/trades"))["rows"]
    assert after["order_id"] > before["order_id"]
    assert later["id"] > trade["id"]
    assert later["match_id"] > trade["match_id"]


async def test_options_are_switched_by_name(trader: Trader) -> None:
    """POST /paper/options returns all options; an unknown one is named and changes nothing."""
    off = {"reduce_only_needs_position": False, "bracket_exits_count": False}
    assert await trader.control("/paper/options") == off
    on = {"bracket_exits_count": True}
    assert await trader.control("/paper/options", on) == off | on
    status, answer = await trader.raw("POST", "/paper/options", {"bracket_exits_count": False, "other": True})
    assert (status, "other is no option" in answer["error"]) == (400, True)
    assert await trader.control("/paper/options") == off | on


async def test_the_document_names_every_path_and_fault(paper: PaperExchange) -> None:
    """docs/internals/paper.md names every control path, option and fault."""
    text = (ROOT / "kekbridge/docs/internals/paper.md").read_text(encoding="utf-8")
    api, app = ControlApi(paper.exchange, RequestLimiter(enabled=False)), web.Application()
    api.mount(app)
    paths = {
        f"`{route.method} {route.resource.canonical}`"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    names = {f"`{name}`" for name in (*KINDS, *Options.__slots__)}
    assert len(paths) > 10
    assert [name for name in sorted(paths | names) if name not in text] == []


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


async def test_a_liquidation_can_be_forced(trader: Trader) -> None:
    """POST /paper/liquidate takes tenths of a position over whatever its margin; list and journal name it, with what it realized."""
    await trader.done(await trader.order(order_quantity="1"))
    await trader.prices(BTC="64000")
    await trader.control("/paper/liquidate", {"symbol": BTC, "tenths": 4})
    assert await trader.position() == Decimal("0.6")
    (entry,) = (await trader.ok("GET", "/v1/liquidations"))["rows"]
    assert entry["positions_by_perp"][0]["position_qty"] == Decimal("0.4")
    (event,) = [one for one in await trader.journal() if one["event"] == "liquidation"]
    assert Decimal(event["positions"][0]["realized_pnl"]) == -400
    assert (await trader.raw("POST", "/paper/liquidate", {"symbol": ETH}))[0] == 400


async def test_auto_deleveraging_takes_a_position_over(trader: Trader) -> None:
    """POST /paper/adl reduces a position at a price without a trade; the position history says adl, in parts and at the end."""
    await trader.done(await trader.order(order_quantity="1"))
    for quantity in ("0.4", "0.6"):
        await trader.control("/paper/adl", {"symbol": BTC, "quantity": quantity, "price": "66000"})
    assert await trader.position() == 0
    rows = (await trader.ok("GET", "/v1/position_history?limit=10"))["rows"]
    assert [(row["type"], row["status"], row["closed_position_qty"]) for row in rows] == [
        ("adl", "closed", 1),
        ("adl", "partial_closed", Decimal("0.4")),
    ]
    assert len((await trader.ok("GET", "/v1/trades"))["rows"]) == 1


async def test_settings_change_elsewhere(trader: Trader) -> None:
    """POST /paper/leverage and /paper/margin_mode change what the front end changes, without a signed request."""
    await trader.control("/paper/leverage", {"symbol": BTC, "leverage": 3})
    await trader.control("/paper/leverage", {"symbol": BTC, "leverage": 7, "margin_mode": "ISOLATED"})
    await trader.control("/paper/margin_mode", {"symbol": BTC, "margin_mode": "ISOLATED"})
    assert (await trader.ok("GET", f"/v1/client/leverage?symbol={BTC}"))["leverage"] == 3
    assert (await trader.ok("GET", f"/v1/client/leverage?symbol={BTC}&margin_mode=ISOLATED"))["leverage"] == 7
    modes = (await trader.ok("GET", "/v1/client/margin_modes"))["rows"]
    assert next(row for row in modes if row["symbol"] == BTC)["default_margin_mode"] == "ISOLATED"
    assert (await trader.raw("POST", "/paper/leverage", {"symbol": BTC}))[0] == 400


async def test_markets_change_while_running(trader: Trader) -> None:
    """POST /paper/markets: a coarser step refuses finer sizes, a status refuses orders, null takes a market off the list."""
    await trader.control("/paper/markets", {BTC: {"base_min": "0.01", "base_tick": "0.01"}})
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.015"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1104)
    await trader.control("/paper/markets", {BTC: {"status": "DELISTED"}})
    assert await trader.rejected("POST", "/v1/order", {**body, "order_quantity": "0.02"}) == (400, -1005)
    await trader.control("/paper/markets", {ETH: None})
    listed = {row["symbol"] for row in (await trader.ok("GET", "/v1/public/info"))["rows"]}
    assert ETH not in listed
    assert BTC in listed
    assert (await trader.raw("POST", "/paper/markets", {BTC: {"nothing": 1}}))[0] == 400


async def test_pages_can_be_smaller_than_asked_for(trader: Trader) -> None:
    """POST /paper/pages limits the rows of a page silently; the page's own figures say so."""
    for _ in range(3):
        await trader.done(await trader.order())
    await trader.control("/paper/pages", {"trades": 2})
    found = await trader.ok("GET", "/v1/trades?size=500")
    assert len(found["rows"]) == 2
    assert (found["meta"]["total"], found["meta"]["records_per_page"]) == (3, 2)
    assert (await trader.raw("POST", "/paper/pages", {"nothing": 2}))[0] == 400
