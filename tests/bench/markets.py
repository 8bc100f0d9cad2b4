"""The markets of the benchmark: what the stub exchange lists and the alerts name."""

from __future__ import annotations

from typing import Final

BASES: Final = (
    *("BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "DOT", "LTC", "TRX", "NEAR", "APT", "ARB"),
    *("OP", "SUI", "SEI", "INJ", "TIA", "ATOM", "FIL", "AAVE", "UNI", "CRV", "MKR", "LDO", "RUNE", "FTM", "ALGO"),
    *("HBAR", "ICP", "VET", "ETC", "BCH", "XLM", "EOS", "SAND", "MANA", "AXS", "GALA", "APE", "IMX", "GRT", "SNX"),
    *("COMP", "DYDX", "GMX", "JUP", "WIF"),
)
# Orders of one market go one after the other: with few markets a burst shows what that costs, with many what it does not.
FEW: Final = 5
MANY: Final = len(BASES)
