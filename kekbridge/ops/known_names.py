"""Names that choose rows in a list: webhooks, markets, statuses, codes, kinds of events. An unknown one is an error with "did you mean".

A filter that can match nothing must not look like a quiet day. Used by the commands that list and by the API of the web pages; `option` is
the filter's name in errors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from kekbridge.formatting import did_you_mean, market

if TYPE_CHECKING:
    from kekbridge.alerts.symbols import SymbolMatch


def webhook(connection: sqlite3.Connection, name: str | None) -> str | None:
    """The name or id of a webhook, also of one that was deleted after it had alerts. Raises NotFound with the nearest name."""
    from kekbridge.store import alerts, webhooks

    if name is not None and not alerts.ids_of_webhook(connection, name):
        webhooks.find(connection, name)
    return name


def symbol(connection: sqlite3.Connection, text: str | None, option: str = "--symbol") -> str | None:
    """The exchange's symbol for a market that the exchange lists, or that has an alert, an order or a position here.

    Any spelling that alerts may have (`find_market`). Before a bridge has read the exchange's markets any base is accepted.

    Raises ConfigError for what is no market's name, NotFound with the nearest market.
    """
    from kekbridge.errors import NotFound
    from kekbridge.webhooks.registry import perp_symbol

    if text is None:
        return None
    listed = markets(connection)
    if not listed:
        return perp_symbol(text, option)
    try:
        return find_market(text, frozenset(listed), option).symbol
    except NotFound:  # not listed any more
        found = perp_symbol(text, option)
        if _has_symbol(connection, found):
            return found
        raise


def find_market(text: str, listed: Collection[str], option: str = "symbol") -> SymbolMatch:
    """The listed market of a base (`btc`), the exchange's name, or a ticker as alerts may have it (`BTCUSDT.P`, `BYBIT:BTCUSDT.P`).

    A listed base is that market, also where an alert would need a chart's exchange to be sure. Raises NotFound with the nearest market,
    ConfigError for what fits none or more than one.
    """
    from kekbridge.alerts.symbols import SymbolMatch, resolve
    from kekbridge.errors import ConfigError, NotFound, Refused

    name = text.strip()
    for each in (name, name.upper(), f"PERP_{name.upper()}_USDC"):
        if each in listed:
            return SymbolMatch(each)
    try:
        return resolve(text, exchange=None, listed=listed, aliases={}, rescale_units=True)
    except Refused as error:
        why, _, advice = error.message.removeprefix("symbol: ").partition("; ")
        if error.code != "symbol_unknown":  # the advice is for an alert
            fix = "write the base (BTC) or the exchange's name (PERP_BTC_USDC)"
            raise ConfigError(f"{option}: {why}; {fix}") from None
        base = market(name.upper())
        hint = did_you_mean(base, map(market, listed), otherwise=advice)
        raise NotFound("not_found", f"{option}: there is no market {base[:40]}; {hint}") from None


def alert_status(text: str | None, option: str = "--status") -> str | None:
    """A status that an alert may have. Raises ConfigError."""
    return None if text is None else _word(option, text, alert_statuses())


def order_status(text: str | None, option: str = "--status") -> str | None:
    """A status that an order may have. Raises ConfigError."""
    return None if text is None else _word(option, text, order_statuses())


def code(text: str | None, option: str = "--code") -> str | None:
    """A published code, or one of the exchange's (`orderly:-1102`). Raises ConfigError."""
    from kekbridge.codes import CODES, EXCHANGE

    if text is None or text.startswith(EXCHANGE):
        return text
    return _word(option, text, CODES, otherwise="`kekbridge explain --codes` lists them")


def kinds(connection: sqlite3.Connection, texts: Iterable[str], option: str = "--kind") -> tuple[str, ...]:
    """Kinds of events that the bridge writes. Raises ConfigError for one that it never has."""
    from kekbridge.store import journal

    found: list[str] = []
    for text in texts:
        word = text.strip().lower().replace("-", "_")
        if word not in event_kinds() and not journal.has_kind(connection, word):
            _word(option, text, event_kinds(), otherwise="`kekbridge notify events` lists them")
        found.append(word)
    return tuple(found)


def alert_statuses() -> tuple[str, ...]:
    """Every status of an alert in `logs`."""
    return (*order_statuses(), "refused", "duplicate", "ignored", "failed")


def order_statuses() -> tuple[str, ...]:
    """Every status of an order."""
    from kekbridge.model import OrderStatus

    return tuple(status.value for status in OrderStatus)


def event_kinds() -> tuple[str, ...]:
    """Kinds of events with a notification, and those of orders."""
    from kekbridge.model.notifications import MESSAGES

    return (*MESSAGES, *(f"order_{status}" for status in order_statuses()))


def markets(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The exchange's symbols, as the bridge that started last has read them; empty if none has."""
    from kekbridge.webhooks.registry import listed_markets

    return listed_markets(connection)


def _word(option: str, text: str, known: Iterable[str], otherwise: str = "") -> str:
    from kekbridge.errors import ConfigError

    names = tuple(known)
    word = text.strip().lower()
    if word in names:
        return word
    hint = did_you_mean(text, names, otherwise=otherwise or f"use one of {', '.join(names)}")
    raise ConfigError(f"{option}: there is no {option.removeprefix('--')} {text[:40]!r}; {hint}")


def _has_symbol(connection: sqlite3.Connection, symbol: str) -> bool:
    return any(
        connection.execute(f"SELECT 1 FROM {table} WHERE symbol = ? LIMIT 1", (symbol,)).fetchone()  # noqa: S608 - constants
        for table in ("alerts", "orders", "positions")
    )
