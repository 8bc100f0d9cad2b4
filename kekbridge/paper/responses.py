"""Bodies of REST responses, with Orderly's snake_case names. See docs/internals/orderly.md, sections 4 to 9."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from kekbridge.paper import money
from kekbridge.paper.models import ZERO, AlgoNode, HistoryEntry, PaperMark, PaperOrder, PaperPosition, PaperTrade
from kekbridge.paper.positions import CROSS, Portfolio
from kekbridge.paper.settings import PAPER_USER_ID
from kekbridge.paper.state import ExchangeState

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def page(
    rows: Sequence[Any], number: int, size: int, *, show: Callable[[Any], object] | None = None
) -> dict[str, object]:
    """Return page `number` (from 1) of rows, `size` rows per page, with Orderly's meta block; `show` makes the JSON of a row."""
    start = (number - 1) * size
    shown = rows[start : start + size]
    return {
        "rows": shown if show is None else [show(row) for row in shown],
        "meta": {"total": len(rows), "records_per_page": size, "current_page": number},
    }


# --- orders ------------------------------------------------------------------------------------------------


def order_status(order: PaperOrder, hidden: Sequence[PaperTrade] = ()) -> str:
    """Return the order's status without the `hidden` fills (fault read_lag)."""
    if not hidden:
        return order.status
    return "PARTIAL_FILLED" if order.executed > sum(trade.quantity for trade in hidden) else "NEW"


def order_json(order: PaperOrder, hidden: Sequence[PaperTrade] = ()) -> dict[str, object]:
    """Return the order object without the `hidden` fills (fault read_lag)."""
    executed, fee, realized, value = order.executed, order.fee, order.realized, order.value
    if hidden:
        executed -= sum((trade.quantity for trade in hidden), ZERO)
        fee -= sum((trade.fee for trade in hidden), ZERO)
        realized -= sum((trade.realized for trade in hidden), ZERO)
        value -= sum((trade.price * trade.quantity for trade in hidden), ZERO)
    return {
        "order_id": order.order_id,
        "user_id": PAPER_USER_ID,
        "price": order.price,
        "type": order.type,
        "quantity": order.quantity,
        "amount": order.amount,
        "executed": executed,
        "executed_quantity": executed,
        "total_executed_quantity": executed,
        "visible": order.visible,
        "visible_quantity": order.visible,
        "symbol": order.symbol,
        "side": order.side,
        "status": order_status(order, hidden),
        "total_fee": fee,
        "fee_asset": "USDC",
        "client_order_id": order.client_order_id,
        "average_executed_price": money.rounded(value / executed) if executed else 0,
        "created_time": order.created,
        "updated_time": order.updated,
        "realized_pnl": realized,
        "reduce_only": order.reduce_only,
        "order_tag": order.order_tag,
        "margin_mode": order.margin_mode,
    }


def created_order_json(order: PaperOrder) -> dict[str, object]:
    """Return the response to a create: an ID, and nothing about fills."""
    by_amount = order.amount is not None
    return {
        "order_id": order.order_id,
        "client_order_id": order.client_order_id,
        "order_type": order.type,
        "order_price": order.price,
        "order_quantity": None if by_amount else order.quantity,
        "order_amount": order.amount,
        "error_message": "none",
    }


def trade_json(trade: PaperTrade) -> dict[str, object]:
    """Return the trade object."""
    return {
        "id": trade.trade_id,
        "symbol": trade.symbol,
        "fee": trade.fee,
        "fee_asset": "USDC",
        "side": trade.side,
        "order_id": trade.order_id,
        "executed_price": trade.price,
        "executed_quantity": trade.quantity,
        "executed_timestamp": trade.at,
        "is_maker": 1 if trade.is_maker else 0,
        "realized_pnl": trade.realized,
        "match_id": trade.match_id,
        "margin_mode": trade.margin_mode,
        "order_enum_fee": None,
        "order_enum_fee_rate": None,
    }


def algo_json(state: ExchangeState, node: AlgoNode) -> dict[str, object]:
    """Return the algo order object with its children, recursively."""
    root = state.algos[node.root_id]
    return {
        "algo_order_id": node.algo_order_id,
        "parent_algo_order_id": node.parent_id,
        "root_algo_order_id": node.root_id,
        "client_order_id": node.client_order_id,
        "symbol": node.symbol,
        "algo_type": node.algo_type,
        "algo_status": node.status,
        "root_algo_order_status": root.status,
        "root_algo_status": root.status,
        "side": node.side,
        "type": node.type,
        "price": node.price,
        "quantity": node.quantity,
        "visible_quantity": node.quantity,
        "trigger_price": node.trigger_price,
        "trigger_price_type": "MARK_PRICE",
        "trigger_time": node.trigger_time or None,
        "trigger_status": node.trigger_status or None,
        "is_triggered": node.is_triggered,
        "is_activated": node.is_activated,
        "reduce_only": node.reduce_only,
        "executed_quantity": node.executed,
        "total_executed_quantity": node.executed,
        "average_executed_price": money.rounded(node.average),
        "total_fee": node.fee,
        "fee_asset": "USDC",
        "realized_pnl": node.realized,
        "order_tag": node.order_tag,
        "margin_mode": node.margin_mode,
        "activated_price": node.activated_price,
        "callback_rate": node.callback_rate,
        "callback_value": node.callback_value,
        "extreme_price": node.extreme_price,
        "created_time": node.created,
        "updated_time": node.updated,
        "child_orders": [algo_json(state, child) for child in state.children.get(node.algo_order_id, ())],
    }


# --- account -----------------------------------------------------------------------------------------------


def position_json(portfolio: Portfolio, position: PaperPosition, margin: money.MarginSummary) -> dict[str, object]:
    """Return the position object."""
    state = portfolio.state
    instrument, mark = state.instruments[position.symbol], state.marks[position.symbol]
    leverage = state.leverage(position.symbol, position.margin_mode)
    notional = abs(position.qty) * mark.price
    longs, shorts = portfolio.open_quantities(position.symbol, position.margin_mode)
    with_orders = max(abs(position.qty), abs(position.qty + longs), abs(position.qty + shorts)) * mark.price
    pnl = money.unsettled_pnl(position, mark.price, mark.funding_sum)
    mmr = money.maintenance_margin_rate(instrument, notional)
    liquidation = ZERO
    if position.qty:
        if position.margin_mode == CROSS:
            collateral, need = margin.collateral, margin.maintenance
        else:
            collateral, need = position.margin + pnl, mmr * notional
        liquidation = money.liquidation_price(mark.price, position.qty, mmr, collateral, need)
    traded = state.traded[position.symbol, position.margin_mode].since(state.clock() - DAY_MS)
    unrealized = position.qty * (mark.price - position.average)
    return {
        "symbol": position.symbol,
        "position_qty": position.qty,
        "average_open_price": money.rounded(position.average),
        "cost_position": position.cost,
        "settle_price": money.rounded(position.cost / position.qty) if position.qty else 0,
        "mark_price": mark.price,
        "unsettled_pnl": pnl,
        "est_liq_price": money.rounded(liquidation),
        "imr": money.rounded(money.initial_margin_rate(instrument, leverage, notional)),
        "mmr": money.rounded(mmr),
        "IMR_withdraw_orders": money.rounded(money.initial_margin_rate(instrument, leverage, with_orders)),
        "MMR_with_orders": money.rounded(money.maintenance_margin_rate(instrument, with_orders)),
        "pending_long_qty": longs,
        "pending_short_qty": shorts,
        "last_sum_unitary_funding": position.last_funding,
        "accrued_funding_fee": money.accrued_funding(position, mark.funding_sum),
        "pnl_24_h": traded.realized + unrealized,
        "fee_24_h": traded.fees,
        "leverage": leverage,
        "margin_mode": position.margin_mode,
        "margin": money.rounded(position.margin),
        "seq": position.seq,
        "timestamp": position.opened or position.updated,
        "updated_time": position.updated,
    }


def visible_positions(portfolio: Portfolio) -> list[PaperPosition]:
    """Return the positions that Orderly lists: those with a quantity or with unsettled PnL."""
    listed = portfolio.state.instruments
    return [p for p in portfolio.state.positions.values() if p.symbol in listed and (p.qty or p.cost)]


def totals_json(portfolio: Portfolio, margin: money.MarginSummary) -> dict[str, object]:
    """Return the account totals of `/v1/positions`."""
    shown = money.rounded
    rate = margin.initial / margin.notional if margin.notional else ZERO
    rate_orders = margin.initial_with_orders / margin.notional_with_orders if margin.notional_with_orders else ZERO
    keep = margin.maintenance / margin.notional if margin.notional else ZERO
    keep_orders = margin.maintenance_with_orders / margin.notional_with_orders if margin.notional_with_orders else ZERO
    return {
        "current_margin_ratio_with_orders": shown(margin.ratio_with_orders),
        "free_collateral": shown(margin.free),
        "initial_margin_ratio": shown(rate),
        "initial_margin_ratio_with_orders": shown(rate_orders),
        "maintenance_margin_ratio": shown(keep),
        "maintenance_margin_ratio_with_orders": shown(keep_orders),
        "margin_ratio": shown(margin.ratio),
        "open_margin_ratio": shown(margin.ratio_with_orders),
        "total_collateral_value": shown(margin.collateral),
        "account_value": shown(margin.account_value),
    }


def pnl_24h(portfolio: Portfolio) -> Decimal:
    """Return the PnL of all positions in USDC: realized in the last 24 hours plus unrealized."""
    state = portfolio.state
    since = state.clock() - DAY_MS
    total = sum((each.since(since).realized for each in state.traded.values()), ZERO)
    for position in visible_positions(portfolio):
        total += position.qty * (state.marks[position.symbol].price - position.average)
    return total


def positions_json(portfolio: Portfolio) -> dict[str, Any]:
    """Return the response of `/v1/positions`."""
    margin = portfolio.margin()
    return {
        **totals_json(portfolio, margin),
        "total_pnl_24_h": pnl_24h(portfolio),
        "rows": [position_json(portfolio, one, margin) for one in visible_positions(portfolio)],
    }


def client_info_json(state: ExchangeState, account_id: str) -> dict[str, object]:
    """Return the settings of an account; fee rates in basis points."""
    taker, maker = state.settings.taker_fee_bps, state.settings.maker_fee_bps
    return {
        "account_id": account_id,
        "email": state.account.email,
        "account_mode": "FUTURES",
        "max_leverage": max(c.cross_leverage for c in state.symbol_settings.values()),
        "taker_fee_rate": taker,
        "maker_fee_rate": maker,
        "futures_taker_fee_rate": taker,
        "futures_maker_fee_rate": maker,
        "rwa_taker_fee_rate": state.settings.rwa_taker_fee_bps,
        "rwa_maker_fee_rate": state.settings.rwa_maker_fee_bps,
        "maintenance_cancel_orders": state.account.maintenance_cancel,
        "imr_factor": {name: one.imr_factor for name, one in state.instruments.items()},
        "max_notional": {
            name: money.max_notional(one, state.leverage(name, CROSS)).quantize(Decimal("0.01"))
            for name, one in state.instruments.items()
        },
    }


def holding_json(portfolio: Portfolio) -> dict[str, object]:
    """Return the settled USDC balance, which does not change with fills."""
    margin = portfolio.margin()
    return {
        "holding": [
            {
                "token": "USDC",
                "holding": portfolio.state.account.balance,
                "frozen": 0,
                "pending_short": 0,
                "isolated_margin": money.rounded(margin.isolated),
                "isolated_order_frozen": money.rounded(margin.isolated_frozen),
                "updated_time": portfolio.state.clock(),
            }
        ]
    }


def history_json(entry: HistoryEntry) -> dict[str, Any]:
    """Return a history line as it was written."""
    body: dict[str, Any] = json.loads(entry.body, parse_float=Decimal)
    return body


# --- market ------------------------------------------------------------------------------------------------


def next_funding(state: ExchangeState, symbol: str) -> int:
    """Return the next funding time of a symbol (a full UTC hour), ms."""
    period = state.instruments[symbol].funding_period * HOUR_MS
    return state.clock() // period * period + period


def traded_24h(state: ExchangeState) -> dict[str, tuple[Decimal, Decimal]]:
    """Return (base volume, USDC amount) of the account's own trades of the last 24 hours, by symbol."""
    since = state.clock() - DAY_MS
    found: dict[str, tuple[Decimal, Decimal]] = {}
    for (symbol, _), each in state.traded.items():
        volume, amount = found.get(symbol, (ZERO, ZERO))
        traded = each.since(since)
        found[symbol] = (volume + traded.quantity, amount + traded.amount)
    return found


def futures_json(
    state: ExchangeState, mark: PaperMark, traded: dict[str, tuple[Decimal, Decimal]]
) -> dict[str, object]:
    """Return the futures object; `traded` is the result of `traded_24h`."""
    volume, amount = traded.get(mark.symbol, (ZERO, ZERO))
    held = sum((abs(p.qty) for p in state.positions.values() if p.symbol == mark.symbol), ZERO)
    return {
        "symbol": mark.symbol,
        "index_price": mark.price,
        "mark_price": mark.price,
        "sum_unitary_funding": mark.funding_sum,
        "est_funding_rate": mark.funding_rate,
        "last_funding_rate": mark.last_rate,
        "next_funding_time": next_funding(state, mark.symbol),
        "open_interest": held,
        "24h_open": mark.open_24h or mark.price,
        "24h_close": mark.price,
        "24h_high": max(mark.high_24h, mark.price),
        "24h_low": mark.low_24h or mark.price,
        "24h_amount": amount,
        "24h_volume": volume,
    }


def funding_json(state: ExchangeState, mark: PaperMark) -> dict[str, object]:
    """Return the funding rate object."""
    now = state.clock()
    return {
        "symbol": mark.symbol,
        "est_funding_rate": mark.funding_rate,
        "est_funding_rate_timestamp": now // 60_000 * 60_000,
        "last_funding_rate": mark.last_rate,
        "last_funding_rate_timestamp": mark.last_funding_at,
        "next_funding_time": next_funding(state, mark.symbol),
        "sum_unitary_funding": mark.funding_sum,
    }
