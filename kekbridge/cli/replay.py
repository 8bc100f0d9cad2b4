"""`kekbridge replay`: a dry run of a stored alert in the daemon, under the current limits or others. Sends no order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import parsing
from kekbridge.cli import filters
from kekbridge.cli.context import open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from kekbridge.model import Webhook

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge replay 01KAN5V6Q2R8S",
        "kekbridge replay my-alert-17 --webhook tighter",
        "kekbridge replay my-alert-17 --against-limits max-order-size=0.5 \\",
        "    --against-limits daily-limit=none",
    )
)
def replay(
    ctx: typer.Context,
    alert: Annotated[
        str,
        typer.Argument(
            metavar="ALERT",
            help="An alert, as for `kekbridge explain`.",
            show_default=False,
            autocompletion=filters.complete_alerts,
        ),
    ],
    webhook: Annotated[str | None, filters.webhook_option("Replay it on this webhook. Default: its own.")] = None,
    against_limits: Annotated[
        list[str] | None,
        typer.Option(
            "--against-limits",
            metavar="LIMIT=VALUE",
            help="Replay with this limit; names as in `webhook edit`, `none` removes one. Repeatable.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Send to this URL instead of the daemon's own.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Show what a stored alert would do now; sends nothing.

    Prints every verdict and the exact orders; nothing is stored. Account, positions and daily usage are the current ones. The daemon
    must be running.
    """
    from kekbridge.cli.control import run_operation
    from kekbridge.cli.send import show_reply
    from kekbridge.ops.replay import ReplayAlert
    from kekbridge.store import alerts
    from kekbridge.store import webhooks as stored_webhooks

    limits = parsing.assignments("--against-limits", against_limits or [])
    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database, database.snapshot() as connection:
        stored = alerts.find(connection, alert)
        target = stored_webhooks.find(connection, webhook or stored.webhook_id or stored.webhook_name or "")
    operation = ReplayAlert(alert=stored.id, webhook=target.id, limits=_read_limits(limits, target), url=url)
    return show_reply(run_operation(context, operation), as_json=as_json)


def _read_limits(given: Mapping[str, str], webhook: Webhook) -> dict[str, Any]:
    """Parse limits as `webhook edit` does; returns them under their names in the webhook's settings."""
    from kekbridge.store.codec import to_jsonable
    from kekbridge.webhooks.options import ROWS, apply

    rows = {row.parameter: row for row in ROWS if row.part == "limits"}
    requested: dict[str, Any] = {}
    for name, text in given.items():
        row = rows.get(name.replace("-", "_"))
        if row is None:
            known = ", ".join(option.replace("_", "-") for option in rows)
            raise ConfigError(f"--against-limits: {name[:40]!r} is not a limit; use one of {known}")
        if row.parser is None and text not in ("yes", "no"):
            raise parsing.invalid(f"--against-limits {name}", text, "yes or no")
        requested[row.parameter] = text if row.parser is not None else text == "yes"
    changed = to_jsonable(apply(requested, webhook.settings).limits)
    return {rows[name].field: changed[rows[name].field] for name in requested}
