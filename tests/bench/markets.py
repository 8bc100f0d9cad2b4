"""Markets of the benchmark, listed by the stub exchange and traded by the alerts."""

from __future__ import annotations

from typing import Final

BASES: Final = (
    *("BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "DOT", "LTC", "TRX", "NEAR", "APT", "ARB"),
    *("OP", "SUI", "SEI", "INJ", "TIA", "ATOM", "FIL", "AAVE", "UNI", "CRV", "MKR", "LDO", "RUNE", "FTM", "ALGO"),
    *("HBAR", "ICP", "VET", "ETC", "BCH", "XLM", "EOS", "SAND", "MANA", "AXS", "GALA", "APE", "IMX", "GRT", "SNX"),
    *("COMP", "DYDX", "GMX", "JUP", "WIF"),
)
# Orders of one market are sent one after the other: few markets show the cost of that in a burst, many show the burst without it.
FEW: Final = 5
MANY: Final = len(BASES)
