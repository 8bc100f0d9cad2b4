"""The listed markets and their rules, from a built-in snapshot in the shape of `/v1/public/info`.

Rules follow the mid-2025 mainnet values (orderly-api.md section 5); prices are starting points only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import resources
from typing import Any

from kekbridge.paper.settings import PaperSettings

_INTEGERS = frozenset({"funding_period", "created_time", "updated_time", "liquidation_tier"})


@dataclass(frozen=True, slots=True)
class PaperInstrument:
    """Trading rules of one perpetual; prices in USDC, sizes in base units (orderly-api.md section 5)."""

    symbol: str
    mark_price: Decimal
    quote_min: Decimal
    quote_max: Decimal
    quote_tick: Decimal
    base_min: Decimal
    base_max: Decimal
    base_tick: Decimal
    min_notional: Decimal
    price_range: Decimal
    price_scope: Decimal
    std_liquidation_fee: Decimal
    liquidator_fee: Decimal
    claim_insurance_fund_discount: Decimal
    funding_period: int
    cap_funding: Decimal
    floor_funding: Decimal
    interest_rate: Decimal
    cap_ir: Decimal
    floor_ir: Decimal
    created_time: int
    updated_time: int
    liquidation_tier: int
    global_max_oi_cap: Decimal
    base_mmr: Decimal
    base_imr: Decimal
    imr_factor: Decimal

    def info(self) -> dict[str, object]:
        """The row of `/v1/public/info`: every rule, without the price."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "mark_price"}


def _instrument(row: dict[str, Any]) -> PaperInstrument:
    values: dict[str, Any] = {}
    for key, value in row.items():
        values[key] = value if key == "symbol" or key in _INTEGERS else Decimal(value)
    return PaperInstrument(**values)


def load_instruments(settings: PaperSettings) -> dict[str, PaperInstrument]:
    """The snapshot, restricted and overridden as the settings say; ValueError names an unknown symbol."""
    text = resources.files("kekbridge.paper").joinpath("instruments.json").read_text(encoding="utf-8")
    listed = {row["symbol"]: _instrument(row) for row in json.loads(text)}
    wanted = settings.instruments if settings.instruments is not None else tuple(listed)
    for symbol in (*wanted, *settings.marks, *settings.rules):
        if symbol not in listed:
            raise ValueError(f"paper symbol {symbol!r} is not in the built-in list of instruments")
    chosen: dict[str, PaperInstrument] = {}
    for symbol in wanted:
        instrument = replace(listed[symbol], **dict(settings.rules.get(symbol, {})))  # type: ignore[arg-type]
        if symbol in settings.marks:
            instrument = replace(instrument, mark_price=settings.marks[symbol])
        chosen[symbol] = instrument
    return chosen
