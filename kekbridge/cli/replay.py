"""`kekbridge replay`: what a stored alert would do now, under today's limits or others. A dry run in the daemon, never live.

The stored copy of a message has its credentials shortened, so its own signature cannot be checked again: the owner's stands in for it,
and its age is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from ulid import ULID

from kekbridge import parsing
from kekbridge.cli.context import now, open_sealer, opened, resolve_context, webhook_url
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from kekbridge.model import Webhook

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_CUT: Final = "…"  # how a stored message marks what was left out or shortened


@app.command(
    epilog=examples(
        "kekbridge replay 01KAN5V6Q2R8S",
        "kekbridge replay my-alert-17 --webhook tighter",
        "kekbridge replay my-alert-17 --against-limits max-order-size=0.5 --against-limits daily-limit=none",
    )
)
def replay(
    context: typer.Context,
    alert: Annotated[
        str, typer.Argument(metavar="ALERT", help="An alert, as for `kekbridge explain`.", show_default=False)
    ],
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook", metavar="NAME", help="As if this webhook had got it. Default: its own.", show_default=False
        ),
    ] = None,
    against_limits: Annotated[
        list[str] | None,
        typer.Option(
            "--against-limits",
            metavar="LIMIT=VALUE",
            help="As if the webhook had this limit; names as in `webhook edit`, `none` takes one away. Repeatable.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The daemon's address, if not its own.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Show what a stored alert would do now; never live.

    Every verdict and the exact orders; nothing is sent or stored. The account, its positions and the day's use are those of this
    moment. The daemon must run.
    """
    from kekbridge.cli import send
    from kekbridge.ingress.http import DryRun
    from kekbridge.store import alerts
    from kekbridge.store import webhooks as stored_webhooks
    from kekbridge.webhooks import registry

    limits = parsing.assignments("--against-limits", against_limits or [])
    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        sealer = open_sealer(workspace, database)
        with database.snapshot() as connection:
            stored = alerts.find(connection, alert)
            chosen = stored_webhooks.find(connection, webhook or stored.webhook_id or stored.webhook_name or "")
            credentials = registry.credentials_of(connection, sealer, chosen, now=now())
            address = url or webhook_url(workspace, connection)
    body = _message(stored.payload, credentials.api_key)
    rehearsal = DryRun(limits=_limits(limits, chosen), is_replay=True)
    headers = send.headers_of(body, credentials.api_secret, rehearsal, is_signed=False)
    return send.show(send.post(address, body, headers), as_json=as_json)


def _message(payload: Mapping[str, Any], api_key: str) -> bytes:
    """The stored message as a new one: our own apiKey, a name of its own, no signature. Raises ConfigError when it was stored cut."""
    from kekbridge.alerts.field_names import CREDENTIAL_FIELDS, IDENTITY_FIELDS, canonical_name

    dropped = IDENTITY_FIELDS | frozenset(CREDENTIAL_FIELDS)

    def without_identity(step: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in step.items() if canonical_name(name) not in dropped}

    message = without_identity(payload)
    if isinstance(payload.get("steps"), list):
        message["steps"] = [without_identity(step) for step in payload["steps"] if isinstance(step, Mapping)]
    text = json.dumps(message, ensure_ascii=False, default=str)
    if _CUT in text:
        raise ConfigError(
            "this alert was stored with parts of it cut or hidden, so it cannot be replayed; send it with `webhook test`"
        )
    message |= {"apiKey": api_key, "alertId": f"replay-{ULID()}"}
    return json.dumps(message, ensure_ascii=False, default=str).encode()


def _limits(given: Mapping[str, str], webhook: Webhook) -> dict[str, Any]:
    """Limits by their names in the webhook's settings, read as `webhook edit` reads them."""
    from kekbridge.store.codec import plain
    from kekbridge.webhooks.options import ROWS, apply

    rows = {row.parameter: row for row in ROWS if row.part == "limits"}
    asked: dict[str, Any] = {}
    for name, text in given.items():
        row = rows.get(name.replace("-", "_"))
        if row is None:
            known = ", ".join(option.replace("_", "-") for option in rows)
            raise ConfigError(f"--against-limits: {name[:40]!r} is no limit; use one of {known}")
        if row.reader is None and text not in ("yes", "no"):
            raise parsing.invalid(f"--against-limits {name}", text, "yes or no")
        asked[row.parameter] = text if row.reader is not None else text == "yes"
    changed = plain(apply(asked, webhook.settings).limits)
    return {rows[name].field: changed[rows[name].field] for name in asked}
