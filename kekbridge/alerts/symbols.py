"""Resolve a chart's ticker to a listed market, or refuse it (docs/internals/tradingview.md section 6).

A ticker is accepted only if exactly one listed market fits; nothing is guessed. Pure, and takes a few microseconds: set lookups
in the list of markets; only a refusal searches it for suggestions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Final

from msgspec import Struct

from kekbridge.alerts.field_source import refuse_placeholder
from kekbridge.alerts.redaction import show
from kekbridge.alerts.symbol_tables import (
    BASE_ALIASES,
    CRYPTO_VENUES,
    FOREIGN_VENUES,
    FOREX_PAIR,
    INVERSE_MARKERS,
    K_UNIT_BASES,
    MULTIPLIERS,
    NOT_TRADABLE,
    PERPETUAL_MARKERS,
    QUOTES,
    TRADFI_BASES,
)
from kekbridge.errors import Refused
from kekbridge.formatting import nearest

_WHITESPACE = " \t\r\n\x0b\x0c"
_MAX_LENGTH = 40
_MAX_MATCHES = 1024
_VENUE = re.compile(r"([A-Z0-9_]+):(.+)")
_CCXT_SETTLE = re.compile(r"(.+/(?:USDT|USDC|USD)):(?:USDT|USDC|USD)")
_PLAIN = re.compile(r"[A-Z0-9]+")
_MULTIPLIED = re.compile(r"(1000000|10000|1000)([A-Z][A-Z0-9]*)|([A-Z]+?)(1000000|10000|1000)")
_ONE = Decimal(1)


class SymbolMatch(Struct, frozen=True):
    """The market of a ticker."""

    #: Symbol of the listed market.
    symbol: str
    #: Units of the ticker in one unit of the market (1000 for PEPE on PERP_1000PEPE_USDC): quantities are divided by it, prices multiplied.
    unit_factor: Decimal = _ONE
    #: Remarks such as a spot ticker's basis.
    warnings: tuple[str, ...] = ()
    #: The ticker's contracts count USD.
    is_inverse: bool = False


class _Ticker(Struct, frozen=True):
    """The parts of a ticker, in upper case."""

    #: Ticker without its venue.
    text: str
    #: Prefix or `exchange` field; empty if neither.
    venue: str
    #: Possible base currencies.
    bases: tuple[str, ...]
    #: Quote currency, if recognised.
    quote: str | None
    #: Suffix of a perpetual, such as .P.
    marker: str | None


class _Matches:
    """What was found in one list of markets. Alerts repeat the same few tickers, and the list is replaced only when markets change.

    Safe in several threads: list and matches are replaced together.
    """

    def __init__(self) -> None:
        self._found: tuple[Collection[str], dict[tuple[str, str | None, bool], SymbolMatch]] = ((), {})

    def within(self, listed: Collection[str]) -> dict[tuple[str, str | None, bool], SymbolMatch]:
        """The matches in this list by ticker, exchange and whether units may be rescaled."""
        known_list, matches = self._found
        if known_list is not listed or len(matches) >= _MAX_MATCHES:
            matches = {}
            self._found = listed, matches
        return matches


_MATCHES: Final = _Matches()


def resolve(
    text: str,
    *,
    exchange: str | None,
    listed: Collection[str],
    aliases: Mapping[str, str],
    rescale_units: bool,
) -> SymbolMatch:
    """Find the listed market for `text` (and the alert's `exchange`, if any). `listed`: a set or dict that never changes in place.

    The webhook's `aliases` (ticker or base to a listed symbol or base) overrule the checks of venue and ticker format.
    Raises Refused: symbol_invalid, symbol_unknown (with suggestions), symbol_ambiguous, symbol_not_tradable, symbol_unit_mismatch,
    symbol_exchange_refused, delayed_data, placeholder_unexpanded.
    """
    if aliases:
        return _resolve(text, exchange, listed, aliases, rescale_units=rescale_units)
    known = _MATCHES.within(listed)
    key = text, exchange, rescale_units
    match = known.get(key)
    if match is None:
        match = known[key] = _resolve(text, exchange, listed, aliases, rescale_units=rescale_units)
    return match


def _resolve(
    text: str, exchange: str | None, listed: Collection[str], aliases: Mapping[str, str], *, rescale_units: bool
) -> SymbolMatch:
    trimmed = text.strip(_WHITESPACE)
    refuse_placeholder("symbol", trimmed)
    _check_characters(trimmed)
    field_venue = (exchange or "").strip(_WHITESPACE).upper()
    upper = trimmed.upper()
    venue, bare = _split_venue(upper)
    aliased = _find_alias(aliases, (trimmed, upper, f"{field_venue}:{bare}" if field_venue else bare, bare))
    if aliased is not None:
        return _from_alias(bare, aliased, listed, rescale_units=rescale_units)
    for name in (field_venue, venue):
        if name.endswith(("_DL", "_DLY")):
            raise _refused("delayed_data", f"the data of {show(name)} is delayed; use a real-time feed")
    # The exchange's own symbol is an explicit choice; exact case first, because broker-listed markets end in lower case.
    for exact in (trimmed, upper):
        if exact in listed:
            return SymbolMatch(exact)
    _check_venues(bare, (field_venue, venue))
    kind = _untradable_kind(bare)
    if kind is not None:
        raise _refused("symbol_not_tradable", f"{show(trimmed)} is {kind}; put the alert on the chart of the perpetual")
    ticker = _parse_ticker(bare, venue or field_venue)
    return _match(ticker, trimmed, listed, aliases, rescale_units=rescale_units)


def is_same_market(one: str, other: str) -> bool:
    """Return whether two spellings can have the same base, judged by the text alone; for a locked symbol, before markets are known."""
    first, second = _possible_bases(one), _possible_bases(other)
    return one.strip(_WHITESPACE).upper() == other.strip(_WHITESPACE).upper() or not first.isdisjoint(second)


def _possible_bases(text: str) -> frozenset[str]:
    _, bare = _split_venue(text.strip(_WHITESPACE).upper())
    native = bare.split("_")
    if len(native) >= 3 and native[0] == "PERP":
        return frozenset({native[1]})
    found: set[str] = set()
    for base in _parse_ticker(bare, "").bases:
        unit, name = _unit_of(BASE_ALIASES.get(base, base))
        found.add(f"{unit}{name}" if unit != 1 else name)
    return frozenset(found)


# --------------------------------------------------------------------------------------------------------- refusals


def _check_characters(text: str) -> None:
    if not text or len(text) > _MAX_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise _refused(
            "symbol_invalid",
            f'found {show(text)}, expected a plain ticker of at most {_MAX_LENGTH} characters such as BTCUSDT.P; use "{{{{ticker}}}}"',
        )


def _check_venues(bare: str, venues: tuple[str, str]) -> None:
    for venue in venues:
        if venue in FOREIGN_VENUES:
            raise _refused(
                "symbol_exchange_refused",
                f"{show(bare)} on {venue} is not the crypto market of that name; use a crypto exchange's chart, "
                "or add an alias to the webhook",
            )


def _refused(code: str, message: str) -> Refused:
    return Refused(code, f"symbol: {message}", field="symbol")


# --------------------------------------------------------------------------------------------------- parts of a ticker


def _split_venue(upper: str) -> tuple[str, str]:
    """Split `BYBIT:SOLUSDT.P` into venue and ticker; ccxt's settlement suffix (`ETH/USDT:USDT`) is dropped."""
    if ":" not in upper:
        return "", upper
    settled = _CCXT_SETTLE.fullmatch(upper)
    if settled:
        upper = settled.group(1)
    match = _VENUE.fullmatch(upper)
    return (match.group(1), match.group(2)) if match else ("", upper)


@lru_cache(maxsize=512)  # alerts repeat the same few tickers; texts are at most 40 characters
def _untradable_kind(bare: str) -> str | None:
    return next((kind for pattern, kind in NOT_TRADABLE if pattern.search(bare)), None)


@lru_cache(maxsize=512)
def _parse_ticker(bare: str, venue: str) -> _Ticker:
    marker = next((m for m in PERPETUAL_MARKERS if bare.endswith(m)), None)
    body = bare.removesuffix(marker) if marker else bare
    parts = re.split(r"[-_/]", body)
    if len(parts) > 2 or not all(_PLAIN.fullmatch(part) for part in parts):
        return _Ticker(bare, venue, (), None, marker)
    if len(parts) == 2:
        base, quote = parts
        return _Ticker(bare, venue, (base,) if quote in QUOTES else (), quote, marker)
    quote_found = next((q for q in QUOTES if body.endswith(q) and body != q), None)
    bases = [body] if body not in QUOTES else []
    if quote_found:
        # Not the longest stable-coin suffix: BNBUSD would lose BUSD, DOTUSD would lose TUSD.
        bases.insert(0, body.removesuffix(quote_found))
    return _Ticker(bare, venue, tuple(bases), quote_found, marker)


# ---------------------------------------------------------------------------------------------------------- the match


def _match(
    ticker: _Ticker, text: str, listed: Collection[str], aliases: Mapping[str, str], *, rescale_units: bool
) -> SymbolMatch:
    found: dict[str, tuple[str, Decimal]] = {}
    for base in ticker.bases:
        by_user = _find_alias(aliases, (base,))
        if by_user is not None:
            return _from_alias(base, by_user, listed, rescale_units=rescale_units)
        match = _market_of(BASE_ALIASES.get(base, base), listed)
        if match is not None:
            found[match[0]] = (base, match[1])
    if not found:
        raise _refused("symbol_unknown", f"no market fits {show(text)}{_suggestions(ticker, listed)}")
    if len(found) > 1:
        raise _refused(
            "symbol_ambiguous", f"{show(text)} fits {' and '.join(sorted(found))}; use the exchange's own symbol"
        )
    (symbol, (base, factor)), *_ = found.items()
    _check_ambiguity(ticker, base, symbol)
    if factor != 1 and not rescale_units:
        raise _unit_mismatch(text, symbol, factor)
    return SymbolMatch(symbol, factor, _warnings(ticker, base, symbol, factor), _is_inverse(ticker, base))


def _market_of(base: str, listed: Collection[str]) -> tuple[str, Decimal] | None:
    """The market of a base and its unit factor; the same unit takes precedence over a rescaled one. None unless exactly one fits."""
    direct = f"PERP_{base}_USDC"
    if direct in listed:
        return direct, _ONE
    others = [other for other in _in_other_units(base) if other[0] in listed]
    if not others:
        return None
    same_unit = [other for other in others if other[1] == 1]
    if same_unit:
        return same_unit[0]
    return others[0] if len(others) == 1 else None


@lru_cache(maxsize=512)
def _in_other_units(base: str) -> tuple[tuple[str, Decimal], ...]:
    """Possible market symbols of a base in every unit, each with its unit factor."""
    unit, name = _unit_of(base)
    return tuple((f"PERP_{size if size > 1 else ''}{name}_USDC", Decimal(size) / unit) for size in MULTIPLIERS)


def _unit_of(base: str) -> tuple[int, str]:
    """Unit and coin of a base: 1000 for `1000PEPE`, `SHIB1000` and `KPEPE`, else 1."""
    if base[:1] == "K" and base[1:] in K_UNIT_BASES:
        return 1000, base[1:]
    match = _MULTIPLIED.fullmatch(base)
    if match is None:
        return 1, base
    return (int(match.group(1)), match.group(2)) if match.group(1) else (int(match.group(4)), match.group(3))


def _check_ambiguity(ticker: _Ticker, base: str, symbol: str) -> None:
    """Refuse a ticker whose letters fit but that may be another asset: currencies, stocks, metals, a bare base on a non-crypto venue."""
    hint = f"use {symbol}, or add an alias to the webhook"
    is_bare = ticker.quote is None or base == ticker.text
    if FOREX_PAIR.fullmatch(base):
        raise _refused("symbol_exchange_refused", f"{show(ticker.text)} is a currency pair; {hint}")
    is_crypto_venue = ticker.venue in CRYPTO_VENUES
    if base in TRADFI_BASES and not is_crypto_venue and ticker.marker is None and (is_bare or ticker.quote == "USD"):
        raise _refused(
            "symbol_exchange_refused", f"{show(ticker.text)} may be another asset outside crypto exchanges; {hint}"
        )
    if is_bare and ticker.marker is None and ticker.venue and not is_crypto_venue:
        raise _refused(
            "symbol_exchange_refused", f"{show(ticker.text)} on {show(ticker.venue)} may be another asset; {hint}"
        )


def _warnings(ticker: _Ticker, base: str, symbol: str, factor: Decimal) -> tuple[str, ...]:
    warnings: list[str] = []
    if ticker.quote is not None and ticker.marker is None and base != ticker.text:
        warnings.append(f"{ticker.text} is a spot ticker: its prices differ from {symbol} by the basis")
    if factor != 1:
        warnings.append(
            f"{ticker.text} was rescaled to {symbol}: quantity divided by {factor:f}, prices multiplied by it"
        )
    return tuple(warnings)


def _is_inverse(ticker: _Ticker, base: str) -> bool:
    if ticker.quote == "USD":
        return ticker.marker in INVERSE_MARKERS or base == "XBT" or (ticker.venue == "BITMEX" and ticker.marker is None)
    return ticker.quote is None and ticker.marker == "-PERPETUAL"  # Deribit's BTC-PERPETUAL


# -------------------------------------------------------------------------------------------------- aliases and advice


def _find_alias(aliases: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    if not aliases:
        return None
    for name in names:
        if name in aliases:
            return aliases[name]
    folded = {key.strip(_WHITESPACE).upper(): value for key, value in aliases.items()}
    return next((folded[name.upper()] for name in names if name.upper() in folded), None)


def _from_alias(bare: str, target: str, listed: Collection[str], *, rescale_units: bool) -> SymbolMatch:
    """Resolve to the alias's market. An alias does not change the unit: PEPE to 1000PEPE still needs rescaling."""
    wanted = target.strip(_WHITESPACE)
    symbol = next((s for s in (wanted, wanted.upper(), f"PERP_{wanted.upper()}_USDC") if s in listed), None)
    if symbol is None:
        near = _near(wanted.upper(), listed)
        raise _refused("symbol_unknown", f"the alias of {show(bare)} names {show(target)}, which is not listed{near}")
    ticker = _parse_ticker(bare, "")
    market_unit, market_name = _unit_of(symbol.split("_")[1])
    for base in ticker.bases:
        unit, name = _unit_of(BASE_ALIASES.get(base, base))
        if name == market_name and unit != market_unit:
            factor = Decimal(market_unit) / unit
            if not rescale_units:
                raise _unit_mismatch(bare, symbol, factor)
            return SymbolMatch(symbol, factor, _warnings(ticker, base, symbol, factor), _is_inverse(ticker, base))
    return SymbolMatch(symbol, is_inverse=any(_is_inverse(ticker, base) for base in ticker.bases[:1]))


def _unit_mismatch(text: str, symbol: str, factor: Decimal) -> Refused:
    return _refused(
        "symbol_unit_mismatch",
        f"one unit of {symbol} is {factor:f} units of {show(text)}; use the ticker with that unit, or let the webhook "
        "rescale (--rescale-units)",
    )


def _suggestions(ticker: _Ticker, listed: Collection[str]) -> str:
    base = ticker.bases[0] if ticker.bases else ticker.text.removeprefix("PERP_").split("_")[0]
    return _near(base, listed)


def _near(base: str, listed: Collection[str]) -> str:
    bases = {symbol.split("_")[1]: symbol for symbol in listed if symbol.count("_") >= 2}
    near = nearest(base.removeprefix("PERP_").split("_")[0], bases, most=3)
    return (
        "; did you mean " + " or ".join(bases[name] for name in near) + "?"
        if near
        else "; the exchange's website lists its markets"
    )
