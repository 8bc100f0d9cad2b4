"""The unsigned `/paper/...` paths for tests and tinkering: prices, positions, faults, journal. Loopback only.

POST bodies are JSON objects; a bad one is a 400 with one line of JSON, and then nothing has changed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from aiohttp import web

from kekbridge.paper import responses as views
from kekbridge.paper.codec import Refusal, decode_object, encode, flag, number
from kekbridge.paper.exchange import Venue
from kekbridge.paper.rate_limits import Limiter

Control = Callable[[Mapping[str, Any], Mapping[str, str]], object]


class Controls:
    """The control paths of one venue."""

    def __init__(self, venue: Venue, limiter: Limiter) -> None:
        self.venue = venue
        self.limiter = limiter

    def mount(self, app: web.Application) -> None:
        """Add the control paths to an application."""
        for method, path, control in (
            ("POST", "/paper/prices", self.prices),
            ("POST", "/paper/hints", self.hints),
            ("POST", "/paper/positions", self.positions),
            ("POST", "/paper/funding", self.funding),
            ("POST", "/paper/settle", self.settle),
            ("POST", "/paper/transfer", self.transfer),
            ("POST", "/paper/limits", self.limits),
            ("POST", "/paper/keys", self.keys),
            ("POST", "/paper/faults", self.faults),
            ("GET", "/paper/faults", self.armed),
            ("POST", "/paper/reset", self.reset),
            ("GET", "/paper/journal", self.journal),
            ("GET", "/paper/state", self.state),
        ):
            app.router.add_route(method, path, self._endpoint(control))

    def _endpoint(self, control: Control) -> Callable[[web.Request], Any]:
        async def endpoint(request: web.Request) -> web.Response:
            try:
                if not _is_loopback(request.remote):
                    raise Refusal(-1002, "The control paths answer to this machine only.", status=403)
                body = decode_object(await request.read()) if request.method == "POST" else {}
                with self.venue.engine.transaction():
                    answer = control(body, request.query)
            except Refusal as refusal:
                told = {"success": False, "code": refusal.code, "error": refusal.message}
                return web.Response(status=refusal.status, text=encode(told), content_type="application/json")
            return web.Response(text=encode(answer), content_type="application/json")

        return endpoint

    # --- prices and positions ------------------------------------------------------------------------------

    def _numbers(self, body: Mapping[str, Any], *, above_zero: bool) -> dict[str, Decimal]:
        found: dict[str, Decimal] = {}
        for symbol, raw in body.items():
            self.venue.engine.instrument(symbol)
            value = number(raw, symbol)
            if value is None or (above_zero and value <= 0):
                raise Refusal(-1005, f"{symbol} needs a number{' above 0' if above_zero else ''}.")
            found[symbol] = value
        return found

    def prices(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set marks; they stick until reset. Triggers, matching and liquidation are done on answer."""
        wanted = self._numbers(body, above_zero=True)
        for symbol, price in wanted.items():
            self.venue.set_price(symbol, price, "override")
        return {symbol: str(price) for symbol, price in wanted.items()}

    def hints(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Prices that alerts told: used where nothing better is known. Answers with the marks in force."""
        for symbol, price in self._numbers(body, above_zero=True).items():
            self.venue.hint_price(symbol, price)
        return {symbol: str(self.venue.engine.marks[symbol].price) for symbol in body}

    def positions(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set all positions at the current marks; what is not named becomes flat. Orders stay."""
        wanted = self._numbers(body, above_zero=False)
        self.venue.set_positions(wanted)
        return {symbol: str(quantity) for symbol, quantity in wanted.items()}

    # --- money ---------------------------------------------------------------------------------------------

    def funding(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Make a funding payment happen now: {"PERP_BTC_USDC": "0.0001"} (rate; positive: longs pay)."""
        rates = self._numbers(body, above_zero=False)
        now = self.venue.engine.clock()
        for symbol, rate in rates.items():
            self.venue.clearing.pay_funding(symbol, rate, now)
        self.venue.liquidation.check()
        return {symbol: str(rate) for symbol, rate in rates.items()}

    def settle(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Settle unsettled PnL into the balance, of one `symbol` or of all."""
        symbol = body.get("symbol")
        if symbol is not None:
            self.venue.engine.instrument(str(symbol))
        moved = self.venue.clearing.settle(symbol, self.venue.engine.clock())
        return {"settled_amount": str(moved)}

    def transfer(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """A deposit, or with a negative amount a withdrawal, completed at once: {"amount": "5000"}."""
        amount = number(body.get("amount"), "amount")
        if not amount:
            raise Refusal(-1005, "amount must be a number other than 0.")
        moved = self.venue.clearing.transfer(amount, self.venue.engine.clock())
        self.venue.liquidation.check()
        return moved

    # --- switches ------------------------------------------------------------------------------------------

    def limits(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Switch rate limits: {"enabled": false}."""
        if "enabled" in body:
            self.limiter.enabled = flag(body["enabled"], "enabled")
        return {"enabled": self.limiter.enabled}

    def keys(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Register or change a key: {"orderly_key", "scope", "expiration" (ms), "status"}."""
        return self.venue.set_key(body)

    def faults(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Arm faults; {} clears them (see `faults`)."""
        self.venue.arm(body)
        return self.armed({}, {})

    def armed(self, _: Mapping[str, Any], __: Mapping[str, str]) -> object:
        """What is armed."""
        return {"faults": [fault.shown() for fault in self.venue.faults.armed]}

    def reset(self, _: Mapping[str, Any], __: Mapping[str, str]) -> object:
        """Fresh account, empty journal, no faults; rate windows start anew."""
        self.venue.reset()
        self.limiter.forget()
        return {"reset": True}

    # --- looking in ----------------------------------------------------------------------------------------

    def journal(self, _: Mapping[str, Any], query: Mapping[str, str]) -> object:
        """Every event, oldest first; `?after=SEQ` gives the newer ones only."""
        after = query.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            raise Refusal(-1005, "after must be a sequence number.")
        return self.venue.engine.ledger.journal(int(after))

    def state(self, _: Mapping[str, Any], __: Mapping[str, str]) -> object:
        """Marks, balance, positions, open orders; numbers as text."""
        engine, clearing = self.venue.engine, self.venue.clearing
        margin = clearing.margin()
        return _as_text(
            {
                "marks": {s: engine.marks[s].price for s in engine.instruments},
                "sources": {s: engine.marks[s].source for s in engine.instruments},
                "balance": engine.account.balance,
                "account_value": margin.account_value,
                "free_collateral": margin.free,
                "positions": {f"{p.symbol}": p.qty for p in engine.positions.values() if p.qty},
                "position_rows": [views.position_view(clearing, p, margin) for p in views.visible_positions(clearing)],
                "open_orders": [views.order_view(o) for o in engine.open_orders.values()],
                "open_algo_orders": [
                    views.algo_view(engine, a)
                    for a in engine.algos.values()
                    if a.parent_id == 0 and self.venue.algos.is_alive(a)
                ],
            }
        )


def _as_text(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value) if value else "0"
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value


def _is_loopback(remote: str | None) -> bool:
    try:
        address = ipaddress.ip_address((remote or "").split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
