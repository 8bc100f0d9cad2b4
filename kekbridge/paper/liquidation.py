"""Liquidation: when the margin is gone, orders end and positions are handed over until it suffices again.

Simplified from orderly-api.md section 10: positions shrink in tenths, all at once, at the mark, paying
`std_liquidation_fee`; what then is missing is paid by the insurance fund.
"""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper import filters, money
from kekbridge.paper.algo_orders import Algos
from kekbridge.paper.matching import Trading
from kekbridge.paper.models import ZERO, Position
from kekbridge.paper.positions import CROSS, ISOLATED, Clearing
from kekbridge.paper.state import Engine

_SLICES = 10


class Liquidation:
    """Watches the margin and takes positions away."""

    def __init__(self, engine: Engine, clearing: Clearing, trading: Trading, algos: Algos) -> None:
        self.engine = engine
        self.clearing = clearing
        self.trading = trading
        self.algos = algos

    def check(self) -> None:
        """Liquidate what the account can no longer carry; cheap when nothing is wrong."""
        held = [p for p in self.engine.positions.values() if p.qty and p.symbol in self.engine.instruments]
        if not held:
            return
        for position in [p for p in held if p.margin_mode == ISOLATED]:
            if self._isolated_gone(position):
                self._liquidate([position])
        crossed = [p for p in held if p.margin_mode == CROSS]
        if crossed and self.clearing.margin().must_liquidate:
            self._liquidate(crossed)

    def _isolated_gone(self, position: Position) -> bool:
        mark = self.engine.marks[position.symbol]
        notional = abs(position.qty) * mark.price
        rate = money.maintenance_rate(self.engine.instruments[position.symbol], notional)
        pnl = money.unsettled_pnl(position, mark.price, mark.funding_sum)
        return position.margin + pnl < rate * notional

    def _liquidate(self, positions: list[Position]) -> None:
        engine = self.engine
        now = engine.clock()
        before = self.clearing.margin()
        isolated = positions[0].margin_mode == ISOLATED
        self._end_orders(positions if isolated else None)
        engine.account.frozen_until = now + engine.settings.liquidation_freeze_ms
        starts = {p.symbol: p.qty for p in positions}
        rows: dict[str, dict[str, object]] = {}
        for step in range(1, _SLICES + 1):
            for position in positions:
                self._hand_over(position, starts[position.symbol], step, rows, now)
            margin = self.clearing.margin()
            if not isolated and margin.collateral >= margin.initial:
                break
        insurance = ZERO
        margin = self.clearing.margin()
        if margin.account_value < 0 and not margin.notional:
            insurance = -margin.account_value
            engine.account.balance += insurance
        engine.touch(engine.account)
        liquidation_id = engine.next_id()
        body: dict[str, object] = {
            "liquidation_id": liquidation_id,
            "timestamp": now,
            "transfer_amount_to_insurance_fund": -insurance,
            "margin_ratio": money.shown(before.ratio),
            "account_mmr": money.shown(before.maintenance / before.notional) if before.notional else ZERO,
            "position_notional": before.notional,
            "collateral_value": before.collateral,
            "positions_by_perp": list(rows.values()),
        }
        self.clearing.record("liquidations", body, now)
        engine.event("liquidation", liquidation_id=liquidation_id, positions=list(rows.values()))
        engine.notice("liquidation", body)

    def _end_orders(self, positions: list[Position] | None) -> None:
        keys = None if positions is None else {(p.symbol, p.margin_mode) for p in positions}
        for order in list(self.engine.open_orders.values()):
            if order.is_open and (keys is None or (order.symbol, order.margin_mode) in keys):
                self.trading.cancel(order, "liquidation")
        for node in list(self.engine.open_algos.values()):
            if node.is_open and (keys is None or (node.symbol, node.margin_mode) in keys):
                self.algos.end_tree(self.algos.root(node), "liquidation")

    def _hand_over(
        self, position: Position, start: Decimal, step: int, rows: dict[str, dict[str, object]], now: int
    ) -> None:
        engine = self.engine
        instrument, mark = engine.instruments[position.symbol], engine.marks[position.symbol]
        target = filters.floor_to(abs(start) * (_SLICES - step) / _SLICES, instrument.base_tick)
        quantity = abs(position.qty) - target
        if quantity <= 0:
            return
        fee = money.usdc(quantity * mark.price * instrument.std_liquidation_fee)
        part = -quantity if position.qty > 0 else quantity
        self.clearing.book(position, part, mark.price, fee, now, kind="liquidated")
        row = rows.setdefault(
            position.symbol,
            {
                "symbol": position.symbol,
                "total_position": start,
                "mark_price": mark.price,
                "transfer_price": mark.price,
                "position_qty": ZERO,
                "cost_position_transfer": ZERO,
                "liquidator_fee": instrument.liquidator_fee,
                "abs_liquidator_fee": ZERO,
                "insurance_fund_fee": instrument.std_liquidation_fee - instrument.liquidator_fee,
                "abs_insurance_fund_fee": ZERO,
            },
        )
        share = instrument.liquidator_fee / instrument.std_liquidation_fee
        _raise(row, "position_qty", -part)
        _raise(row, "cost_position_transfer", -part * mark.price)
        _raise(row, "abs_liquidator_fee", money.usdc(fee * share))
        _raise(row, "abs_insurance_fund_fee", fee - money.usdc(fee * share))


def _raise(row: dict[str, object], name: str, more: Decimal) -> None:
    before = row[name]
    assert isinstance(before, Decimal)  # noqa: S101  rows are made a few lines above
    row[name] = before + more
