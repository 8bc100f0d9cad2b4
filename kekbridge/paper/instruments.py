"""Listed perpetuals and their trading rules, from a built-in snapshot in the shape of `/v1/public/info`.

The rules are mainnet values of mid-2025 (docs/internals/orderly.md, section 5); the prices are starting points only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import resources
from typing import Any

from kekbridge.paper.codec import ApiError, parse_integer, parse_number
from kekbridge.paper.settings import PaperSettings

#: Status of a market that is taken off the list; what is held in it stays.
UNLISTED = "UNLISTED"
#: Base assets of the markets of real-world assets.
RWA_BASES = frozenset({"EURUSD", "GOOGL", "NAS100", "NVDA", "SPX500", "TSLA", "USDJPY", "XAG", "XAU"})
STATUSES = frozenset({"ACTIVE", "POST_ONLY", "REDUCE_ONLY", "DELISTING", "DELISTED", "NEW", "PENDING"})
_INTEGERS = frozenset({"funding_period", "created_time", "updated_time", "liquidation_tier"})


@dataclass(frozen=True, slots=True)
class PaperInstrument:
    """Trading rules of one perpetual."""

    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: Start mark price in USDC.
    mark_price: Decimal
    #: Lowest order price in USDC.
    quote_min: Decimal
    #: Highest order price in USDC.
    quote_max: Decimal
    #: Price step in USDC.
    quote_tick: Decimal
    #: Smallest order quantity in base units.
    base_min: Decimal
    #: Largest order quantity in base units.
    base_max: Decimal
    #: Quantity step in base units.
    base_tick: Decimal
    #: Smallest order value in USDC.
    min_notional: Decimal
    #: How far an order price may be beyond the mark price, as a fraction (BUY above, SELL below).
    price_range: Decimal
    #: How far it may be on the other side, as a fraction.
    price_scope: Decimal
    #: Liquidation fee as a fraction of the notional.
    std_liquidation_fee: Decimal
    #: The liquidator's share of that fee, as a fraction of the notional.
    liquidator_fee: Decimal
    #: Discount on positions claimed from the insurance fund, as a fraction.
    claim_insurance_fund_discount: Decimal
    #: Hours between funding payments.
    funding_period: int
    #: Highest funding rate as a fraction.
    cap_funding: Decimal
    #: Lowest funding rate as a fraction.
    floor_funding: Decimal
    #: Interest component of the funding rate, as a fraction.
    interest_rate: Decimal
    #: Highest interest rate as a fraction.
    cap_ir: Decimal
    #: Lowest interest rate as a fraction.
    floor_ir: Decimal
    #: Time of listing, ms.
    created_time: int
    #: Time of the last change of the rules, ms.
    updated_time: int
    #: Liquidation tier of the market.
    liquidation_tier: int
    #: Largest notional of a position in USDC.
    global_max_oi_cap: Decimal
    #: Base maintenance margin rate as a fraction.
    base_mmr: Decimal
    #: Base initial margin rate as a fraction; 1 / base_imr is the highest leverage.
    base_imr: Decimal
    #: Growth of the margin rates with notional^0.8.
    imr_factor: Decimal
    #: ACTIVE, POST_ONLY, REDUCE_ONLY, DELISTING, DELISTED, NEW, PENDING or UNLISTED.
    status: str = "ACTIVE"

    @property
    def is_rwa(self) -> bool:
        """True for a market of a real-world asset, which has fee rates of its own."""
        return self.symbol.split("_")[1] in RWA_BASES

    def info(self) -> dict[str, object]:
        """Return the row of `/v1/public/info`: every rule, without the price."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "mark_price"}


def _instrument(row: dict[str, Any]) -> PaperInstrument:
    values: dict[str, Any] = {}
    for key, value in row.items():
        values[key] = value if key == "symbol" or key in _INTEGERS else Decimal(value)
    return PaperInstrument(**values)


def with_rules(instrument: PaperInstrument, rules: Mapping[str, object]) -> PaperInstrument:
    """Return an instrument with other rules, given as text or numbers; ApiError -1005 for a rule that does not exist."""
    values: dict[str, Any] = {}
    for name, raw in rules.items():
        if name in ("symbol", "mark_price") or name not in PaperInstrument.__slots__:
            raise ApiError(-1005, f"{name[:40]!r} is not a rule of a market.")
        if name == "status":
            if raw not in STATUSES:
                raise ApiError(-1005, f"status must be one of {', '.join(sorted(STATUSES))}.")
            values[name] = raw
        else:
            values[name] = parse_integer(raw, name) if name in _INTEGERS else parse_number(raw, name)
    return replace(instrument, **values)


def load_instruments(settings: PaperSettings) -> dict[str, PaperInstrument]:
    """Return the snapshot, restricted and overridden by the settings; ValueError for a symbol that it does not contain."""
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
