"""Control API: unsigned `/paper/...` paths that set prices, positions and faults and show the journal.

From this machine only, and from no page that its browser shows. POST bodies are JSON objects, sent as application/json; an invalid one gets
a 400 with one line of JSON and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from aiohttp import web

from kekbridge.connections.hosts import is_foreign_origin, is_loopback, is_our_name
from kekbridge.paper import responses
from kekbridge.paper.codec import ApiError, decode_object, encode, parse_flag, parse_integer, parse_number, parse_text
from kekbridge.paper.exchange import PAGED, SimulatedExchange
from kekbridge.paper.positions import CROSS
from kekbridge.paper.rate_limits import RequestLimiter
from kekbridge.paper.requests import MARGIN_MODES
from kekbridge.paper.settings import Options

_JSON = "application/json"
Control = Callable[[Mapping[str, Any], Mapping[str, str]], object]


class ControlApi:
    """Serves the control paths of one exchange."""

    def __init__(self, exchange: SimulatedExchange, limiter: RequestLimiter) -> None:
        self.exchange = exchange
        self.limiter = limiter

    def mount(self, app: web.Application) -> None:
        """Add the control paths to an application."""
        for method, path, control in (
            ("POST", "/paper/prices", self.prices),
            ("POST", "/paper/hints", self.hints),
            ("POST", "/paper/positions", self.positions),
            ("POST", "/paper/isolated-positions", self.isolated_positions),
            ("POST", "/paper/funding", self.funding),
            ("POST", "/paper/settle", self.settle),
            ("POST", "/paper/transfer", self.transfer),
            ("POST", "/paper/liquidate", self.liquidate),
            ("POST", "/paper/adl", self.adl),
            ("POST", "/paper/leverage", self.leverage),
            ("POST", "/paper/margin_mode", self.margin_mode),
            ("POST", "/paper/markets", self.markets),
            ("POST", "/paper/pages", self.pages),
            ("POST", "/paper/options", self.options),
            ("POST", "/paper/limits", self.limits),
            ("POST", "/paper/keys", self.keys),
            ("POST", "/paper/faults", self.faults),
            ("GET", "/paper/faults", self.armed),
            ("POST", "/paper/reset", self.reset),
            ("GET", "/paper/journal", self.list_events),
            ("GET", "/paper/state", self.show_state),
        ):
            app.router.add_route(method, path, self._endpoint(control))

    def _endpoint(self, control: Control) -> Callable[[web.Request], Any]:
        async def endpoint(request: web.Request) -> web.Response:
            try:
                _check_sender(request)
                body = decode_object(await request.read()) if request.method == "POST" else {}
                with self.exchange.state.transaction():
                    data = control(body, request.query)
            except ApiError as error:
                body = {"success": False, "code": error.code, "error": error.message}
                return web.Response(status=error.status, text=encode(body), content_type="application/json")
            return web.Response(text=encode(data), content_type="application/json")

        return endpoint

    # --- prices and positions ------------------------------------------------------------------------------

    def _numbers(self, body: Mapping[str, Any], *, above_zero: bool) -> dict[str, Decimal]:
        found: dict[str, Decimal] = {}
        for symbol, raw in body.items():
            self.exchange.state.instrument(symbol)
            value = parse_number(raw, symbol)
            if value is None or (above_zero and value <= 0):
                raise ApiError(-1005, f"{symbol} needs a number{' above 0' if above_zero else ''}.")
            found[symbol] = value
        return found

    def prices(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set mark prices by symbol until reset. Triggers, matching and liquidation are done before the response."""
        wanted = self._numbers(body, above_zero=True)
        for symbol, price in wanted.items():
            self.exchange.set_price(symbol, price, "override")
        return {symbol: str(price) for symbol, price in wanted.items()}

    def hints(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set prices that alerts contained where no better one is known; return the mark prices in force."""
        for symbol, price in self._numbers(body, above_zero=True).items():
            self.exchange.hint_price(symbol, price)
        return {symbol: str(self.exchange.state.marks[symbol].price) for symbol in body}

    def positions(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set all positions at the mark prices: symbol -> signed quantity; others are closed. Orders stay."""
        wanted = self._numbers(body, above_zero=False)
        self.exchange.set_positions(wanted)
        return {symbol: str(quantity) for symbol, quantity in wanted.items()}

    def isolated_positions(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set isolated positions: {"PERP_BTC_USDC": {"quantity": "-0.1", "leverage": 5}}. All others and all orders stay."""
        state = self.exchange.state
        wanted: dict[str, tuple[Decimal, int | None]] = {}
        for symbol, raw in body.items():
            state.instrument(symbol)
            fields = raw if isinstance(raw, dict) else {}
            quantity = parse_number(fields.get("quantity"), f"{symbol}: quantity")
            leverage = parse_integer(fields.get("leverage"), f"{symbol}: leverage")
            if quantity is None or (leverage is not None and not 1 <= leverage <= state.settings.max_leverage):
                raise ApiError(
                    -1005,
                    f"{symbol} needs a quantity, and at most a leverage from 1 to {state.settings.max_leverage} beside it.",
                )
            wanted[symbol] = quantity, leverage
        for symbol, (quantity, leverage) in wanted.items():
            self.exchange.set_isolated_position(symbol, quantity, leverage)
        return {symbol: str(quantity) for symbol, (quantity, _) in wanted.items()}

    # --- money ---------------------------------------------------------------------------------------------

    def funding(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Pay funding now: {"PERP_BTC_USDC": "0.0001"} (rate as a fraction; positive: longs pay)."""
        rates = self._numbers(body, above_zero=False)
        now = self.exchange.state.clock()
        for symbol, rate in rates.items():
            self.exchange.portfolio.pay_funding(symbol, rate, now)
        self.exchange.liquidation.check()
        return {symbol: str(rate) for symbol, rate in rates.items()}

    def settle(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Settle PnL to the balance, of one `symbol` or of all."""
        symbol = body.get("symbol")
        if symbol is not None:
            self.exchange.state.instrument(str(symbol))
        moved = self.exchange.portfolio.settle(symbol, self.exchange.state.clock())
        return {"settled_amount": str(moved)}

    def transfer(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Deposit USDC, or withdraw with a negative amount: {"amount": "5000"}."""
        amount = parse_number(body.get("amount"), "amount")
        if not amount:
            raise ApiError(-1005, "amount must be a number other than 0.")
        moved = self.exchange.portfolio.transfer(amount, self.exchange.state.clock())
        self.exchange.liquidation.check()
        return moved

    # --- what happens to the account elsewhere -------------------------------------------------------------

    def _market(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """The listed `symbol` and the `margin_mode` (CROSS) of a body."""
        symbol = str(body.get("symbol"))
        self.exchange.state.instrument(symbol)
        return symbol, parse_text(body.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS

    def liquidate(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Liquidate a position whatever its margin: {"symbol", "margin_mode": "CROSS", "tenths": 10}."""
        symbol, mode = self._market(body)
        self.exchange.liquidation.force(symbol, mode, parse_integer(body.get("tenths"), "tenths") or 10)
        return {"symbol": symbol, "margin_mode": mode}

    def adl(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Auto-deleverage a position: {"symbol", "margin_mode": "CROSS", "quantity": "0.1", "price": the mark}."""
        symbol, mode = self._market(body)
        quantity, price = parse_number(body.get("quantity"), "quantity"), parse_number(body.get("price"), "price")
        return _as_text(self.exchange.deleverage(symbol, mode, quantity or Decimal(0), price))

    def leverage(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set a leverage as the front end does: {"symbol", "margin_mode": "CROSS", "leverage": 5}."""
        symbol, mode = self._market(body)
        wanted = parse_integer(body.get("leverage"), "leverage")
        if wanted is None or not 1 <= wanted <= self.exchange.settings.max_leverage:
            raise ApiError(-1005, "leverage is missing or too large.")
        self.exchange.choose_leverage(symbol, mode, wanted)
        self.exchange.state.record_event("leverage_set", symbol=symbol, leverage=wanted, margin_mode=mode)
        return {"symbol": symbol, "margin_mode": mode, "leverage": wanted}

    def margin_mode(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set the default margin mode of a symbol as the front end does: {"symbol", "margin_mode": "ISOLATED"}."""
        symbol, mode = self._market(body)
        choice = self.exchange.state.symbol_settings[symbol]
        choice.margin_mode = mode
        self.exchange.state.save(choice)
        return {"symbol": symbol, "margin_mode": mode}

    def markets(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Change rules or the status of markets: {"PERP_BTC_USDC": {"base_tick": "0.01", "status": "DELISTED"}}; null unlists one."""
        for symbol, rules in body.items():
            if rules is not None and not isinstance(rules, Mapping):
                raise ApiError(-1005, f"{symbol[:40]} needs an object of rules, or null.")
            self.exchange.change_market(symbol, rules)
        return {symbol: rules is not None for symbol, rules in body.items()}

    def pages(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Set the largest page of lists, by kind: {"funding_fee": 60}; {} as documented."""
        sizes = {kind: parse_integer(size, kind) or 0 for kind, size in body.items()}
        if not sizes.keys() <= PAGED or any(size < 1 for size in sizes.values()):
            raise ApiError(-1005, f"sizes above 0 are needed, of {', '.join(sorted(PAGED))}.")
        self.exchange.page_sizes.clear()
        self.exchange.page_sizes.update(sizes)
        return sizes

    # --- switches ------------------------------------------------------------------------------------------

    def options(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Switch what is not known of Orderly: {"reduce_only_needs_position": true, "bracket_exits_count": true}."""
        chosen = {name: parse_flag(value, name) for name, value in body.items()}
        unknown = sorted(chosen.keys() - set(Options.__slots__))
        if unknown:
            raise ApiError(-1005, f"{unknown[0][:40]} is no option; expected {' or '.join(Options.__slots__)}.")
        for name, value in chosen.items():
            setattr(self.exchange.options, name, value)
        return asdict(self.exchange.options)

    def limits(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Switch rate limits on or off: {"enabled": false}."""
        if "enabled" in body:
            self.limiter.enabled = parse_flag(body["enabled"], "enabled")
        return {"enabled": self.limiter.enabled}

    def keys(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Register or change a key: {"orderly_key", "scope", "expiration" (ms), "status"}."""
        return self.exchange.set_key(body)

    def faults(self, body: Mapping[str, Any], _: Mapping[str, str]) -> object:
        """Arm faults; {} clears them. See faults.py."""
        self.exchange.arm_faults(body)
        return self.armed({}, {})

    def armed(self, _: Mapping[str, Any], __: Mapping[str, str]) -> object:
        """List the armed faults."""
        return {"faults": [fault.as_json() for fault in self.exchange.faults.armed]}

    def reset(self, _: Mapping[str, Any], __: Mapping[str, str]) -> object:
        """Start over with a fresh account, an empty journal, no faults and empty rate limit windows; IDs go on."""
        self.exchange.reset()
        self.limiter.reset()
        return {"reset": True}

    # --- inspection ----------------------------------------------------------------------------------------

    def list_events(self, _: Mapping[str, Any], query: Mapping[str, str]) -> object:
        """List journal events, oldest first; `?after=SEQ` only newer ones."""
        after = query.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            raise ApiError(-1005, "after must be a sequence number.")
        return self.exchange.state.journal.events(int(after))

    def show_state(self, _: Mapping[str, Any], __: Mapping[str, str]) -> object:
        """Show mark prices, balance, positions and open orders; numbers as text."""
        state, portfolio = self.exchange.state, self.exchange.portfolio
        margin = portfolio.margin()
        held = [position for position in state.positions.values() if position.qty]
        return _as_text(
            {
                "marks": {s: state.marks[s].price for s in state.instruments},
                "sources": {s: state.marks[s].source for s in state.instruments},
                "balance": state.account.balance,
                "account_value": margin.account_value,
                "free_collateral": margin.free,
                "positions": {p.symbol: p.qty for p in held if p.margin_mode == CROSS},
                "isolated_positions": {p.symbol: p.qty for p in held if p.margin_mode != CROSS},
                "position_rows": [
                    responses.position_json(portfolio, p, margin) for p in responses.visible_positions(portfolio)
                ],
                "open_orders": [responses.order_json(o) for o in state.open_orders.values()],
                "open_algo_orders": [
                    responses.algo_json(state, a)
                    for a in state.algos.values()
                    if a.parent_id == 0 and self.exchange.algo_orders.is_tree_open(a)
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


def _check_sender(request: web.Request) -> None:
    """Raise ApiError for a request from elsewhere, or one that a page in a browser on this machine may have sent."""
    authority = request.headers.get("Host", "")
    if not is_loopback(request.remote):
        raise ApiError(-1002, "The control paths accept requests from this machine only.", status=403)
    if not is_our_name(authority):
        raise ApiError(
            -1002, "The Host header names another machine; use 127.0.0.1 or localhost with this port.", status=421
        )
    if is_foreign_origin(request.headers.get("Origin"), authority):
        raise ApiError(-1002, "The request comes from a page of another origin.", status=403)
    if request.method == "POST" and request.can_read_body and request.content_type != _JSON:
        # Pages may send forms and plain text anywhere without asking.
        raise ApiError(
            -1005, f"found Content-Type {request.content_type}, expected {_JSON}; send it as a header.", status=415
        )
