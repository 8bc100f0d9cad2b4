"""Liquidation: below the maintenance margin, cancel orders and reduce positions until the margin is sufficient.

Simpler than the real one (docs/internals/orderly.md, section 10): positions shrink in tenths, at once, at the mark
price, and pay `std_liquidation_fee`. The insurance fund pays a negative account value.
"""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper import filters, money
from kekbridge.paper.algo_orders import AlgoOrders
from kekbridge.paper.codec import ApiError
from kekbridge.paper.matching import MatchingEngine
from kekbridge.paper.models import ZERO, PaperPosition
from kekbridge.paper.positions import CROSS, ISOLATED, Portfolio
from kekbridge.paper.state import ExchangeState

_SLICES = 10


class Liquidation:
    """Checks the margin and liquidates positions."""

    def __init__(
        self, state: ExchangeState, portfolio: Portfolio, matching: MatchingEngine, algo_orders: AlgoOrders
    ) -> None:
        self.state = state
        self.portfolio = portfolio
        self.matching = matching
        self.algo_orders = algo_orders

    def check(self) -> None:
        """Liquidate the positions whose margin is below the maintenance margin."""
        held = [p for p in self.state.positions.values() if p.qty and p.symbol in self.state.instruments]
        if not held:
            return
        for position in [p for p in held if p.margin_mode == ISOLATED]:
            if self._is_below_maintenance(position):
                self._liquidate([position])
        crossed = [p for p in held if p.margin_mode == CROSS]
        if crossed and self.portfolio.margin().must_liquidate:
            self._liquidate(crossed)

    def _is_below_maintenance(self, position: PaperPosition) -> bool:
        mark = self.state.marks[position.symbol]
        notional = abs(position.qty) * mark.price
        rate = money.maintenance_margin_rate(self.state.instruments[position.symbol], notional)
        pnl = money.unsettled_pnl(position, mark.price, mark.funding_sum)
        return position.margin + pnl < rate * notional

    def force(self, symbol: str, margin_mode: str, tenths: int) -> None:
        """Liquidate so many tenths of a position, whatever its margin. ApiError -1005 without one."""
        position = self.state.positions.get((symbol, margin_mode))
        if position is None or not position.qty or not 1 <= tenths <= _SLICES:
            raise ApiError(-1005, "a position is needed, and tenths between 1 and 10.")
        self._liquidate([position], tenths=tenths)

    def _liquidate(self, positions: list[PaperPosition], *, tenths: int | None = None) -> None:
        """Take over slices of the positions, until the margin suffices or for `tenths` slices."""
        state = self.state
        now = state.clock()
        before = self.portfolio.margin()
        isolated = positions[0].margin_mode == ISOLATED
        self._cancel_orders(positions if isolated else None)
        state.account.frozen_until = now + state.settings.liquidation_freeze_ms
        starts = {p.symbol: p.qty for p in positions}
        rows: dict[str, dict[str, object]] = {}
        realized: dict[str, Decimal] = {}
        for step in range(1, (tenths or _SLICES) + 1):
            for position in positions:
                realized[position.symbol] = realized.get(position.symbol, ZERO) + self._transfer_slice(
                    position, starts[position.symbol], step, rows, now
                )
            margin = self.portfolio.margin()
            if tenths is None and not isolated and margin.collateral >= margin.initial:
                break
        insurance = ZERO
        margin = self.portfolio.margin()
        if margin.account_value < 0 and not margin.notional:
            insurance = -margin.account_value
            state.account.balance += insurance
        state.save(state.account)
        liquidation_id = state.next_id()
        body: dict[str, object] = {
            "liquidation_id": liquidation_id,
            "timestamp": now,
            "transfer_amount_to_insurance_fund": -insurance,
            "margin_ratio": money.rounded(before.ratio),
            "account_mmr": money.rounded(before.maintenance / before.notional) if before.notional else ZERO,
            "position_notional": before.notional,
            "collateral_value": before.collateral,
            "positions_by_perp": list(rows.values()),
        }
        self.portfolio.add_history("liquidations", body, now)
        handed = [
            {**row, "realized_pnl": realized[symbol], "margin_mode": positions[0].margin_mode}
            for symbol, row in rows.items()
        ]
        state.record_event("liquidation", liquidation_id=liquidation_id, positions=handed)
        state.publish("liquidation", body)

    def _cancel_orders(self, positions: list[PaperPosition] | None) -> None:
        keys = None if positions is None else {(p.symbol, p.margin_mode) for p in positions}
        for order in list(self.state.open_orders.values()):
            if order.is_open and (keys is None or (order.symbol, order.margin_mode) in keys):
                self.matching.cancel(order, "liquidation")
        for node in list(self.state.open_algos.values()):
            if node.is_open and (keys is None or (node.symbol, node.margin_mode) in keys):
                self.algo_orders.cancel_tree(self.algo_orders.root(node), "liquidation")

    def _transfer_slice(
        self, position: PaperPosition, start: Decimal, step: int, rows: dict[str, dict[str, object]], now: int
    ) -> Decimal:
        """Hand one slice over at the mark price; return what it realized in USDC, before the fee."""
        state = self.state
        instrument, mark = state.instruments[position.symbol], state.marks[position.symbol]
        target = filters.floor_to(abs(start) * (_SLICES - step) / _SLICES, instrument.base_tick)
        quantity = abs(position.qty) - target
        if quantity <= 0:
            return ZERO
        fee = money.round_usdc(quantity * mark.price * instrument.std_liquidation_fee)
        part = -quantity if position.qty > 0 else quantity
        realized = self.portfolio.book(position, part, mark.price, fee, now, kind="liquidated")
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
        _add_to(row, "position_qty", -part)
        _add_to(row, "cost_position_transfer", -part * mark.price)
        _add_to(row, "abs_liquidator_fee", money.round_usdc(fee * share))
        _add_to(row, "abs_insurance_fund_fee", fee - money.round_usdc(fee * share))
        return realized


def _add_to(row: dict[str, object], name: str, more: Decimal) -> None:
    before = row[name]
    assert isinstance(before, Decimal)  # noqa: S101  the row is created a few lines above
    row[name] = before + more
