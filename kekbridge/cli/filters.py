"""Shell completion of the names that commands take: webhooks, alerts, markets, statuses, codes, kinds of events."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from kekbridge.cli.options import GlobalOptions
from kekbridge.formatting import market
from kekbridge.ops import known_names

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
    bases = [market(symbol) for symbol in _with_connection(ctx, known_names.markets)]
    found = _starting(last.upper(), bases)
    return [f"{before}{comma}{base.lower() if last.islower() else base}" for base in found]


def complete_order_statuses(incomplete: str) -> list[str]:
    """Statuses of orders."""
    return _starting(incomplete, known_names.order_statuses())


def complete_alert_statuses(incomplete: str) -> list[str]:
    """Statuses of alerts."""
    return _starting(incomplete, known_names.alert_statuses())


def complete_codes(incomplete: str) -> list[str]:
    """Published codes."""
    from kekbridge.codes import CODES

    return _starting(incomplete, CODES)


def complete_alerts_and_codes(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `kekbridge explain` takes."""
    return [*complete_alerts(ctx, incomplete), *complete_codes(incomplete)]


def complete_kinds(incomplete: str) -> list[str]:
    """Kinds of events."""
    return _starting(incomplete, known_names.event_kinds())


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
