"""Control paths and public answers of the paper exchange."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from kekbridge.paper.control_api import _is_loopback
from kekbridge.paper.server import PaperExchange
from tests.paper.trader import BTC, ETH, Trader


async def test_prices_answer_with_the_marks_and_refuse_unknown_symbols(trader: Trader) -> None:
    """POST /paper/prices sets marks or, with one bad symbol, nothing."""
    assert await trader.control("/paper/prices", {BTC: "66000", ETH: 1900}) == {BTC: "66000", ETH: "1900"}
    status, answer = await trader.raw("POST", "/paper/prices", {BTC: "1", "PERP_X_USDC": "2"})
    assert (status, "PERP_X_USDC" in answer["error"]) == (400, True)
    _, told = await trader.raw("GET", f"/v1/public/futures/{BTC}")
    assert told["data"]["mark_price"] == 66000
    for bad in ({BTC: "0"}, {BTC: None}, {BTC: "x"}, [1]):
        assert (await trader.raw("POST", "/paper/prices", bad))[0] == 400


async def test_positions_are_set_at_the_mark_and_value_does_not_jump(trader: Trader) -> None:
    """POST /paper/positions replaces all positions; {} is flat; the account keeps its value."""
    await trader.done(await trader.order(order_quantity="1"))
    value = (await trader.ok("GET", "/v1/positions"))["account_value"]
    await trader.control("/paper/positions", {ETH: "-2"})
    rows = (await trader.ok("GET", "/v1/positions"))["rows"]
    assert [(r["symbol"], r["position_qty"], r["average_open_price"]) for r in rows] == [(ETH, -2, 1800)]
    assert (await trader.ok("GET", "/v1/positions"))["account_value"] == value
    await trader.control("/paper/positions", {})
    assert (await trader.ok("GET", "/v1/positions"))["rows"] == []


async def test_reset_is_a_fresh_account(trader: Trader) -> None:
    """POST /paper/reset: flat, no orders, start balance and prices, empty journal, no faults."""
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
    assert await trader.refused("GET", "/v1/client/order/kb-r") == (400, -1006)


async def test_journal_is_text_numbers_oldest_first(trader: Trader) -> None:
    """Numbers are decimal strings; `after` pages on; t is ms."""
    await trader.done(await trader.order(client_order_id="kb-j", order_quantity="0.010"))
    events = await trader.journal()
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    fill = next(e for e in events if e["event"] == "fill")
    assert (fill["quantity"], fill["price"], fill["side"], fill["client_order_id"]) == ("0.01", "65000", "BUY", "kb-j")
    assert isinstance(fill["t"], int)
    _, later = await trader.raw("GET", f"/paper/journal?after={events[0]['seq']}")
    assert later == events[1:]


async def test_state_summary(trader: Trader) -> None:
    """GET /paper/state: marks, positions and open orders, numbers as text."""
    await trader.control("/paper/positions", {BTC: "0.5"})
    await trader.order(order_type="LIMIT", order_price="64000")
    _, state = await trader.raw("GET", "/paper/state")
    assert (state["marks"][BTC], state["positions"], len(state["open_orders"])) == ("65000", {BTC: "0.5"}, 1)


async def test_hints_give_way_to_overrides(trader: Trader, exchange: PaperExchange) -> None:
    """A hinted price moves a mark that nobody else sets, never one that was overridden."""
    assert await trader.control("/paper/hints", {BTC: "64321"}) == {BTC: "64321"}
    await trader.prices(BTC="65000")
    assert await trader.control("/paper/hints", {BTC: "1000"}) == {BTC: "65000"}
    assert exchange.hint_price(ETH, Decimal("1777")) is True
    assert exchange.hint_price("PERP_NOPE_USDC", Decimal(1)) is False


async def test_rate_limit_switch(trader: Trader) -> None:
    """POST /paper/limits switches the limits on: the sixth leverage change of a minute is 429."""
    await trader.control("/paper/limits", {"enabled": True})
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}
    answers = [(await trader.call("POST", "/v1/client/leverages", {}))[0] for _ in range(6)]
    assert answers == [400] * 5 + [429]
    await trader.control("/paper/limits", {"enabled": False})
    assert (await trader.call("POST", "/v1/client/leverages", {}))[0] == 400
    assert (await trader.call("POST", "/v1/order", body))[0] == 200


async def test_unknown_paths_and_wrong_content_types_are_json(trader: Trader) -> None:
    """Errors keep the exchange's shape; a wrong content type is -1005, a charset suffix is fine."""
    status, answer = await trader.raw("GET", "/v1/nothing")
    assert (status, answer["success"]) == (404, False)
    text = json.dumps({"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"})
    for kind, expected in (("text/plain", 400), ("application/json;charset=utf-8", 200)):
        headers = {**trader.headers("POST", "/v1/order", text), "Content-Type": kind}
        async with trader.session.post(trader.base_url + "/v1/order", data=text, headers=headers) as one:
            assert one.status == expected


async def test_public_data(trader: Trader) -> None:
    """What clients load before anything else: rules, prices, tokens, chains."""
    _, info = await trader.raw("GET", "/v1/public/info")
    rows = {row["symbol"]: row for row in info["data"]["rows"]}
    assert len(rows) >= 40
    assert (rows[BTC]["base_tick"], rows[BTC]["quote_tick"]) == (Decimal("0.00001"), Decimal("0.1"))
    _, futures = await trader.raw("GET", "/v1/public/futures")
    marks = {row["symbol"]: row["mark_price"] for row in futures["data"]["rows"]}
    assert set(marks) == set(rows)
    for symbol, rule in rows.items():
        assert rule["quote_min"] < marks[symbol] < rule["quote_max"]
        assert marks[symbol] % rule["quote_tick"] == 0
        assert rule["base_min"] % rule["base_tick"] == 0
        assert rule["base_max"] % rule["base_tick"] == 0
    for path in ("token", "chain_info", "funding_rates", "config", "leverage", "announcement", "broker/name"):
        status, answer = await trader.raw("GET", f"/v1/public/{path}")
        assert (status, answer["success"]) == (200, True), path
    for path in (
        f"public/market_trades?symbol={BTC}",
        f"public/funding_rate_history?symbol={BTC}",
        f"public/funding_rate/{BTC}",
        "registration_nonce",
        "ip_info",
    ):
        assert (await trader.raw("GET", f"/v1/{path}"))[1]["success"] is True, path
    _, history = await trader.raw("GET", f"/v1/tv/kline_history?symbol={BTC}&resolution=60&limit=3")
    assert (history["s"], len(history["t"])) == ("ok", 3)


async def test_order_book_and_kline_are_signed(trader: Trader) -> None:
    """Trap 9: these two need a signature."""
    book = await trader.ok("GET", f"/v1/orderbook/{BTC}?max_level=5")
    assert len(book["asks"]) == len(book["bids"]) == 5
    assert book["asks"][0]["price"] > 65000 > book["bids"][0]["price"]
    assert len((await trader.ok("GET", f"/v1/kline?symbol={BTC}&type=1m&limit=2"))["rows"]) == 2
    assert (await trader.raw("GET", f"/v1/orderbook/{BTC}"))[0] == 401


@pytest.mark.parametrize(
    ("remote", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("192.168.1.5", False), ("", False)],
    ids=["v4", "v6", "mapped", "lan", "none"],
)
def test_control_paths_are_for_loopback_only(remote: str, allowed: bool) -> None:
    """Only peers on this machine may touch the control paths."""
    assert _is_loopback(remote) is allowed
