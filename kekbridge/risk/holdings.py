"""Which webhook holds how much of a position: its own fills since the position was last flat. Pure.

The exchange knows one position per market. Where several webhooks trade in it, an exit that states its strategy's own position closes what
that webhook holds, not what the others do (docs/internals/architecture.md section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from kekbridge.model import ZERO

#: Holder of what belongs to no webhook.
NOBODY = ""


class Holdings:
    """Signed quantities in base units by market and holder, all on the side of the position; they add up to it."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Decimal]] = {}

    def record(self, symbol: str, holder: str, quantity: Decimal) -> None:
        """A fill of a signed quantity.

        One that ends or reverses the position ends every holding; what a holder trades beyond its own is taken from the largest others.
        """
        held = self._held.setdefault(symbol, {})
        before = sum(held.values(), ZERO)
        after = before + quantity
        if after == 0:
            del self._held[symbol]
        elif before * after <= 0:
            self._held[symbol] = {holder: after}
        else:
            _add(held, holder, quantity)

    def move(self, symbol: str, quantity: Decimal, *, source: str, target: str) -> None:
        """A recorded fill of a signed quantity turns out to belong to another holder."""
        if symbol in self._held and source != target:
            self.record(symbol, source, -quantity)
            self.record(symbol, target, quantity)

    def of_others(self, symbol: str, holder: str, *, position: Decimal) -> Decimal:
        """What other webhooks hold; zero where the holdings do not add up to the position, so that nothing is left open on a guess."""
        held = self._held.get(symbol)
        if held is None or (len(held) == 1 and holder in held) or sum(held.values(), ZERO) != position:
            return ZERO
        return position - held.get(holder, ZERO) - held.get(NOBODY, ZERO)

    def total(self, symbol: str) -> Decimal:
        """The position that the recorded fills lead to, signed."""
        return sum(self._held.get(symbol, {}).values(), ZERO)

    def shares(self, symbol: str, *, position: Decimal) -> Mapping[str, Decimal] | None:
        """What each webhook holds of a position; None where that is not known for all of it."""
        held = self._held.get(symbol)
        if not held or NOBODY in held or sum(held.values(), ZERO) != position:
            return None
        return dict(held)

    def load(self, symbol: str, fills: Iterable[tuple[str, Decimal]]) -> None:
        """Replace what is known of a market: holders and signed quantities of its fills since it was flat, oldest first."""
        self._held.pop(symbol, None)
        for holder, quantity in fills:
            self.record(symbol, holder, quantity)

    def comparable(self) -> dict[str, dict[str, Decimal]]:
        """Everything, in an order of its own."""
        return {symbol: dict(sorted(held.items())) for symbol, held in sorted(self._held.items())}


def _add(held: dict[str, Decimal], holder: str, quantity: Decimal) -> None:
    """Add to a holding; what goes beyond zero is taken from the others, the largest first."""
    own = held.get(holder, ZERO) + quantity
    missing = ZERO
    if own != 0 and own * (sum(held.values(), ZERO) + quantity) < 0:
        own, missing = ZERO, own
    held[holder] = own
    for name in sorted(held.keys() - {holder}, key=lambda name: (-abs(held[name]), name)) if missing else ():
        taken = min(abs(missing), abs(held[name])).copy_sign(missing)
        held[name] += taken
        missing -= taken
    for name in [name for name, quantity in held.items() if quantity == 0]:
        del held[name]
