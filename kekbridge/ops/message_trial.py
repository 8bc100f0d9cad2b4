"""Try a message of any service on a webhook: what it means, what its alerts would do now, or, in paper mode, send it.

What `kekbridge webhook check` and `webhook test --dry-run` show, for one text that was pasted into a page.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any, ClassVar

from msgspec import field

from kekbridge.alerts import signature, symbols
from kekbridge.alerts.message import Message, fired_at, interpret, read_message
from kekbridge.alerts.message_check import check_message, fill_samples, samples_of
from kekbridge.errors import ConfigError, KekbridgeError, RequestRefused
from kekbridge.formatting import format_decimal, market, to_jsonable
from kekbridge.model import AccountSnapshot, Mode, Webhook
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.ops.operation import Operation, OperatorContext, bridge_of
from kekbridge.ops.webhook_operations import TRIED_SYMBOL, SendAlert, smallest_size
from kekbridge.store import webhooks
from kekbridge.webhooks import registry

# Used for placeholders while the exchange has no price.
_PRICE, _SIZE = "65000", "0.01"


class TryMessage(Operation, frozen=True, kw_only=True):
    """What a pasted message means, and the response to it: of a dry run, or of an alert on paper.

    Returns `check` (alerts.message_check), `asLikely` (the same in the format that it looks like, or null if the webhook reads that one),
    `values` of its placeholders, `proof` (why no alert of it could be authenticated, or null),
    `ignoresAge` (it carries the time of an old alert, which was not judged) and `reply` (as SendAlert; null if it was not sent).
    """

    operation: ClassVar[str] = "webhook-try-message"
    opens_vault: ClassVar[bool] = True
    needs_daemon: ClassVar[bool] = True

    #: Name or id.
    webhook: str
    #: The message as pasted, with or without placeholders.
    message: str
    #: Values of placeholders by name; the others are filled with examples of the webhook's first market.
    values: dict[str, str] = field(default_factory=dict)
    #: Send it as an alert instead of as a dry run; in paper mode only.
    sends: bool = False

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        bridge = bridge_of(context)
        if self.sends and context.mode is not Mode.PAPER:
            raise ConfigError(
                f"the bridge trades on {context.mode.value}; a message is sent from here in paper mode only"
            )

        def read(connection: sqlite3.Connection) -> tuple[Webhook, str]:
            return webhooks.find(connection, self.webhook), registry.local_url_of(connection)

        webhook, local_url = await context.database.read(read)
        text = self.message.strip()
        values = _values_of(text, webhook, bridge.exchange.snapshot) | {
            name: value for name, value in self.values.items() if value.strip()
        }
        now = context.clock()
        filled = fill_samples(text, values | {"timenow": now.strftime("%Y-%m-%dT%H:%M:%SZ")})
        check = check_message(filled.encode(), webhook.settings, profile=webhook.settings.profile)
        likely = None
        if check.likely_profile != check.profile:
            likely = check_message(filled.encode(), webhook.settings, profile=check.likely_profile)
        found: dict[str, Any] = {
            "check": to_jsonable(check),
            "asLikely": to_jsonable(likely),
            "values": values,
            "proof": None,
            "ignoresAge": False,
            "reply": None,
        }
        try:
            message = read_message(filled.encode())
        except RequestRefused:
            return found  # the check says why
        found["proof"] = await context.database.read(_proof_problem, context, webhook, message, now=now)
        if found["proof"] is not None:
            return found
        has_own_time = "{{timenow}}" not in text and _has_time(message, webhook)
        send = SendAlert(
            webhook=webhook.id,
            message=text,
            values=values,
            dry_run=not self.sends,
            is_replay=has_own_time and not self.sends,
            url=f"{local_url}{WEBHOOK_PATH}" if local_url else None,
        )
        return found | {"ignoresAge": send.is_replay, "reply": await send.run(context)}


def _values_of(text: str, webhook: Webhook, snapshot: AccountSnapshot | None) -> dict[str, str]:
    """Examples for the placeholders of a text: the market that it names, else the webhook's first, at its mark."""
    limits = webhook.settings.limits
    symbol = (limits.allowed_symbols or (TRIED_SYMBOL,))[0]
    ticker = f"{market(symbol)}USDT.P"
    values = samples_of(text, ticker=ticker, price=_PRICE, size=_SIZE)
    if not values or snapshot is None:
        return values
    symbol = _named_symbol(fill_samples(text, values), webhook, snapshot) or symbol
    mark = snapshot.mark_price(symbol)
    try:
        size = format_decimal(smallest_size(snapshot, symbol, limits.min_order_size))
    except ConfigError:
        size = _SIZE
    return samples_of(text, ticker=ticker, price=format_decimal(mark) if mark else _PRICE, size=size)


def _named_symbol(text: str, webhook: Webhook, snapshot: AccountSnapshot) -> str | None:
    """The market of a filled message's first step; None if it names none that can be traded."""
    settings = webhook.settings
    try:
        (first, *_) = interpret(read_message(text.encode()), settings).steps
        if first.symbol is None:
            return None
        return symbols.resolve(
            first.symbol,
            exchange=None,
            listed=snapshot.instruments.keys(),
            aliases=settings.aliases,
            rescale_units=settings.rescale_units,
        ).symbol
    except RequestRefused:
        return None


def _has_time(message: Message, webhook: Webhook) -> bool:
    try:
        return fired_at(message, webhook.settings.profile) is not None
    except RequestRefused:
        return False


def _proof_problem(
    connection: sqlite3.Connection, context: OperatorContext, webhook: Webhook, message: Message, *, now: datetime
) -> str | None:
    """Why the listener would not authenticate alerts of a message with its own key and signature, which it tells no sender."""
    try:
        credentials = registry.credentials_of(connection, context.sealer, webhook, now=now)
    except KekbridgeError as error:
        return error.message
    secret = credentials.api_secret
    if message.api_key is not None:
        found = webhooks.find_by_lookup(connection, context.sealer.lookup(message.api_key), now)
        if found is None:
            return "its key is unknown, expired or revoked; copy the message of this page, or remove the key"
        if found[0].id != webhook.id:
            return f"its key is that of webhook {found[0].name}; test it there, or remove the key"
        secret = context.sealer.open(found[1].sealed_secret).decode()
    if message.signature is None:
        return None
    proof = signature.check(secret, message.signature, message.texts, webhook.settings.profile)
    return (
        None if proof.is_valid else f"its signature is not valid: {proof.reason}; copy the message of this page again"
    )
