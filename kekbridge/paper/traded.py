"""Sums of the trades since a time, without reading each trade again."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from decimal import Decimal

from kekbridge.paper.models import ZERO, PaperTrade


@dataclass(frozen=True, slots=True)
class Traded:
    """What trades add up to."""

    #: Quantity in base units.
    quantity: Decimal = ZERO
    #: Value at the prices of the fills, USDC.
    amount: Decimal = ZERO
    #: Fees in USDC; positive: paid.
    fees: Decimal = ZERO
    #: Realized PnL in USDC, before fees.
    realized: Decimal = ZERO

    def __add__(self, other: Traded) -> Traded:
        return Traded(
            self.quantity + other.quantity,
            self.amount + other.amount,
            self.fees + other.fees,
            self.realized + other.realized,
        )

    def __sub__(self, other: Traded) -> Traded:
        return Traded(
            self.quantity - other.quantity,
            self.amount - other.amount,
            self.fees - other.fees,
            self.realized - other.realized,
        )


class TradedSince:
    """The running totals of one market's trades, in the order of their times."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._totals = [Traded()]  # one more than times: the total before the trade of the same index

    def add(self, trade: PaperTrade) -> None:
        """Count one more trade. One that a clock set back has dated before an earlier one counts with that."""
        self._times.append(max(trade.at, self._times[-1]) if self._times else trade.at)
        one = Traded(trade.quantity, trade.quantity * trade.price, trade.fee, trade.realized)
        self._totals.append(self._totals[-1] + one)

    def since(self, time: int) -> Traded:
        """Return what the trades at a time in ms and later add up to."""
        return self._totals[-1] - self._totals[bisect_left(self._times, time)]
