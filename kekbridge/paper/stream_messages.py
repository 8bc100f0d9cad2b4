"""Bodies of stream messages, with Orderly's camelCase names. See docs/internals/orderly.md, section 12."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper import money
from kekbridge.paper.models import ZERO, AlgoNode, PaperMark, PaperOrder, PaperPosition, PaperTrade
from kekbridge.paper.positions import Portfolio
from kekbridge.paper.responses import next_funding, position_json
from kekbridge.paper.state import ExchangeState


def execution(
    state: ExchangeState, order: PaperOrder, trade: PaperTrade | None, status: str | None
) -> dict[str, object]:
    """`executionreport`: the change of one order, with its fill if there is one."""
    return {
        "symbol": order.symbol,
        "clientOrderId": order.client_order_id or "",
        "orderId": order.order_id,
        "type": order.type,
        "side": order.side,
        "quantity": order.quantity,
        "price": order.price if order.price is not None else 0,
        "tradeId": trade.trade_id if trade else 0,
        "executedPrice": trade.price if trade else 0,
        "executedQuantity": trade.quantity if trade else 0,
        "fee": trade.fee if trade else 0,
        "feeAsset": "USDC",
        "totalExecutedQuantity": order.executed,
        "avgExecutedPrice": money.rounded(order.average),
        "status": status or order.status,
        "reason": order.reason,
        "totalFee": order.fee,
        "visibleQuantity": order.visible if order.is_open else ZERO,
        "timestamp": order.updated,
        "reduceOnly": order.reduce_only,
        "orderTag": order.order_tag or "default",
        "marginMode": order.margin_mode,
        "maker": trade.is_maker if trade else False,
        "match_id": str(trade.match_id) if trade else "0",
        "seq": state.next_seq(),
    }


def _algo(state: ExchangeState, node: AlgoNode) -> dict[str, object]:
    root = state.algos[node.root_id]
    trades = state.trades_of.get(node.plain_id) or []
    last = trades[-1] if trades else None
    return {
        "algoOrderId": node.algo_order_id,
        "rootAlgoOrderId": node.root_id,
        "parentAlgoOrderId": node.parent_id,
        "clientOrderId": node.client_order_id or "",
        "symbol": node.symbol,
        "orderTag": node.order_tag or "default",
        "algoType": node.algo_type,
        "side": node.side,
        "type": node.type,
        "quantity": node.quantity if node.quantity is not None else 0,
        "price": node.price if node.price is not None else 0,
        "status": node.status,
        "algoStatus": node.status,
        "rootAlgoStatus": root.status,
        "triggerPrice": node.trigger_price if node.trigger_price is not None else 0,
        "triggerPriceType": "MARK_PRICE",
        "triggerStatus": node.trigger_status,
        "triggerTradePrice": node.trigger_trade_price or 0,
        "triggerTime": node.trigger_time,
        "tradeId": last.trade_id if last else 0,
        "executedPrice": last.price if last else 0,
        "executedQuantity": last.quantity if last else 0,
        "totalExecutedQuantity": node.executed,
        "averageExecutedPrice": money.rounded(node.average),
        "fee": last.fee if last else 0,
        "totalFee": node.fee,
        "feeAsset": "USDC",
        "visibleQuantity": node.quantity if node.quantity is not None else 0,
        "reduceOnly": node.reduce_only,
        "isActivated": node.is_activated,
        "callbackRate": node.callback_rate,
        "callbackValue": node.callback_value,
        "extremePrice": node.extreme_price,
        "activatedPrice": node.activated_price,
        "createdTime": node.created,
        "timestamp": node.updated,
        "marginMode": node.margin_mode,
        "isMaker": last.is_maker if last else False,
    }


def algo_flat(state: ExchangeState, tree: list[AlgoNode]) -> list[dict[str, object]]:
    """`algoexecutionreport`: a flat list, one object per node."""
    rows = []
    for node in tree:
        row = _algo(state, node)
        rows.append({**row, "triggered": node.is_triggered, "maker": row["isMaker"]})
    return rows


def algo_nested(state: ExchangeState, node: AlgoNode) -> dict[str, object]:
    """`algoexecutionreportv2`: one object with nested childOrders."""
    children = state.children.get(node.algo_order_id, ())
    return {
        **_algo(state, node),
        "isTriggered": node.is_triggered,
        "childOrders": [algo_nested(state, child) for child in children],
    }


def position(portfolio: Portfolio, row: PaperPosition, margin: money.MarginSummary) -> dict[str, object]:
    """One entry of `position`; quantity 0 if closed."""
    view = position_json(portfolio, row, margin)
    mark = portfolio.state.marks[row.symbol]
    return {
        "symbol": row.symbol,
        "positionQty": row.qty,
        "costPosition": row.cost,
        "lastSumUnitaryFunding": row.last_funding,
        "sumUnitaryFundingVersion": mark.last_funding_at,
        "pendingLongQty": view["pending_long_qty"],
        "pendingShortQty": view["pending_short_qty"],
        "settlePrice": view["settle_price"],
        "averageOpenPrice": view["average_open_price"],
        "unsettledPnl": view["unsettled_pnl"],
        "pnl24H": view["pnl_24_h"],
        "fee24H": view["fee_24_h"],
        "markPrice": mark.price,
        "estLiqPrice": view["est_liq_price"],
        "version": row.seq,
        "imrwithOrders": view["IMR_withdraw_orders"],
        "mmrwithOrders": view["MMR_with_orders"],
        "mmr": view["mmr"],
        "imr": view["imr"],
        "seq": row.seq,
        "timestamp": view["timestamp"],
        "updated_time": row.updated,
        "leverage": view["leverage"],
        "marginMode": row.margin_mode,
        "margin": view["margin"],
    }


def balance(portfolio: Portfolio, margin: money.MarginSummary) -> dict[str, object]:
    """`balance`."""
    return {
        "balances": {
            "USDC": {
                "holding": portfolio.state.account.balance,
                "frozen": 0,
                "pendingShortQty": 0,
                "pendingLongQty": 0,
                "isolatedMargin": money.rounded(margin.isolated),
                "isolatedOrderFrozen": money.rounded(margin.isolated_frozen),
                "interest": 0,
                "version": portfolio.state.next_seq(),
            }
        }
    }


def account(portfolio: Portfolio, margin: money.MarginSummary, changed: tuple[str, str] | None) -> dict[str, object]:
    """`account`; `changed` (symbol, margin mode) adds the leverage of one symbol."""
    state = portfolio.state
    detail: dict[str, object] = {
        "marginMode": "REGULAR_MARGIN",
        "futuresLeverage": state.settings.leverage,
        "futuresTakerFeeRate": state.settings.taker_fee_bps,
        "futuresMakerFeeRate": state.settings.maker_fee_bps,
        "maintenanceCancelFlag": state.account.maintenance_cancel,
        "totalCollateralValue": money.rounded(margin.collateral),
        "freeCollateral": money.rounded(margin.free),
        "accountValue": money.rounded(margin.account_value),
    }
    if changed is not None:
        symbol, mode = changed
        detail["symbolLeverage"] = {
            "symbol": symbol,
            "leverage": state.leverage(symbol, mode),
            "marginMode": mode,
        }
    return {"accountDetail": detail}


# --- public topics -----------------------------------------------------------------------------------------


def mark_price(mark: PaperMark) -> dict[str, object]:
    """`{symbol}@markprice`."""
    return {"symbol": mark.symbol, "price": mark.price}


def index_price(mark: PaperMark) -> dict[str, object]:
    """`SPOT_X_USDC@indexprice`."""
    return {"symbol": mark.symbol.replace("PERP_", "SPOT_", 1), "price": mark.price}


def best_quote(symbol: str, ask: Decimal, bid: Decimal, size: Decimal) -> dict[str, object]:
    """`{symbol}@bbo`."""
    return {"symbol": symbol, "ask": ask, "askSize": size, "bid": bid, "bidSize": size}


def public_trade(trade: PaperTrade) -> dict[str, object]:
    """`{symbol}@trade`."""
    return {"symbol": trade.symbol, "price": trade.price, "size": trade.quantity, "side": trade.side}


def ticker(mark: PaperMark, traded: tuple[Decimal, Decimal]) -> dict[str, object]:
    """`{symbol}@ticker`; `traded` is (base volume, USDC amount) of 24 hours."""
    return {
        "symbol": mark.symbol,
        "open": mark.open_24h or mark.price,
        "close": mark.price,
        "high": max(mark.high_24h, mark.price),
        "low": mark.low_24h or mark.price,
        "volume": traded[0],
        "amount": traded[1],
        "count": 0,
    }


def funding(state: ExchangeState, mark: PaperMark) -> dict[str, object]:
    """`{symbol}@estfundingrate`."""
    return {
        "symbol": mark.symbol,
        "fundingRate": mark.funding_rate,
        "fundingTs": next_funding(state, mark.symbol),
    }


def candle(mark: PaperMark, kind: str, start: int, length: int) -> dict[str, object]:
    """`{symbol}@kline_*`; `start` and `length` in ms."""
    return {
        "symbol": mark.symbol,
        "type": kind,
        "open": mark.price,
        "close": mark.price,
        "high": mark.price,
        "low": mark.price,
        "volume": 0,
        "amount": 0,
        "startTime": start,
        "endTime": start + length,
    }
