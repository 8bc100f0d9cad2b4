"""`kekbridge webhook`: the doors for alerts. Works beside a running daemon, which reads webhooks at each request.

Secrets are printed by `create` and `show --secret` only, on stdout and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli import send
from kekbridge.cli.context import CliContext, mode_in_force, now, open_sealer, opened, resolve_context, webhook_url
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples
from kekbridge.cli.webhook_options import declare

if TYPE_CHECKING:
    from kekbridge.model import Webhook
    from kekbridge.store.database import Database
    from kekbridge.webhooks.options import Row
    from kekbridge.webhooks.registry import Credentials

app = typer.Typer(
    help="Create, list, show, edit and switch webhooks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples(
        "kekbridge webhook create btc-trend --allowed-symbols BTC --max-order-size 0.5",
        "kekbridge webhook show btc-trend",
    ),
)

app.command("test", epilog=send.EPILOG)(send.send_test)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name or id.", show_default=False)]


@app.command(
    epilog=examples(
        "kekbridge webhook create default",
        "kekbridge webhook create btc-trend --allowed-symbols BTC,ETH --max-order-size 0.5 --daily-limit 20000 \\",
        "    --max-leverage 5 --require-stop-loss --rate-per-minute 5",
        "kekbridge webhook create legacy --no-require-signature --json",
    )
)
@declare
def create(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="1 to 64 letters, digits, dots, dashes, underscores.", show_default=False),
    ],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Create a webhook; print its URL, key and secret.

    A running daemon takes its alerts at once. Limits hold for entries; exits always pass. `none` takes a limit away.
    """
    from kekbridge.cli import render
    from kekbridge.model import WebhookSettings
    from kekbridge.webhooks import registry
    from kekbridge.webhooks.options import apply

    registry.check_name(name)
    settings = apply(given, WebhookSettings())
    workspace = resolve_context(context, data_dir, config)
    with opened(workspace, create=True) as database:
        mode, sealer = mode_in_force(workspace, database), open_sealer(workspace, database)
        with database.transaction() as connection:
            webhook, credentials = registry.create(
                connection, sealer, name=name, settings=settings, mode=mode, now=now()
            )
        shown = _as_data(webhook, _url(workspace, database), credentials)
    if as_json:
        render.as_json(shown)
        return
    _print(shown)
    render.note(f"The message for TradingView:  kekbridge template {name}")
    render.note(f"The secret again, later:      kekbridge webhook show {name} --secret")


@app.command("list", epilog=examples("kekbridge webhook list", "kekbridge webhook list --json"))
def list_webhooks(
    context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List every webhook with its main limits and last alert."""
    from kekbridge.cli import render
    from kekbridge.store import alerts
    from kekbridge.store import webhooks as stored

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database, database.snapshot() as connection:
        found = stored.list_all(connection)
        last = {webhook.id: alerts.search(connection, webhook=webhook.name, limit=1).alerts for webhook in found}
        url = webhook_url(workspace, connection)
    if as_json:
        render.as_json([_as_data(webhook, url) for webhook in found])
        return
    if not found:
        render.note("No webhook yet. Create one:  kekbridge webhook create NAME")
        return
    columns = [
        render.Column("NAME"),
        render.Column("STATE", is_status=True),
        render.Column("PROOF"),
        render.Column("SYMBOLS", shrinks=True),
        render.Column("MAX SIZE", justify="right"),
        render.Column("LAST ALERT", justify="right"),
    ]
    render.table(
        columns,
        [
            (
                webhook.name,
                "enabled" if webhook.enabled else "disabled",
                "signature" if webhook.settings.require_signature else "NO SIGNATURE",
                "any" if webhook.settings.limits.allowed_symbols is None else webhook.settings.limits.allowed_symbols,
                webhook.settings.limits.max_order_size,
                render.age(last[webhook.id][-1].received_at, now()) if last[webhook.id] else "never",
            )
            for webhook in found
        ],
    )
    unsigned = [webhook.name for webhook in found if not webhook.settings.require_signature]
    if unsigned:
        render.note(
            f"Without signature, whoever learns the apiKey can send any order: {', '.join(unsigned)}."
            "  kekbridge webhook edit NAME --require-signature"
        )


@app.command(
    epilog=examples(
        "kekbridge webhook rotate default",
        "kekbridge webhook rotate default --grace 1h     the old pair works one hour more",
        "kekbridge webhook rotate leaked --grace 0       the old pair stops at once",
    )
)
def rotate(
    context: typer.Context,
    name: Name,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old pair stays valid; 0: it stops at once.")
    ] = "7d",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Give a webhook a new key and secret; the old pair works for the grace time more.

    `webhook show` tells when each was last used. Paste the new message into every alert meanwhile.
    """
    from datetime import timedelta

    from kekbridge import parsing
    from kekbridge.cli import render
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry

    allowed = timedelta(seconds=0 if grace.strip() in ("0", "0s") else parsing.seconds("--grace", grace))
    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        mode, sealer = mode_in_force(workspace, database), open_sealer(workspace, database)
        with database.transaction() as connection:
            webhook = stored.find(connection, name)
            ended = registry.valid_keys(connection, webhook, now=now())
            at = now()
            credentials = registry.rotate(connection, sealer, webhook, mode=mode, grace=allowed, now=at)
        shown = _as_data(webhook, _url(workspace, database), credentials)
    shown["replaced"] = [
        {"id": key.id, "prefix": key.prefix, "expiresAt": min(at + allowed, key.expires_at or at + allowed)}
        for key in ended
    ]
    if as_json:
        render.as_json(shown)
        return
    titles = {"name": "name", "webhookUrl": "webhook URL", "apiKey": "apiKey", "apiSecret": "apiSecret"}
    render.pairs([(title, shown[key]) for key, title in titles.items()])
    for key in shown["replaced"]:
        until = f"works until {render.to_text(key['expiresAt'])} UTC" if allowed else "is refused from now on"
        render.note(f"The old key {key['prefix']}… {until}.")
    render.note(f"The message with the new key:  kekbridge template {webhook.name}")


@app.command(epilog=examples("kekbridge webhook show default", "kekbridge webhook show default --secret --json"))
def show(
    context: typer.Context,
    name: Name,
    secret: Annotated[bool, typer.Option("--secret", help="Print apiKey and apiSecret, too.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show one webhook with all its settings."""
    from kekbridge.cli import render
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        sealer = open_sealer(workspace, database) if secret else None
        with database.snapshot() as connection:
            webhook = stored.find(connection, name)
            keys = stored.list_keys(connection, webhook.id)
            url = webhook_url(workspace, connection)
            credentials = None if sealer is None else registry.credentials_of(connection, sealer, webhook, now=now())
    shown = _as_data(webhook, url, credentials)
    shown["keys"] = [
        {
            "id": key.id,
            "prefix": key.prefix,
            "state": registry.key_state(key, now()),
            "createdAt": key.created_at,
            "lastUsedAt": key.last_used_at,
            "expiresAt": key.expires_at,
            "revokedAt": key.revoked_at,
        }
        for key in keys
    ]
    if as_json:
        render.as_json(shown)
    else:
        _print(shown)


@app.command(
    epilog=examples(
        "kekbridge webhook edit default --max-order-size 2 --require-stop-loss",
        "kekbridge webhook edit default --allowed-symbols none --name main",
    )
)
@declare
def edit(
    context: typer.Context,
    name: Name,
    new_name: Annotated[
        str | None, typer.Option("--name", metavar="NEW", help="Give it another name.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Change the options that are given, at once.

    The others stay as they are. `none` takes a limit away.
    """
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry
    from kekbridge.webhooks.options import apply

    if new_name is None and not any(value not in (None, []) for value in given.values()):
        raise ConfigError(
            f"nothing to change; name an option, see `kekbridge webhook edit --help`: webhook {name} is as it was"
        )
    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        with database.transaction() as connection:
            webhook = stored.find(connection, name)
            settings = apply(given, webhook.settings)
            registry.check_settings(settings)
            webhook = stored.change_settings(connection, webhook.id, settings, now=now())
            if new_name is not None:
                registry.check_name(new_name)
                webhook = stored.rename(connection, webhook.id, new_name, now=now())
        shown = _as_data(webhook, _url(workspace, database))
    if as_json:
        render.as_json(shown)
    else:
        _print(shown)


@app.command(epilog=examples("kekbridge webhook enable default"))
def enable(
    context: typer.Context, name: Name, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Let a webhook take alerts again."""
    _switch(resolve_context(context, data_dir, config), name, is_on=True, as_json=as_json)


@app.command(epilog=examples("kekbridge webhook disable default"))
def disable(
    context: typer.Context, name: Name, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Refuse every alert of a webhook, exits too (403)."""
    _switch(resolve_context(context, data_dir, config), name, is_on=False, as_json=as_json)


@app.command(epilog=examples("kekbridge webhook delete old", "kekbridge webhook delete old --yes"))
def delete(
    context: typer.Context,
    name: Name,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Delete a webhook and its keys.

    Alerts that still use its key get 401. Its alerts and orders stay in the history.
    """
    from kekbridge.cli import render
    from kekbridge.store import webhooks as stored

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        with database.snapshot() as connection:
            webhook = stored.find(connection, name)
        if not yes:
            typer.confirm(f"Delete webhook {webhook.name}? Its key stops working at once.", abort=True, err=True)
        with database.transaction() as connection:
            stored.delete(connection, webhook.id, now=now())
    if as_json:
        render.as_json({"id": webhook.id, "name": webhook.name, "deleted": True})
    else:
        render.line(f"webhook {webhook.name} is deleted")


def _switch(workspace: CliContext, name: str, *, is_on: bool, as_json: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.store import webhooks as stored

    with opened(workspace) as database, database.transaction() as connection:
        webhook = stored.find(connection, name)
        change = stored.enable if is_on else stored.disable
        webhook = change(connection, webhook.id, now=now())
        url = webhook_url(workspace, connection)
    if as_json:
        render.as_json(_as_data(webhook, url))
    else:
        render.line(f"webhook {webhook.name} is {'enabled' if is_on else 'disabled'}")


def _url(workspace: CliContext, database: Database) -> str:
    with database.snapshot() as connection:
        return webhook_url(workspace, connection)


def _as_data(webhook: Webhook, url: str, credentials: Credentials | None = None) -> dict[str, Any]:
    """What `--json` prints of a webhook; credentials only where they were asked for."""
    from kekbridge.cli import render

    shown: dict[str, Any] = {"id": webhook.id, "name": webhook.name, "enabled": webhook.enabled, "webhookUrl": url}
    if credentials is not None:
        shown |= {"apiKey": credentials.api_key, "apiSecret": credentials.api_secret}
    return shown | {"createdAt": webhook.created_at, "settings": render.to_jsonable(webhook.settings)}


def _print(shown: dict[str, Any]) -> None:
    """The same data for people: what is set first, then every limit by the name of its option."""
    from kekbridge.cli import render
    from kekbridge.webhooks.options import ROWS

    settings = shown["settings"]
    rows: list[tuple[str, object]] = [
        ("name", shown["name"]),
        ("id", shown["id"]),
        ("state", "enabled" if shown["enabled"] else "disabled"),
        ("webhook URL", shown["webhookUrl"]),
    ]
    rows += [(key, shown[key]) for key in ("apiKey", "apiSecret") if key in shown]
    render.pairs(rows)
    if shown.get("keys"):
        render.heading("keys")
        columns = [
            *(render.Column(title) for title in ("PREFIX", "CREATED")),
            *(render.Column(title, justify="right") for title in ("LAST USED", "ENDS")),
        ]
        render.table(columns, [_key_row(key) for key in shown["keys"]])
    render.heading("settings")
    parts = {"limits": settings["limits"], "rates": settings["rates"], "": settings}
    pairs = [(row.option.removeprefix("--"), _words(row, parts[row.part][render.camel(row.field)])) for row in ROWS]
    render.pairs([(name, value) for name, value in pairs if value not in (None, {}, [])], indent=2)
    unset = [name for name, value in pairs if value in (None, {}, [])]
    render.note(f"not set: {', '.join(unset)}")


def _key_row(key: dict[str, Any]) -> tuple[object, ...]:
    from kekbridge.cli import render

    used = render.age(key["lastUsedAt"], now()) if key["lastUsedAt"] else "never"
    ends = key["revokedAt"] or key["expiresAt"]
    return f"{key['prefix']}…", key["createdAt"], used, "-" if ends is None else render.age(ends, now())


def _words(row: Row, value: Any) -> Any:
    """A setting as its option would be typed."""
    from decimal import Decimal

    from kekbridge.cli import render

    return f"{render.amount(Decimal(value) * 100)}%" if value is not None and row.is_share else value
