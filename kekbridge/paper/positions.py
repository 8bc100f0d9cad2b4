"""Positions and balance of the account: margin, fills, funding, settlement, transfers.

See docs/internals/orderly.md, sections 9 and 10. Amounts are in USDC, quantities in base units.
"""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper import money
from kekbridge.paper.codec import ApiError, encode
from kekbridge.paper.models import ZERO, HistoryEntry, PaperOrder, PaperPosition, PaperTrade
from kekbridge.paper.money import MarginSummary
from kekbridge.paper.state import ExchangeState

CROSS, ISOLATED = "CROSS", "ISOLATED"


def signed(side: str, quantity: Decimal) -> Decimal:
    """Return a quantity with the sign of its side: BUY positive, SELL negative."""
    return quantity if side == "BUY" else -quantity


class Portfolio:
    """Books fills, funding and transfers, and checks the margin."""

    def __init__(self, state: ExchangeState) -> None:
        self.state = state

    # --- margin --------------------------------------------------------------------------------------------

    def open_quantities(self, symbol: str, margin_mode: str) -> tuple[Decimal, Decimal]:
        """Return the open quantity of orders that are not reduce-only: (long, short), short negative or 0."""
        longs, shorts = ZERO, ZERO
        for order in self.state.open_orders.values():
            if order.symbol == symbol and order.margin_mode == margin_mode and not order.reduce_only:
                if order.side == "BUY":
                    longs += order.left
                else:
                    shorts -= order.left
        return longs, shorts

    def _all_open_quantities(self) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
        found: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}
        for order in self.state.open_orders.values():
            if order.reduce_only:
                continue
            key = (order.symbol, order.margin_mode)
            longs, shorts = found.get(key, (ZERO, ZERO))
            if order.side == "BUY":
                found[key] = (longs + order.left, shorts)
            else:
                found[key] = (longs, shorts - order.left)
        return found

    def margin(self, extra: PaperOrder | None = None, leverage: dict[str, int] | None = None) -> MarginSummary:
        """Return the margin totals, optionally with one more order or with other cross leverages by symbol."""
        state = self.state
        pending = self._all_open_quantities()
        if extra is not None:
            key = (extra.symbol, extra.margin_mode)
            longs, shorts = pending.get(key, (ZERO, ZERO))
            more = signed(extra.side, extra.quantity)
            pending[key] = (longs + max(more, ZERO), shorts + min(more, ZERO))
        collateral = account_value = state.account.balance
        isolated = frozen = ZERO
        sums = [ZERO] * 6
        for key in pending.keys() | state.positions.keys():
            symbol, mode = key
            if symbol not in state.instruments:
                continue
            mark = state.marks[symbol]
            position = state.positions.get(key) or PaperPosition(symbol, mode)
            pnl = money.unsettled_pnl(position, mark.price, mark.funding_sum)
            account_value += pnl
            longs, shorts = pending.get(key, (ZERO, ZERO))
            if mode == ISOLATED:
                isolated += position.margin
                frozen += self._isolated_order_margin(symbol, position.qty, longs, shorts)
                continue
            collateral += pnl
            wanted = (leverage or {}).get(symbol, state.leverage(symbol, CROSS))
            _add(sums, self._cross_requirements(symbol, position.qty, longs, shorts, wanted))
        collateral -= isolated
        return MarginSummary(
            balance=state.account.balance,
            collateral=collateral,
            account_value=account_value,
            free=collateral - sums[3] - frozen,
            notional=sums[0],
            notional_with_orders=sums[1],
            initial=sums[2],
            initial_with_orders=sums[3],
            maintenance=sums[4],
            maintenance_with_orders=sums[5],
            isolated=isolated,
            isolated_frozen=frozen,
        )

    def _cross_requirements(
        self, symbol: str, qty: Decimal, longs: Decimal, shorts: Decimal, leverage: int
    ) -> tuple[Decimal, ...]:
        instrument, price = self.state.instruments[symbol], self.state.marks[symbol].price
        notional = abs(qty) * price
        # Long and short orders do not add up: the larger resulting position counts.
        total = max(abs(qty), abs(qty + longs), abs(qty + shorts)) * price
        initial = money.initial_margin_rate(instrument, leverage, notional)
        initial_total = initial if total == notional else money.initial_margin_rate(instrument, leverage, total)
        maintenance = money.maintenance_margin_rate(instrument, notional)
        maintenance_total = maintenance if total == notional else money.maintenance_margin_rate(instrument, total)
        return (
            notional,
            total,
            initial * notional,
            initial_total * total,
            maintenance * notional,
            maintenance_total * total,
        )

    def _isolated_order_margin(self, symbol: str, qty: Decimal, longs: Decimal, shorts: Decimal) -> Decimal:
        opening = max(abs(qty + longs), abs(qty + shorts), abs(qty)) - abs(qty)
        return opening * self.state.marks[symbol].price / self.state.leverage(symbol, ISOLATED)

    def check_margin(self, order: PaperOrder) -> None:
        """Reject an order that opens more than the margin allows (ApiError -1101), or any after a liquidation (-1012)."""
        state = self.state
        self.check_liquidation_freeze()
        if order.reduce_only:
            return
        instrument, price = state.instruments[order.symbol], state.marks[order.symbol].price
        position = state.positions.get((order.symbol, order.margin_mode))
        held = position.qty if position else ZERO
        longs, shorts = self.open_quantities(order.symbol, order.margin_mode)
        waiting = longs if order.side == "BUY" else shorts
        after = held + waiting + signed(order.side, order.quantity)
        if abs(after) <= max(abs(held), abs(held + waiting)):
            return  # it makes the position no larger
        limit = money.max_notional(instrument, state.leverage(order.symbol, order.margin_mode))
        if abs(after) * price > min(limit, instrument.global_max_oi_cap):
            raise ApiError(-1101, f"The position would exceed the maximum notional of {limit:.2f} USDC.")
        free = self.margin(order).free
        if free < 0:
            raise ApiError(-1101, f"The margin is insufficient: {-free:.2f} USDC are missing.")

    def check_liquidation_freeze(self) -> None:
        """Reject creates shortly after a liquidation; ApiError -1012."""
        if self.state.account.frozen_until > self.state.clock():
            raise ApiError(-1012, "The account is in liquidation.")

    # --- fills ---------------------------------------------------------------------------------------------

    def fill(self, order: PaperOrder, price: Decimal, quantity: Decimal, *, is_maker: bool) -> PaperTrade:
        """Book one fill of an order: trade, position, order totals and journal event."""
        state = self.state
        fees = state.settings
        if state.instruments[order.symbol].is_rwa:
            rate = fees.rwa_maker_fee_bps if is_maker else fees.rwa_taker_fee_bps
        else:
            rate = fees.maker_fee_bps if is_maker else fees.taker_fee_bps
        fee = money.trading_fee(price, quantity, rate)
        now = state.clock()
        position = state.position(order.symbol, order.margin_mode)
        realized = self.book(position, signed(order.side, quantity), price, fee, now)
        trade = PaperTrade(
            trade_id=state.next_id(),
            order_id=order.order_id,
            symbol=order.symbol,
            side=order.side,
            price=price,
            quantity=quantity,
            fee=fee,
            is_maker=is_maker,
            realized=realized,
            at=now,
            match_id=state.next_seq(),
            margin_mode=order.margin_mode,
        )
        state.add(trade)
        order.executed += quantity
        order.value += price * quantity
        order.fee += fee
        order.realized += realized
        order.updated = now
        order.status = "FILLED" if order.executed == order.quantity else "PARTIAL_FILLED"
        state.save(order)
        state.record_order_event(
            "fill",
            order,
            quantity=quantity,
            price=price,
            fee=fee,
            realized_pnl=realized,
            trade_id=trade.trade_id,
            is_maker=is_maker,
            reduce_only=order.reduce_only,
            algo_order_id=order.algo_id or None,
            status=order.status,
        )
        return trade

    def book(
        self,
        position: PaperPosition,
        quantity: Decimal,
        price: Decimal,
        fee: Decimal,
        now: int,
        *,
        kind: str = "normal",
    ) -> Decimal:
        """Change a position by a signed quantity at a price; return the realized PnL in USDC, before the fee.

        A change that flips the position is booked as a close followed by an open. `kind` is the type of the history
        line of a closed position: normal, liquidated or adl.
        """
        state, mark = self.state, self.state.marks[position.symbol]
        before = position.qty
        closing = min(abs(quantity), abs(before)) if before and (before > 0) != (quantity > 0) else ZERO
        opening = abs(quantity) - closing
        closing_fee = money.round_usdc(fee * closing / abs(quantity))
        realized = ZERO
        if closing:
            part = closing if quantity > 0 else -closing
            realized = money.apply_fill(position, part, price, closing_fee, mark.funding_sum)
            position.closed_qty += closing
            position.closed_value += closing * price
            position.margin -= position.margin * closing / abs(before)
            side = "LONG" if before > 0 else "SHORT"
            if position.qty == 0:
                self._record_closed(position, now, side, kind=kind)
            elif kind == "adl":
                self._add_position_history(position, now, side, status="partial_closed", kind=kind)
        if opening:
            part = opening if quantity > 0 else -opening
            if position.qty == 0:
                position.opened = now
            money.apply_fill(position, part, price, fee - closing_fee, mark.funding_sum)
            position.max_qty = max(position.max_qty, abs(position.qty))
            position.entry_qty += opening
            position.entry_value += opening * price
            if position.margin_mode == ISOLATED:
                position.margin += opening * price / state.leverage(position.symbol, ISOLATED)
        self.save_position(position, now)
        return realized

    def replace_position(self, symbol: str, margin_mode: str, quantity: Decimal, now: int) -> None:
        """Set a position at the mark price, as if just opened without a fee; the old one's PnL goes to the balance."""
        state, mark = self.state, self.state.marks[symbol]
        position = state.position(symbol, margin_mode)
        money.charge_funding(position, mark.funding_sum)
        state.account.balance += money.unsettled_pnl(position, mark.price, mark.funding_sum)
        fresh = PaperPosition(symbol, margin_mode, last_funding=mark.funding_sum)
        state.positions[symbol, margin_mode] = fresh
        if quantity:
            self.book(fresh, quantity, mark.price, ZERO, now)
        else:
            self.save_position(fresh, now)

    def save_position(self, position: PaperPosition, now: int) -> None:
        """Stamp, save and publish a changed position."""
        position.updated = now
        position.seq = self.state.next_seq()
        self.state.save(position)
        self.state.publish("position", position)

    def _record_closed(self, position: PaperPosition, now: int, side: str, *, kind: str) -> None:
        """Write the history line of a closed position and reset its sums."""
        state = self.state
        self._add_position_history(position, now, side, status="closed", kind=kind)
        position.fees = position.funding = position.realized = ZERO
        position.max_qty = position.closed_qty = position.closed_value = ZERO
        position.entry_qty = position.entry_value = ZERO
        if position.margin_mode == ISOLATED:
            # Margin and PnL of a closed isolated position return to the balance at once.
            position.margin = ZERO
            state.account.balance -= position.cost
            position.cost = ZERO

    def _add_position_history(self, position: PaperPosition, now: int, side: str, *, status: str, kind: str) -> None:
        """Write a history line of what was closed of a position since it was opened."""
        state = self.state
        self.add_history(
            "position_history",
            {
                "position_id": state.next_id(),
                "status": status,
                "type": kind,
                "symbol": position.symbol,
                "avg_open_price": _ratio(position.entry_value, position.entry_qty),
                "avg_close_price": _ratio(position.closed_value, position.closed_qty),
                "max_position_qty": position.max_qty,
                "closed_position_qty": position.closed_qty,
                "side": side,
                "trading_fee": position.fees,
                "accumulated_funding_fee": position.funding,
                "insurance_fund_fee": 0,
                "liquidator_fee": 0,
                "liquidation_id": None,
                "realized_pnl": position.realized - position.fees - position.funding,
                "open_timestamp": position.opened,
                "close_timestamp": now,
                "last_update_timestamp": now,
                "leverage": state.leverage(position.symbol, position.margin_mode),
                "margin_mode": position.margin_mode,
            },
            now,
        )

    def pay_due_funding(self, now: int) -> None:
        """Pay the funding of every symbol whose funding time (UTC) has passed since the last call; `now` in ms."""
        for symbol, instrument in self.state.instruments.items():
            period = instrument.funding_period * 3_600_000
            mark = self.state.marks[symbol]
            due = now // period * period
            if mark.last_funding_at == 0:
                mark.last_funding_at = due
                self.state.save(mark)
            elif due > mark.last_funding_at:
                mark.last_funding_at = due
                self.pay_funding(symbol, mark.funding_rate, now)

    def pay_funding(self, symbol: str, rate: Decimal, now: int) -> None:
        """Pay funding once: mark price × rate per base unit; a positive rate: longs pay."""
        state, mark = self.state, self.state.marks[symbol]
        mark.funding_sum += money.rounded(mark.price * rate)
        mark.last_rate = rate
        state.save(mark)
        for position in [p for p in state.positions.values() if p.symbol == symbol and p.qty]:
            owed = money.charge_funding(position, mark.funding_sum)
            self.add_history(
                "funding_fee",
                {
                    "symbol": symbol,
                    "funding_rate": rate,
                    "mark_price": mark.price,
                    "funding_fee": owed,
                    "payment_type": "Pay" if owed > 0 else "Receive",
                    "status": "Accrued",
                    "created_time": now,
                    "updated_time": now,
                    "margin_mode": position.margin_mode,
                },
                now,
            )
            state.record_event("funding", symbol=symbol, rate=rate, mark_price=mark.price, funding_fee=owed)
            self.save_position(position, now)

    def settle(self, symbol: str | None, now: int) -> Decimal:
        """Move the unsettled PnL of cross positions, of one symbol or of all (None), to the balance; return the sum."""
        state = self.state
        old, rows = state.account.balance, []
        for position in list(state.positions.values()):
            if symbol not in (None, position.symbol) or position.symbol not in state.instruments:
                continue
            if position.margin_mode != CROSS:
                continue
            mark = state.marks[position.symbol]
            money.charge_funding(position, mark.funding_sum)
            amount = money.unsettled_pnl(position, mark.price, mark.funding_sum)
            if not amount:
                continue
            state.account.balance += amount
            position.cost += amount
            rows.append({"symbol": position.symbol, "settled_amount": amount})
            self.save_position(position, now)
        moved = state.account.balance - old
        if rows:
            state.save(state.account)
            body: dict[str, object] = {
                "id": state.next_id(),
                "old_balance": old,
                "new_balance": state.account.balance,
                "settled_amount": moved,
                "requested_time": now,
                "settled_time": now,
                "symbols": rows,
            }
            self.add_history("pnl_settlement", body, now)
            state.record_event("settlement", settled_amount=moved, old_balance=old, new_balance=old + moved)
            state.publish("settle", body)
        return moved

    def transfer(self, amount: Decimal, now: int) -> dict[str, object]:
        """Book a deposit (positive) or withdrawal (negative); return its line of the asset history.

        ApiError -1101 if a withdrawal is larger than the free collateral.
        """
        state = self.state
        if state.account.balance + amount < 0 or self.margin().free + amount < 0:
            raise ApiError(-1101, "The withdrawal is larger than the free collateral.")
        state.account.balance += amount
        state.save(state.account)
        body: dict[str, object] = {
            "id": str(state.next_id()),
            "tx_id": f"0x{state.next_seq():064x}",
            "side": "DEPOSIT" if amount > 0 else "WITHDRAW",
            "token": "USDC",
            "amount": abs(amount),
            "fee": 0,
            "trans_status": "COMPLETED",
            "created_time": now,
            "updated_time": now,
            "chain_id": "0",
        }
        self.add_history("asset_history", body, now)
        state.record_event("transfer", amount=amount, balance=state.account.balance)
        state.publish("account", None)
        return body

    def add_history(self, book: str, body: dict[str, object], now: int) -> None:
        """Add a line, in the shape of the API response, to an account history."""
        self.state.add(HistoryEntry(self.state.next_id(), book, now, encode(body)))


def _add(sums: list[Decimal], more: tuple[Decimal, ...]) -> None:
    for index, value in enumerate(more):
        sums[index] += value


def _ratio(value: Decimal, quantity: Decimal) -> Decimal:
    return money.rounded(value / quantity) if quantity else ZERO
