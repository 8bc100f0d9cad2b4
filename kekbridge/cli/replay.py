"""`kekbridge replay`: a dry run of a stored alert in the daemon, under the current limits or others. Sends no order.

The stored message has its credentials shortened, so its own signature cannot be verified: the request is signed with the webhook's
secret instead, and the message's age is not checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from ulid import ULID

from kekbridge import parsing
from kekbridge.cli import filters
from kekbridge.cli.context import open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from kekbridge.model import Webhook

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_ELLIPSIS: Final = "…"  # marks parts of a stored message that were left out or shortened


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
    from kekbridge.ops.webhook_operations import SendAlert
    from kekbridge.store import alerts
    from kekbridge.store import webhooks as stored_webhooks

    limits = parsing.assignments("--against-limits", against_limits or [])
    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database, database.snapshot() as connection:
        stored = alerts.find(connection, alert)
        target = stored_webhooks.find(connection, webhook or stored.webhook_id or stored.webhook_name or "")
    operation = SendAlert(
        webhook=target.id,
        message=_message(stored.payload),
        dry_run=True,
        limits=_read_limits(limits, target),
        is_replay=True,
        url=url,
    )
    return show_reply(run_operation(context, operation), as_json=as_json)


def _message(payload: Mapping[str, Any]) -> str:
    """Build a new message from a stored one: a new alertId, no credentials. Raises ConfigError if parts are missing."""
    from kekbridge.alerts.field_names import CREDENTIAL_FIELDS, IDENTITY_FIELDS, canonical_name

    dropped = IDENTITY_FIELDS | frozenset(CREDENTIAL_FIELDS)

    def without_identity(step: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in step.items() if canonical_name(name) not in dropped}

    message = without_identity(payload)
    if isinstance(payload.get("steps"), list):
        message["steps"] = [without_identity(step) for step in payload["steps"] if isinstance(step, Mapping)]
    text = json.dumps(message, ensure_ascii=False, default=str)
    if _ELLIPSIS in text:
        raise ConfigError(
            "parts of this alert were not stored, so it cannot be replayed; send the message with `webhook test` instead"
        )
    message |= {"alertId": f"replay-{ULID()}"}
    return json.dumps(message, ensure_ascii=False, default=str)


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
