"""Messages of the private stream, camelCase as there (orderly-api.md section 12). Shapes only, no sending."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kekbridge.paper.records import ZERO, Order, Trade

if TYPE_CHECKING:
    from kekbridge.paper.engine import Engine


def execution(engine: Engine, order: Order, trade: Trade | None, status: str | None) -> dict[str, object]:
    """One executionreport: the change of one order, with the fill when there is one."""
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
        "avgExecutedPrice": order.average,
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
        "seq": engine.next_seq(),
    }
