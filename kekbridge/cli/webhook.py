"""`kekbridge webhook`: create and manage webhooks, through the running daemon if there is one.

Secrets are printed only by `create`, `rotate` and `show --secret`, and only on stdout.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kekbridge import formatting, parsing
from kekbridge.cli import filters, send
from kekbridge.cli.context import CliContext, now, open_database, resolve_context, webhook_url
from kekbridge.cli.control import run_operation
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, Yes, examples
from kekbridge.model import WebhookSettings
from kekbridge.ops.webhook_operations import (
    CreateWebhook,
    DeleteWebhook,
    DisableWebhook,
    EditWebhook,
    EnableWebhook,
    RotateWebhook,
    ShowCredentials,
    ShowWebhook,
    trading_data,
    webhook_data,
)
from kekbridge.webhooks.options import ROWS, Row

if TYPE_CHECKING:
    from kekbridge.alerts.message_check import MessageCheck

_MAX_PASTED_BYTES: Final = 65_536  # what the listener takes

app = typer.Typer(
    cls=CommandGroup,
    help="Create, list, show, edit and test webhooks, and check messages.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples(
        "kekbridge webhook create btc --allowed-symbols BTC --max-order-size 0.5",
        "kekbridge webhook show btc",
    ),
)

app.command("test", epilog=send.TEST_EXAMPLES)(send.send_test)


def _with_setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for every webhook setting to a command with `**options`; Typer reads the new signature."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    data_dir_index = next(index for index, parameter in enumerate(own) if parameter.name == "data_dir")
    parameters = [
        inspect.Parameter(
            row.parameter,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[_option_type(row), _option(row)],
        )
        for row in ROWS
    ]
    signature = inspect.Signature([*own[:data_dir_index], *parameters, *own[data_dir_index:]])
    command.__signature__ = signature  # type: ignore[attr-defined]  # takes precedence over the real one
    return command


def _option_type(row: Row) -> Any:
    if row.is_many:
        return list[str] | None
    return bool | None if row.parser is None else str | None


def _option(row: Row) -> Any:
    defaults = WebhookSettings()
    default = getattr(getattr(defaults, row.part) if row.part else defaults, row.field)
    has_default = default not in (None, (), {}, False)
    help_text = f"{row.help} Default: {'yes' if default is True else default}." if has_default else row.help
    if row.parser is None and not row.is_many:
        return typer.Option(f"{row.option}/--no-{row.option.removeprefix('--')}", help=help_text, show_default=False)
    complete = filters.complete_symbols if row.option == "--allowed-symbols" else None
    return typer.Option(row.option, metavar=row.metavar, help=help_text, show_default=False, autocompletion=complete)


@app.command(
    epilog=examples(
        "kekbridge webhook create default",
        "kekbridge webhook create btc-trend --allowed-symbols BTC,ETH \\",
        "    --max-order-size 0.5 --daily-limit 20000 --max-leverage 5 \\",
        "    --require-stop-loss --rate-per-minute 5",
        "kekbridge webhook create legacy --no-require-signature --json",
    )
)
@_with_setting_options
def create(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="1 to 64 letters, digits, dots, dashes, underscores.", show_default=False),
    ],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Create a webhook and print its URL, key and secret.

    A running daemon accepts its alerts at once. Limits apply to entries; exits always pass. The value `none` removes a limit.
    """
    from kekbridge.cli import render

    operation = CreateWebhook(name=name, options=_given(options))
    data = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(data)
        return
    _print(data)
    if options.get("key_in_path"):
        _warn_of_key_in_path(name)
    render.note(f"Message for TradingView:     kekbridge template {name}")
    render.note(f"Show the secret again:       kekbridge webhook show {name} --secret")


@app.command("list", epilog=examples("kekbridge webhook list", "kekbridge webhook list --json"))
def list_webhooks(
    ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List every webhook with its main limits and last alert."""
    from kekbridge.cli import render
    from kekbridge.reports import webhook_summary

    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database, database.snapshot() as connection:
        found = webhook_summary.read_all(connection, now=now(), zone=None)
        url = webhook_url(context, connection)
    if as_json:
        render.as_json(
            [webhook_data(one.webhook, url) | {"trading": trading_data(one.control, one.scope)} for one in found]
        )
        return
    if not found:
        render.note("No webhooks yet. Create one:  kekbridge webhook create NAME")
        return
    columns = [
        render.Column("NAME"),
        render.Column("STATE", is_status=True, shrinks=True),
        render.Column("PROOF", drop=2),
        render.Column("SYMBOLS", shrinks=True, drop=3),
        render.Column("MAX SIZE", justify="right"),
        render.Column("LAST ALERT", justify="right", drop=1),
    ]
    render.table(
        columns,
        [
            (
                one.webhook.name,
                one.state,
                "signature" if one.webhook.settings.require_signature else "NO SIGNATURE",
                webhook_summary.markets_text(one.webhook),
                webhook_summary.largest_order_text(one.webhook),
                formatting.age(one.last_alert_at, now()) if one.last_alert_at else "never",
            )
            for one in found
        ],
    )
    for one in found:
        if one.fix:
            render.note(f"{one.webhook.name} takes no entries.  Fix:  {one.fix}")
    webhooks = [one.webhook for one in found]
    unsigned = [webhook.name for webhook in webhooks if not webhook.settings.require_signature]
    if unsigned:
        render.note(
            f"No signature required: anyone who knows the apiKey can send orders to {', '.join(unsigned)}."
            "  Fix:  kekbridge webhook edit NAME --require-signature"
        )


@app.command(
    epilog=examples(
        "kekbridge webhook rotate default",
        "kekbridge webhook rotate default --grace 1h     old pair valid for an hour",
        "kekbridge webhook rotate leaked --grace 0       old pair revoked at once",
    )
)
def rotate(
    ctx: typer.Context,
    name: filters.WebhookName,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old pair stays valid; 0 revokes it at once.")
    ] = "7d",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Give a webhook a new key and secret.

    The old pair stays valid for the grace period: paste the new message into every alert during that time. `webhook show` lists when each
    key was last used.
    """
    from kekbridge import parsing
    from kekbridge.cli import render

    grace_s = 0 if grace.strip() in ("0", "0s") else parsing.seconds("--grace", grace)
    data = run_operation(resolve_context(ctx, data_dir, config), RotateWebhook(webhook=name, grace_s=grace_s))
    if as_json:
        render.as_json(data)
        return
    titles = {"webhookUrl": "webhook URL", "apiKey": "apiKey", "apiSecret": "apiSecret"}
    render.pairs([("name", data["name"]), *_state_rows(data), *((title, data[key]) for key, title in titles.items())])
    for key in data["replaced"]:
        end = _time(key["expiresAt"])
        valid = f"is valid until {formatting.moment(end, None)} {formatting.zone_name(end, None)}"
        until = valid if grace_s else "is revoked"
        render.note(f"The old key {key['prefix']}… {until}.")
    render.note(f"Message with the new key:  kekbridge template {data['name']}")


@app.command(
    "check",
    epilog=examples(
        "kekbridge webhook check alert.json",
        "kekbridge webhook check alert.json --webhook btc     with its settings",
        "xclip -o | kekbridge webhook check -                 what was copied",
    ),
)
def check(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File with the message; - for stdin.", show_default=False)
    ],
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="NAME", help="Read it as this webhook does.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Read it in this service's format. Default: what it looks like.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Explain a message of any service: its format, each field, what would be traded, what is missing. Nothing is sent.

    TradingView's placeholders are filled with examples. Exit code 1 if the message would be refused.
    """
    from kekbridge.alerts.message_check import check_message
    from kekbridge.alerts.profiles import PROFILES
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.store import webhooks as stored

    if profile is not None and profile not in PROFILES:
        raise ConfigError(f"--profile: found {profile[:40]!r}, expected one of {', '.join(PROFILES)}")
    body = _read_pasted(file)
    settings = WebhookSettings()
    if webhook is not None:
        context = resolve_context(ctx, data_dir, config)
        with open_database(context) as database, database.snapshot() as connection:
            settings = stored.find(connection, webhook).settings
    found = check_message(body, settings, profile=profile or (settings.profile if webhook else None))
    if as_json:
        render.as_json(formatting.to_jsonable(found))
    else:
        _print_check(found)
    if found.error is not None:
        raise typer.Exit(1)


@app.command(epilog=examples("kekbridge webhook show default", "kekbridge webhook show default --secret --json"))
def show(
    ctx: typer.Context,
    name: filters.WebhookName,
    secret: Annotated[bool, typer.Option("--secret", help="Also print apiKey and apiSecret.")] = False,
    utc: Utc = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show one webhook with all its settings."""
    from kekbridge.cli import render

    operation = ShowCredentials(webhook=name) if secret else ShowWebhook(webhook=name)
    data = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(data)
    else:
        _print(data, UTC if utc else None)


@app.command(
    epilog=examples(
        "kekbridge webhook edit default --max-order-size 2 --require-stop-loss",
        "kekbridge webhook edit default --allowed-symbols none --name main",
    )
)
@_with_setting_options
def edit(
    ctx: typer.Context,
    name: filters.WebhookName,
    new_name: Annotated[str | None, typer.Option("--name", metavar="NEW", help="New name.", show_default=False)] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Change settings of a webhook, with immediate effect.

    Settings not named stay as they are. The value `none` removes a limit.
    """
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError

    given = _given(options)
    if new_name is None and not given:
        raise ConfigError(f"no option given, webhook {name} was not changed; see `kekbridge webhook edit --help`")
    operation = EditWebhook(webhook=name, options=given, new_name=new_name)
    data = run_operation(resolve_context(ctx, data_dir, config), operation)
    if as_json:
        render.as_json(data)
        return
    _print(data)
    if options.get("key_in_path"):
        _warn_of_key_in_path(data["name"])
    if options.get("require_stop_loss"):
        render.note(f"Messages without a stop loss are denied now:  kekbridge template {data['name']} --stop-loss 2%")


@app.command(epilog=examples("kekbridge webhook enable default"))
def enable(
    ctx: typer.Context,
    name: filters.WebhookName,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Accept alerts for a webhook again."""
    _switch(resolve_context(ctx, data_dir, config), EnableWebhook(webhook=name), as_json=as_json)


@app.command(epilog=examples("kekbridge webhook disable default"))
def disable(
    ctx: typer.Context,
    name: filters.WebhookName,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Refuse every alert for a webhook, including exits (403)."""
    _switch(resolve_context(ctx, data_dir, config), DisableWebhook(webhook=name), as_json=as_json)


@app.command(epilog=examples("kekbridge webhook delete old", "kekbridge webhook delete old --yes"))
def delete(
    ctx: typer.Context,
    name: filters.WebhookName,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Delete a webhook and its keys.

    Alerts that still use its key are answered 401. Its past alerts and orders stay in the history.
    """
    from kekbridge.cli import render

    context = resolve_context(ctx, data_dir, config)
    found = run_operation(context, ShowWebhook(webhook=name))
    if not yes:
        typer.confirm(f"Delete webhook {found['name']}? Its keys stop working at once.", abort=True, err=True)
    deleted = run_operation(context, DeleteWebhook(webhook=found["id"]))
    if as_json:
        render.as_json(deleted)
    else:
        render.line(f"webhook {deleted['name']} deleted")


def _switch(context: CliContext, operation: EnableWebhook | DisableWebhook, *, as_json: bool) -> None:
    from kekbridge.cli import render

    webhook = run_operation(context, operation)
    if as_json:
        render.as_json(webhook)
    else:
        (_, state), *fixes = _state_rows(webhook)
        render.line(f"webhook {webhook['name']}: {state}")
        for _, fix in fixes:
            render.note(f"Fix:  {fix}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by parameter name."""
    return {name: value for name, value in options.items() if value not in (None, [])}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _read_pasted(file: str) -> bytes:
    """The message as pasted. Raises ConfigError for a file that cannot be read or that no alert can be."""
    from kekbridge.errors import ConfigError

    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"FILE: found {file!r}, expected a readable file ({error.strerror})") from None
    if len(body) > _MAX_PASTED_BYTES:
        raise ConfigError(f"FILE: found {len(body)} bytes, expected one message of at most {_MAX_PASTED_BYTES}")
    return body


def _print_check(found: MessageCheck) -> None:
    """Print a checked message for people."""
    from kekbridge.cli import render

    rows: list[tuple[str, object]] = [("format", found.profile)]
    if found.likely_profile != found.profile:
        rows.append(("looks like", f"{found.likely_profile}; see --profile"))
    rows += [("would trade", order) for order in found.orders]
    rows += [("refused", f"{found.code}: {found.error}")] if found.error else []
    rows += [("missing", text) for text in found.missing]
    rows += [("warning", text) for text in found.warnings]
    if found.filled:
        rows.append(("examples for", ", ".join(f"{{{{{name}}}}}" for name in found.filled)))
    render.pairs(rows)
    if found.fields:
        render.heading("fields")
        columns = [render.Column("FIELD"), render.Column("VALUE", shrinks=True), render.Column("MEANING", shrinks=True)]
        render.table(columns, [(each.path, each.value, each.meaning) for each in found.fields])


def _state_rows(data: dict[str, Any]) -> list[tuple[str, object]]:
    """What a webhook accepts now, from its JSON, and what opens it again if it takes no entries."""
    from kekbridge.reports.states import state_fix, state_text
    from kekbridge.reports.webhook_summary import accepted_text
    from kekbridge.store.settings import control_from

    trading = data["trading"]
    control = control_from(trading)
    text = accepted_text(state_text(control, now(), None), is_enabled=data["enabled"])
    if text in ("enabled", "disabled"):
        return [("state", text)]
    return [("state", text), ("fix", state_fix(control, now(), scope=trading["scope"], name=data["name"]))]


def _warn_of_key_in_path(name: str) -> None:
    from kekbridge.cli import render

    render.note(
        f"The URL of {name} is now a secret: it appears in the logs of proxies and on screenshots, and whoever has it can send "
        "orders within the webhook's limits.  URL:  kekbridge webhook show NAME --secret"
    )


def _print(data: dict[str, Any], zone: tzinfo | None = None) -> None:
    """Print a webhook for people: identity, keys, then every setting under the name of its option. `zone`: of times."""
    from kekbridge.cli import render

    settings = data["settings"]
    rows: list[tuple[str, object]] = [
        ("name", data["name"]),
        ("id", data["id"]),
        *_state_rows(data),
        ("webhook URL", data["webhookUrl"]),
    ]
    rows += [(key, data[key]) for key in ("apiKey", "apiSecret") if key in data]
    rows += [("URL with key", data["webhookUrlWithKey"])] if "webhookUrlWithKey" in data else []
    render.pairs(rows)
    if data.get("keys"):
        render.heading("keys")
        columns = [
            *(render.Column(title) for title in ("PREFIX", f"CREATED ({formatting.zone_name(now(), zone)})")),
            *(render.Column(title, justify="right") for title in ("LAST USED", "EXPIRES")),
        ]
        render.table(columns, [_key_row(key, zone) for key in data["keys"]])
    render.heading("settings")
    parts = {"limits": settings["limits"], "rates": settings["rates"], "": settings}
    pairs = [
        (row.option.removeprefix("--"), _setting_text(row, parts[row.part][formatting.camel(row.field)]))
        for row in ROWS
    ]
    render.pairs([(name, value) for name, value in pairs if value not in (None, {}, [])], indent=2)
    unset = [name for name, value in pairs if value in (None, {}, [])]
    render.note(f"not set: {', '.join(unset)}")


def _key_row(key: dict[str, Any], zone: tzinfo | None) -> tuple[object, ...]:
    used = formatting.age(_time(key["lastUsedAt"]), now()) if key["lastUsedAt"] else "never"
    end = key["revokedAt"] or key["expiresAt"]
    expires = "-" if end is None else formatting.age(_time(end), now())
    return f"{key['prefix']}…", formatting.moment(_time(key["createdAt"]), zone), used, expires


def _setting_text(row: Row, value: Any) -> Any:
    """Return a setting as its option takes it."""
    from decimal import Decimal

    if value is None:
        return None
    if row.is_duration:
        return parsing.seconds_text(value)
    return f"{formatting.amount(Decimal(value) * 100)}%" if row.is_share else value
