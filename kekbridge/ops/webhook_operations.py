"""Operations on webhooks: create, show, edit, rotate, enable, disable, delete; send an alert to one as TradingView does."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, field
from ulid import ULID

from kekbridge.alerts.template import build, default_bounds
from kekbridge.errors import ConfigError, NotFound
from kekbridge.formatting import to_jsonable
from kekbridge.ingress.http import DryRun
from kekbridge.model import AccountSnapshot, Mode, TradingState, Webhook, WebhookSettings
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.ops.operation import Operation, OperatorContext, bridge_of
from kekbridge.planning.template_check import TemplateTarget, find_problems, find_refusal
from kekbridge.reports.states import state_fix, state_text
from kekbridge.risk.limits import account_limits, tighter
from kekbridge.store import settings, webhooks
from kekbridge.store.codec import to_json
from kekbridge.webhooks import registry
from kekbridge.webhooks.fixed_fields import check_fixed_fields
from kekbridge.webhooks.options import apply
from kekbridge.webhooks.registry import Credentials

#: Options as typed, by parameter name of webhooks/options.py: a text, true or false for a switch, a list for a repeated option.
Options = dict[str, str | bool | list[str]]
GraceSeconds = Annotated[int, Meta(ge=0)]


class CreateWebhook(Operation, frozen=True, kw_only=True):
    """Create a webhook. Returns it with its new credentials."""

    operation: ClassVar[str] = "webhook-create"
    writes: ClassVar[bool] = True
    creates: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: 1 to 64 letters, digits, dots, dashes, underscores.
    name: str
    #: Settings that differ from the defaults.
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        registry.check_name(self.name)
        apply(self.options, WebhookSettings())

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            registry.check_listed(_symbols(self.options), _markets(connection, context))
            wanted = apply(self.options, WebhookSettings())
            registry.check_settings(wanted)
            check_fixed_fields(wanted, _marks(context))
            webhook, credentials = registry.create(
                connection,
                context.sealer,
                name=self.name,
                settings=wanted,
                mode=context.mode,
                now=context.clock(),
            )
            return _data(connection, context, webhook, credentials)

        return await context.database.write(write)


def _symbols(options: Options) -> tuple[str, ...]:
    """The markets that the options allow."""
    return apply(options, WebhookSettings()).limits.allowed_symbols or ()


def _markets(connection: sqlite3.Connection, context: OperatorContext) -> tuple[str, ...]:
    """The exchange's symbols, now or as they were last read; empty if they were never read."""
    snapshot = None if context.bridge is None else context.bridge.exchange.snapshot
    return registry.listed_markets(connection) if snapshot is None else tuple(snapshot.instruments)


def _marks(context: OperatorContext) -> dict[str, Decimal]:
    """Mark prices by symbol, as the bridge that runs knows them; empty without one."""
    snapshot = None if context.bridge is None else context.bridge.exchange.snapshot
    return {} if snapshot is None else {symbol: mark.price for symbol, mark in snapshot.marks.items()}


class ListWebhooks(Operation, frozen=True, kw_only=True):
    """Every webhook with its settings and trading state, without credentials, oldest first."""

    operation: ClassVar[str] = "webhook-list"

    async def run(self, context: OperatorContext) -> list[dict[str, Any]]:
        def read(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            return [_data(connection, context, one) for one in webhooks.list_all(connection)]

        return await context.database.read(read)


class ShowWebhook(Operation, frozen=True, kw_only=True):
    """A webhook with its settings and keys, without credentials."""

    operation: ClassVar[str] = "webhook-show"

    #: Name or id.
    webhook: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            return _data(connection, context, webhook) | {"keys": _keys_data(connection, context, webhook)}

        return await context.database.read(read)


class ShowCredentials(Operation, frozen=True, kw_only=True):
    """A webhook with its settings, keys and newest valid credentials."""

    operation: ClassVar[str] = "webhook-credentials"
    opens_vault: ClassVar[bool] = True

    #: Name or id.
    webhook: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            credentials = registry.credentials_of(connection, context.sealer, webhook, now=context.clock())
            data = _data(connection, context, webhook, credentials)
            return data | {"keys": _keys_data(connection, context, webhook)}

        return await context.database.read(read)


class MakeTemplate(Operation, frozen=True, kw_only=True):
    """The message to paste into a TradingView alert for a webhook, with what would refuse its alerts now."""

    operation: ClassVar[str] = "webhook-template"
    opens_vault: ClassVar[bool] = True

    #: Name or id.
    webhook: str
    #: One of `alerts.template.KINDS`.
    kind: str
    #: Format of the message; None: the webhook's own.
    profile: str | None = None
    #: Fields of the message by parameter of `alerts.template.build`; those left out are placeholders, or bounded by the webhook's limits.
    fields: dict[str, str] = field(default_factory=dict)

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            credentials = registry.credentials_of(connection, context.sealer, webhook, now=context.clock())
            usual = webhook.settings.profile
            own = webhook.settings.limits
            fields = default_bounds(
                own.allowed_symbols,
                own.max_order_size,
                symbol=self.fields.get("symbol"),
                quantity=self.fields.get("quantity"),
            )
            fields |= self.fields
            keys = {"api_key": credentials.api_key, "api_secret": credentials.api_secret}
            profile = registry.known_profile(self.profile or usual)
            built = build(self.kind, **keys, profile=profile, **fields)
            # Pine returns the message of an indicator alert.
            checked = built if self.kind != "pine" else build("indicator", **keys, profile=profile, **fields)
            target = TemplateTarget(
                settings=replace(webhook.settings, profile=profile),
                limits=tighter(own, account_limits(**context.settings.risk.limits())),
                markets=_markets(connection, context),
                marks=_marks(context),
            )
            refusal = find_refusal(checked.message, target.settings)
            problems = [
                *_state_problems(connection, webhook, now=context.clock()),
                *find_problems(checked.message, target, kind=self.kind),
            ]
            url = _url(connection, context)
            with_key = {"webhookUrlWithKey": f"{url}/{credentials.api_key}"} if webhook.settings.key_in_path else {}
            return with_key | {
                "message": built.message,
                "webhookUrl": url,
                "explanation": dict(built.explanation),
                "free": built.free,
                "unbounded": built.unbounded,
                "risk": built.risk,
                "warning": built.warning,
                "problems": [text.replace("NAME", webhook.name) for text in problems],
                "invalidField": refusal.field if refusal else None,
                "webhook": webhook.name,
                "profile": profile,
                "usualProfile": usual,
            }

        return await context.database.read(read)


def _state_problems(connection: sqlite3.Connection, webhook: Webhook, *, now: datetime) -> list[str]:
    """Why alerts of a webhook would be refused now, whatever they say."""
    if not webhook.enabled:
        return ["the webhook is disabled and refuses every alert; `kekbridge webhook enable NAME`"]
    controls = settings.stored_controls(connection)
    control = settings.strictest(controls, webhook.id, now=now)
    if control.state is TradingState.RUNNING:
        return []
    scope = settings.closing_scope(controls, webhook.id, now=now)
    what = "every alert is refused" if control.state is TradingState.HALTED else "entries are denied"
    return [f"{state_text(control, now)}: {what}; {state_fix(control, now, scope=scope, name=webhook.name)}"]


class EditWebhook(Operation, frozen=True, kw_only=True):
    """Change settings of a webhook, rename, enable or disable it; what is not named stays as it is. Returns the webhook."""

    operation: ClassVar[str] = "webhook-edit"
    writes: ClassVar[bool] = True

    #: Name or id.
    webhook: str
    #: Settings to change.
    options: Options = field(default_factory=dict)
    #: New name; None: unchanged.
    new_name: str | None = None
    #: Accept its alerts, or refuse them; None: unchanged.
    enabled: bool | None = None

    def __post_init__(self) -> None:
        apply(self.options, WebhookSettings())
        if self.new_name is not None:
            registry.check_name(self.new_name)

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook, now = webhooks.find(connection, self.webhook), context.clock()
            if self.options:
                registry.check_listed(_symbols(self.options), _markets(connection, context))
                wanted = apply(self.options, webhook.settings)
                registry.check_settings(wanted)
                if (wanted.defaults, wanted.locked) != (webhook.settings.defaults, webhook.settings.locked):
                    check_fixed_fields(wanted, _marks(context))
                if wanted != webhook.settings:
                    webhook = webhooks.change_settings(connection, webhook.id, wanted, now=now)
            if self.new_name is not None:
                webhook = webhooks.rename(connection, webhook.id, self.new_name, now=now)
            if self.enabled is not None and self.enabled is not webhook.enabled:
                switch = webhooks.enable if self.enabled else webhooks.disable
                webhook = switch(connection, webhook.id, now=now)
            return _data(connection, context, webhook)

        return await context.database.write(write)


class RotateWebhook(Operation, frozen=True, kw_only=True):
    """Give a webhook a new key pair. Returns it with the new credentials and what becomes of the replaced keys."""

    operation: ClassVar[str] = "webhook-rotate"
    writes: ClassVar[bool] = True
    opens_vault: ClassVar[bool] = True

    #: Name or id.
    webhook: str
    #: How long the old pairs stay valid; 0 revokes them.
    grace_s: GraceSeconds

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook, now, grace = (
                webhooks.find(connection, self.webhook),
                context.clock(),
                timedelta(seconds=self.grace_s),
            )
            replaced = [
                {"id": key.id, "prefix": key.prefix, "expiresAt": min(now + grace, key.expires_at or now + grace)}
                for key in registry.valid_keys(connection, webhook, now=now)
            ]
            credentials = registry.rotate(connection, context.sealer, webhook, mode=context.mode, grace=grace, now=now)
            return _data(connection, context, webhook, credentials) | {"replaced": replaced}

        return await context.database.write(write)


class RevokeWebhookKey(Operation, frozen=True, kw_only=True):
    """Revoke one key of a webhook at once; the others stay as they are. Returns the webhook with its keys."""

    operation: ClassVar[str] = "webhook-revoke-key"
    writes: ClassVar[bool] = True

    #: Name or id.
    webhook: str
    #: Id of the key.
    key: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            if self.key not in {one.id for one in webhooks.list_keys(connection, webhook.id)}:
                raise NotFound("not_found", f"webhook {webhook.name} has no key with the id {self.key[:40]}")
            webhooks.revoke_key(connection, self.key, now=context.clock())
            data = _data(connection, context, webhook)
            return data | {"keys": _keys_data(connection, context, webhook)}

        return await context.database.write(write)


class EnableWebhook(Operation, frozen=True, kw_only=True):
    """Accept alerts for a webhook again. Returns the webhook."""

    operation: ClassVar[str] = "webhook-enable"
    writes: ClassVar[bool] = True

    #: Name or id.
    webhook: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            return _data(connection, context, webhooks.enable(connection, webhook.id, now=context.clock()))

        return await context.database.write(write)


class DisableWebhook(Operation, frozen=True, kw_only=True):
    """Refuse every alert for a webhook, including exits. Returns the webhook."""

    operation: ClassVar[str] = "webhook-disable"
    writes: ClassVar[bool] = True

    #: Name or id.
    webhook: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            return _data(connection, context, webhooks.disable(connection, webhook.id, now=context.clock()))

        return await context.database.write(write)


class DeleteWebhook(Operation, frozen=True, kw_only=True):
    """Delete a webhook and its keys."""

    operation: ClassVar[str] = "webhook-delete"
    writes: ClassVar[bool] = True

    #: Name or id.
    webhook: str

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            webhook = webhooks.find(connection, self.webhook)
            webhooks.delete(connection, webhook.id, now=context.clock())
            return {"id": webhook.id, "name": webhook.name, "deleted": True}

        return await context.database.write(write)


class SendAlert(Operation, frozen=True, kw_only=True):
    """Send one signed alert to a webhook, as TradingView does: one POST, 3 s, no redirect. Returns the response."""

    operation: ClassVar[str] = "send-alert"
    opens_vault: ClassVar[bool] = True

    #: Name or id.
    webhook: str
    #: The message, without apiKey or signature unless it has its own; None: a ping.
    message: str | None = None
    #: Values of placeholders in the message, by name; timenow defaults to now.
    values: dict[str, str] = field(default_factory=dict)
    #: Decide it without storing or sending anything.
    dry_run: bool = False
    #: Limits that a dry run uses instead of the webhook's own, by their names in its settings.
    limits: dict[str, Any] = field(default_factory=dict)
    #: A dry run of an old message: its age is not checked.
    is_replay: bool = False
    #: Where to send it; None: to the webhook URL.
    url: str | None = None

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        from kekbridge.ops import sending  # late: http.client is needed for nothing else

        def read(connection: sqlite3.Connection) -> tuple[Credentials, str]:
            webhook = webhooks.find(connection, self.webhook)
            credentials = registry.credentials_of(connection, context.sealer, webhook, now=context.clock())
            return credentials, self.url or _url(connection, context)

        credentials, url = await context.database.read(read)
        dry_run = DryRun(limits=self.limits, is_replay=self.is_replay) if self.dry_run else None
        message, is_signed = sending.build_message(self.message, credentials.api_key, self.values, now=context.clock())
        headers = sending.build_headers(message, credentials.api_secret, dry_run, is_signed=is_signed)
        if message.startswith(b"["):
            headers["X-Api-Key"] = credentials.api_key  # an array has no place of its own for the key
        reply = await asyncio.to_thread(sending.post, url, message, headers)
        return {"httpStatus": reply.status, "milliseconds": reply.milliseconds, "body": reply.body}


class TryOrder(Operation, frozen=True, kw_only=True):
    """Buy the smallest size of one market on paper, by an alert as TradingView sends it. Returns the response and what was sent."""

    operation: ClassVar[str] = "try"
    opens_vault: ClassVar[bool] = True
    needs_daemon: ClassVar[bool] = True

    #: Name or id; None: the first enabled webhook.
    webhook: str | None = None

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        bridge = bridge_of(context)
        if context.mode is not Mode.PAPER:
            raise ConfigError(f"the bridge trades on {context.mode.value}; this command buys in paper mode only")
        snapshot = bridge.exchange.snapshot
        if snapshot is None:
            raise ConfigError("the bridge has not reached its exchange yet; run the command again in a moment")

        def read(connection: sqlite3.Connection) -> tuple[Webhook, str]:
            return _webhook_to_try(connection, self.webhook), registry.local_url_of(connection)

        webhook, local_url = await context.database.read(read)
        limits = webhook.settings.limits
        symbol = (limits.allowed_symbols or (TRIED_SYMBOL,))[0]
        size = smallest_size(snapshot, symbol, limits.min_order_size)
        fields = {"action": "buy", "symbol": symbol, "quantity": format(size, "f"), "alertId": f"try-{ULID()}"}
        if limits.require_stop_loss:
            fields["stopLoss"] = "1%"
        send = SendAlert(
            webhook=webhook.id,
            message=to_json(fields | {"timestamp": "{{timenow}}"}),
            url=f"{local_url}{WEBHOOK_PATH}" if local_url else None,
        )
        return await send.run(context) | {"webhook": webhook.name, "symbol": symbol, "quantity": fields["quantity"]}


#: The market that is tried on a webhook for all markets.
TRIED_SYMBOL: Final = "PERP_BTC_USDC"


def _webhook_to_try(connection: sqlite3.Connection, name: str | None) -> Webhook:
    if name is not None:
        return webhooks.find(connection, name)
    found = next((one for one in webhooks.list_all(connection) if one.enabled), None)
    if found is None:
        raise NotFound("not_found", "there is no enabled webhook; create one with `kekbridge webhook create NAME`")
    return found


def smallest_size(snapshot: AccountSnapshot, symbol: str, least: Decimal | None = None) -> Decimal:
    """The smallest entry that the exchange takes at the mark, and of at least `least` coins. Raises ConfigError without a mark."""
    instrument, mark = snapshot.instruments.get(symbol), snapshot.mark_price(symbol)
    if instrument is None or not mark:
        raise ConfigError(f"the exchange has no price of {symbol} now; run the command again in a moment")
    # One step more than the least value: the price may fall a little before the order arrives.
    steps = (instrument.min_notional / mark / instrument.base_tick).to_integral_value(ROUND_CEILING) + 1
    own = ((least or Decimal(0)) / instrument.base_tick).to_integral_value(ROUND_CEILING)
    return max(instrument.base_min, max(steps, own) * instrument.base_tick)


def _data(
    connection: sqlite3.Connection, context: OperatorContext, webhook: Webhook, credentials: Credentials | None = None
) -> dict[str, Any]:
    """A webhook as JSON, with what it accepts now."""
    controls, now = settings.stored_controls(connection), context.clock()
    control = settings.strictest(controls, webhook.id, now=now)
    trading = trading_data(control, settings.closing_scope(controls, webhook.id, now=now))
    return webhook_data(webhook, _url(connection, context), credentials) | {"trading": trading}


def webhook_data(webhook: Webhook, url: str, credentials: Credentials | None = None) -> dict[str, Any]:
    """A webhook as JSON; credentials only if given."""
    data: dict[str, Any] = {"id": webhook.id, "name": webhook.name, "enabled": webhook.enabled, "webhookUrl": url}
    if credentials is not None:
        data |= {"apiKey": credentials.api_key, "apiSecret": credentials.api_secret}
        if webhook.settings.key_in_path:
            data["webhookUrlWithKey"] = f"{url}/{credentials.api_key}"
    return data | {"createdAt": webhook.created_at, "settings": to_jsonable(webhook.settings)}


def trading_data(control: settings.TradingControl, scope: str) -> dict[str, Any]:
    """A trading state as JSON; `scope`: whose it is, `account` or a webhook's id."""
    data: dict[str, Any] = to_jsonable(control)
    return {name: data[name] for name in ("state", "reason", "by", "since", "until")} | {"scope": scope}


def _keys_data(connection: sqlite3.Connection, context: OperatorContext, webhook: Webhook) -> list[dict[str, Any]]:
    return [
        {
            "id": key.id,
            "prefix": key.prefix,
            "state": registry.key_state(key, context.clock()),
            "createdAt": key.created_at,
            "lastUsedAt": key.last_used_at,
            "expiresAt": key.expires_at,
            "revokedAt": key.revoked_at,
        }
        for key in webhooks.list_keys(connection, webhook.id)
    ]


def _url(connection: sqlite3.Connection, context: OperatorContext) -> str:
    return registry.webhook_url(connection, context.settings, is_running=context.bridge is not None)
