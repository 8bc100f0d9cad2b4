"""Filters of the commands that list: each names something that exists, or is an error with "did you mean"; and their shell completion.

A filter that can match nothing must not look like a quiet day: an unknown webhook or market is exit code 3, an unknown word exit code 2.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from kekbridge.cli.options import GlobalOptions
from kekbridge.formatting import did_you_mean, market

_VENUE_CODE: Final = "orderly:"


def known_webhook(connection: sqlite3.Connection, name: str | None) -> str | None:
    """The name or id of a webhook, also of one that was deleted after it had alerts. Raises NotFound with the nearest name."""
    from kekbridge.store import alerts, webhooks

    if name is not None and not alerts.ids_of_webhook(connection, name):
        webhooks.find(connection, name)
    return name


def known_symbol(connection: sqlite3.Connection, text: str | None, option: str = "--symbol") -> str | None:
    """The exchange's symbol for a market that the exchange lists, or that has an alert, an order or a position here.

    Before a bridge has read the exchange's markets any is accepted.

    Raises ConfigError for what is no market's name, NotFound with the nearest market.
    """
    from kekbridge.errors import NotFound
    from kekbridge.webhooks.registry import perp_symbol

    if text is None:
        return None
    symbol = perp_symbol(text, option)
    listed = markets(connection)
    if not listed or symbol in listed or _has_symbol(connection, symbol):
        return symbol
    bases = [market(one) for one in listed]
    hint = did_you_mean(market(symbol), bases, otherwise="see the exchange's markets")
    raise NotFound("not_found", f"{option}: there is no market {market(symbol)}; {hint}")


def known_alert_status(text: str | None) -> str | None:
    """A status that an alert may have. Raises ConfigError."""
    return None if text is None else _word("--status", text, alert_statuses())


def known_order_status(text: str | None) -> str | None:
    """A status that an order may have. Raises ConfigError."""
    return None if text is None else _word("--status", text, order_statuses())


def known_code(text: str | None) -> str | None:
    """A published code, or one of the exchange's (`orderly:-1102`). Raises ConfigError."""
    from kekbridge.codes import CODES

    if text is None or text.startswith(_VENUE_CODE):
        return text
    return _word("--code", text, CODES, otherwise="`kekbridge explain --codes` lists them")


def known_kinds(connection: sqlite3.Connection, kinds: Iterable[str]) -> tuple[str, ...]:
    """Kinds of events that the bridge writes. Raises ConfigError for one that it never has."""
    from kekbridge.store import journal

    found: list[str] = []
    for kind in kinds:
        word = kind.strip().lower().replace("-", "_")
        if word not in event_kinds() and not journal.has_kind(connection, word):
            _word("--kind", kind, event_kinds(), otherwise="`kekbridge notify events` lists them")
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


# ------------------------------------------------------------------------------------------------------ shell completion

Completer = Callable[..., list[str]]


def complete_webhooks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of webhooks."""
    return _starting(incomplete, _read(ctx, "SELECT name FROM webhooks ORDER BY name"))


def webhook_option(text: str) -> Any:
    """The option --webhook; `text` is its help."""
    return typer.Option("--webhook", metavar="NAME", help=text, show_default=False, autocompletion=complete_webhooks)


#: Argument of a command that is about one webhook.
WebhookName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="The webhook's name or id.", show_default=False, autocompletion=complete_webhooks
    ),
]


def complete_alerts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Short ids and alertIds of the newest alerts."""
    from kekbridge.formatting import short_id

    query = "SELECT id, alert_id FROM alerts ORDER BY received_at DESC LIMIT 50"
    rows = _read(ctx, query, columns=2)
    return _starting(incomplete, (*map(short_id, rows[::2]), *rows[1::2]))


def complete_symbols(ctx: typer.Context, incomplete: str) -> list[str]:
    """Bases of the exchange's markets; of a list with commas the last one."""
    before, comma, last = incomplete.rpartition(",")
    bases = [market(symbol) for symbol in _with_connection(ctx, markets)]
    found = _starting(last.upper(), bases)
    return [f"{before}{comma}{base.lower() if last.islower() else base}" for base in found]


def complete_order_statuses(incomplete: str) -> list[str]:
    """Statuses of orders."""
    return _starting(incomplete, order_statuses())


def complete_alert_statuses(incomplete: str) -> list[str]:
    """Statuses of alerts."""
    return _starting(incomplete, alert_statuses())


def complete_codes(incomplete: str) -> list[str]:
    """Published codes."""
    from kekbridge.codes import CODES

    return _starting(incomplete, CODES)


def complete_alerts_and_codes(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `kekbridge explain` takes."""
    return [*complete_alerts(ctx, incomplete), *complete_codes(incomplete)]


def complete_kinds(incomplete: str) -> list[str]:
    """Kinds of events."""
    return _starting(incomplete, event_kinds())


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name and name.startswith(incomplete)]


def _read(ctx: typer.Context, query: str, *, columns: int = 1) -> list[str]:
    def run(connection: sqlite3.Connection) -> list[str]:
        return [str(row[index] or "") for row in connection.execute(query) for index in range(columns)]

    return list(_with_connection(ctx, run))


def _with_connection(ctx: typer.Context, function: Callable[[sqlite3.Connection], Iterable[str]]) -> tuple[str, ...]:
    """Read the data directory's database; nothing if there is none: a shell's completion shows no errors and changes nothing."""
    from kekbridge.config import default_data_dir
    from kekbridge.errors import KekbridgeError
    from kekbridge.store.connections import FILE_NAME, connect

    given = _given_directory(ctx)
    try:
        file = (given or default_data_dir()).expanduser() / FILE_NAME
        if not os.access(file, os.R_OK | os.W_OK):
            return ()
        with closing(connect(file, wait_s=0.2, read_only=True)) as connection:
            return tuple(function(connection))
    except (OSError, sqlite3.Error, KekbridgeError):
        return ()


def _given_directory(ctx: Any) -> Path | None:
    for each in (ctx, ctx.find_root()):
        given = each.params.get("data_dir") or (each.obj.data_dir if isinstance(each.obj, GlobalOptions) else None)
        if given:
            return Path(given)
    return None
