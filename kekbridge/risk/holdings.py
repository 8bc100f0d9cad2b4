"""Which webhook holds how much of a position: its own fills since the position was last flat. Pure.

The exchange knows one position per market. Where several webhooks trade in it, or the trader by hand, what an alert states of its
strategy's position is about what that webhook holds, not what others do (docs/internals/architecture.md section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from kekbridge.model import ZERO

#: Holder of what belongs to no webhook: opened by hand, or by a program that is not ours.
NOBODY = ""


class Holdings:
    """Signed quantities in base units by market and holder, all on the side of the position; they add up to it."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Decimal]] = {}
        # By market and trade id: whose holdings a foreign fill has changed, and how; of those since the position was flat.
        self._foreign: dict[str, dict[str, dict[str, Decimal]]] = {}

    def record(self, symbol: str, holder: str, quantity: Decimal, foreign_id: str | None = None) -> None:
        """A fill of a signed quantity. `foreign_id`: the trade id of one that is not of an order of ours.

        A fill that ends or reverses the position ends every holding; what a holder trades beyond its own is taken from the largest others.
        What a foreign fill opens belongs to no webhook; what it closes is taken from that first, then from `holder`: the exchange may have
        executed a stop.
        """
        held = self._held.setdefault(symbol, {})
        before = sum(held.values(), ZERO)
        after = before + quantity
        if before * after <= 0:
            del self._held[symbol]
            self._foreign.pop(symbol, None)
            quantity = after
            held = {}
        if quantity == 0:
            return
        changed = dict(held)
        if foreign_id is None:
            changed[holder] = changed.get(holder, ZERO) + quantity
        elif before * quantity >= 0 or not held:
            changed[NOBODY] = changed.get(NOBODY, ZERO) + quantity
        else:
            of_nobody = min(abs(quantity), abs(held.get(NOBODY, ZERO))).copy_sign(quantity)
            changed[NOBODY] = changed.get(NOBODY, ZERO) + of_nobody
            changed[holder] = changed.get(holder, ZERO) + quantity - of_nobody
        self._held[symbol] = settled = _settled(changed)
        if foreign_id is not None:
            names = {*held, *settled}
            changes = {name: settled.get(name, ZERO) - held.get(name, ZERO) for name in names}
            self._foreign.setdefault(symbol, {})[foreign_id] = changes

    def move(self, symbol: str, quantity: Decimal, *, source: str, target: str, foreign_id: str | None = None) -> None:
        """A recorded fill of a signed quantity turns out to belong to another holder. `foreign_id`: as it was recorded."""
        held = self._held.get(symbol)
        if held is None:
            return
        changes = {source: quantity}
        if foreign_id is not None:
            changes = self._foreign.get(symbol, {}).pop(foreign_id, {})
        changed = dict(held)
        for name, change in changes.items():
            changed[name] = changed.get(name, ZERO) - change
        changed[target] = changed.get(target, ZERO) + sum(changes.values(), ZERO)
        self._held[symbol] = _settled(changed)

    def of_others(self, symbol: str, holder: str, *, position: Decimal) -> Decimal:
        """What other webhooks hold of a position, as far as the recorded fills tell.

        What was opened by hand belongs to no webhook: whichever closes next may close it. An exit of a strategy that was entered by hand,
        or whose orders the database has lost, must not leave its position open.

        Where these do not lead to the position (one is not known yet, or the exchange has closed or moved something without a trade),
        nothing is left open on a guess: of a larger position the rest counts as the webhook's, of a smaller one it keeps what it has bought
        or sold, and for a webhook without any of it others hold nothing.
        """
        held = self._held.get(symbol, {})
        total = sum(held.values(), ZERO)
        own = held.get(holder, ZERO)
        if total * position <= 0 or (own == 0 and total != position):
            return ZERO
        webhooks = total - own - held.get(NOBODY, ZERO)
        if abs(position) < abs(total):
            left = position - min(abs(own), abs(position)).copy_sign(position)
            webhooks = min(abs(webhooks), abs(left)).copy_sign(position)
        return webhooks

    def total(self, symbol: str) -> Decimal:
        """The position that the recorded fills lead to, signed."""
        return sum(self._held.get(symbol, {}).values(), ZERO)

    def shares(self, symbol: str, *, position: Decimal) -> Mapping[str, Decimal] | None:
        """What each webhook holds of a position; None where the fills do not add up to it, or no webhook holds any of it."""
        held = self._held.get(symbol, {})
        of_webhooks = {name: quantity for name, quantity in held.items() if name != NOBODY}
        if not of_webhooks or sum(held.values(), ZERO) != position:
            return None
        return of_webhooks

    def load(self, symbol: str, fills: Iterable[tuple[str, Decimal, str | None]]) -> None:
        """Replace what is known of a market: its fills since it was flat, oldest first, each as the arguments of `record`."""
        self._held.pop(symbol, None)
        self._foreign.pop(symbol, None)
        for holder, quantity, foreign_id in fills:
            self.record(symbol, holder, quantity, foreign_id)

    def comparable(self) -> dict[str, dict[str, Decimal]]:
        """Everything, in an order of its own."""
        return {symbol: dict(sorted(held.items())) for symbol, held in sorted(self._held.items())}


def _settled(held: dict[str, Decimal]) -> dict[str, Decimal]:
    """Holdings on the side of their sum: what is on the other side is taken from the largest, and who has nothing left is no holder."""
    total = sum(held.values(), ZERO)
    settled = {name: quantity for name, quantity in held.items() if quantity * total > 0}
    missing = sum((abs(quantity) for quantity in held.values() if quantity * total < 0), ZERO)
    for name in sorted(settled, key=lambda name: (-abs(settled[name]), name)):
        taken = min(missing, abs(settled[name]))
        settled[name] -= taken.copy_sign(total)
        missing -= taken
    return {name: quantity for name, quantity in settled.items() if quantity}
