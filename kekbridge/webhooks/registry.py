"""Create webhooks, rotate their credentials, check their settings and find their URL. Used by `serve`, the commands and the web pages.

Secrets leave this module only inside Credentials, whose repr hides them; they are always stored sealed.
"""

from __future__ import annotations

import difflib
import re
import secrets
import sqlite3
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from ulid import ULID

from kekbridge.alerts.field_names import ORDER_FIELDS, canonical_name
from kekbridge.alerts.profiles import PROFILES
from kekbridge.config import Settings
from kekbridge.errors import ConfigError, NotFound
from kekbridge.formatting import did_you_mean, market
from kekbridge.model import Mode, Webhook, WebhookSettings
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.risk.trading_hours import parse_hours
from kekbridge.store import settings as store_settings
from kekbridge.store import webhooks
from kekbridge.store.webhooks import WebhookKey
from kekbridge.vault import Sealer

FIRST_NAME: Final = "default"
KEY_PREFIX_LENGTH: Final = 12
# Store setting: the addresses and the mode of the daemon that started last.
_LISTENING: Final = "listening"
# Store setting: the exchange's symbols, as that daemon has read them.
_MARKETS: Final = "markets"

_ALPHABET = string.ascii_letters + string.digits  # safe in URLs, shells and JSON; a double click selects all of it
_KEY_LENGTH = 32  # 190 bits
_SECRET_LENGTH = 43  # 256 bits

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_LISTED = re.compile(r"PERP_[A-Z0-9]{1,24}_USDC", re.ASCII)
_BASE = re.compile(r"[A-Z0-9]{1,24}", re.ASCII)
# Fiat currencies Orderly lists against the dollar: EURUSD is a base there, BTCUSD is not.
_FIAT = frozenset({"EUR", "GBP", "AUD", "NZD", "CHF", "CAD"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a sender needs. Never logged, never stored unencrypted."""

    #: Identifies the webhook, in the message.
    api_key: str = field(repr=False)
    #: Signs messages, never sent.
    api_secret: str = field(repr=False)


def create(
    connection: sqlite3.Connection, sealer: Sealer, *, name: str, settings: WebhookSettings, mode: Mode, now: datetime
) -> tuple[Webhook, Credentials]:
    """Store a new webhook with new credentials, inside a write transaction.

    `mode` determines the key's prefix: `wh_live_` for live, `wh_test_` for paper and testnet. Raises ConfigError if the name is
    invalid or taken, or if the settings contradict each other.
    """
    check_name(name)
    check_settings(settings)
    webhook = webhooks.create(connection, webhook_id=str(ULID()), name=name, settings=settings, now=now)
    return webhook, _add_pair(connection, sealer, webhook, mode=mode, now=now)


def rotate(
    connection: sqlite3.Connection, sealer: Sealer, webhook: Webhook, *, mode: Mode, grace: timedelta, now: datetime
) -> Credentials:
    """Add a new key pair and expire all older ones after the grace time (0: revoke them now), inside a write transaction.

    A key that expires sooner keeps its earlier expiry.
    """
    for key in valid_keys(connection, webhook, now=now):
        if grace:
            webhooks.expire_key(connection, key.id, at=now + grace, now=now)
        else:
            webhooks.revoke_key(connection, key.id, now=now)
    return _add_pair(connection, sealer, webhook, mode=mode, now=now)


def _add_pair(
    connection: sqlite3.Connection, sealer: Sealer, webhook: Webhook, *, mode: Mode, now: datetime
) -> Credentials:
    api_key, api_secret = new_credentials(mode)
    webhooks.add_key(
        connection,
        key_id=str(ULID()),
        webhook_id=webhook.id,
        lookup=sealer.lookup(api_key),
        prefix=api_key[:KEY_PREFIX_LENGTH],
        sealed_key=sealer.seal(api_key.encode()),
        sealed_secret=sealer.seal(api_secret.encode()),
        now=now,
    )
    return Credentials(api_key, api_secret)


def valid_keys(connection: sqlite3.Connection, webhook: Webhook, *, now: datetime) -> tuple[WebhookKey, ...]:
    """The keys of a webhook that are valid now, oldest first."""
    return tuple(key for key in webhooks.list_keys(connection, webhook.id) if key_state(key, now) != "ended")


def key_state(key: WebhookKey, now: datetime) -> Literal["valid", "ending", "ended"]:
    """`ending`: replaced, valid until the grace time is over; `ended`: expired or revoked, treated as an unknown key."""
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        return "ended"
    return "valid" if key.expires_at is None else "ending"


def credentials_of(connection: sqlite3.Connection, sealer: Sealer, webhook: Webhook, *, now: datetime) -> Credentials:
    """The newest valid credentials of a webhook, unsealed for its owner. Raises NotFound if every key is expired or revoked."""
    valid = valid_keys(connection, webhook, now=now)
    if not valid:
        raise NotFound(
            "key_missing", f"webhook {webhook.name} has no valid key; `kekbridge webhook rotate` creates one"
        )
    newest = max(valid, key=lambda key: (key.created_at, key.id))
    return Credentials(sealer.open(newest.sealed_key).decode(), sealer.open(newest.sealed_secret).decode())


def check_name(name: str) -> None:
    """Raise ConfigError unless the name is 1 to 64 of the characters A-Z a-z 0-9 . _ -"""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"webhook name {name[:80]!r} cannot be used; use 1 to 64 letters, digits, dots, dashes and underscores",
            field="name",
        )


def check_settings(settings: WebhookSettings) -> None:
    """Raise ConfigError if a setting is invalid, or if two contradict each other so that no order could ever pass.

    Its `field` is the parameter of the setting, as in webhooks/options.py; of two, that of the first.
    """
    limits = settings.limits
    _check_order("--min-order-size", limits.min_order_size, "--max-order-size", limits.max_order_size)
    _check_order("--min-order-size", limits.min_order_size, "--max-position-size", limits.max_position_size)
    rates = settings.rates
    _check_order("--rate-per-minute", rates.per_minute, "--rate-per-hour", rates.per_hour)
    _check_order("--rate-per-hour", rates.per_hour, "--rate-per-day", rates.per_day)
    if limits.trading_hours is not None:
        _check_hours(limits.trading_hours)
    if settings.profile not in PROFILES:
        text = f"--profile: found {settings.profile[:40]!r}, expected one of {', '.join(PROFILES)}"
        raise ConfigError(text, field="profile")
    for option, fields in (("--default", settings.defaults), ("--lock", settings.locked)):
        unknown = next((name for name in fields if canonical_name(name) not in ORDER_FIELDS), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, ORDER_FIELDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(sorted(ORDER_FIELDS))}"
            text = f"{option}: {unknown[:40]!r} is not a field of an order; {hint}"
            raise ConfigError(text, field=option.removeprefix("--"))
    overlap = sorted(settings.defaults.keys() & settings.locked.keys())
    if overlap:
        raise ConfigError(f"{overlap[0]} is given as --default and as --lock; keep one of the two", field="default")


def _check_order(low_name: str, low: object, high_name: str, high: object) -> None:
    if low is not None and high is not None and low > high:  # type: ignore[operator]  # both Decimal or both int
        text = f"{low_name} {low} is larger than {high_name} {high}; no order could pass"
        raise ConfigError(text, field=low_name.removeprefix("--").replace("-", "_"))


def _check_hours(text: str) -> None:
    try:
        parse_hours(text)
    except ConfigError as error:
        raise ConfigError(error.message, field="trading_hours") from None


def perp_symbol(text: str, option: str = "symbol") -> str:
    """The exchange's symbol for a base: `btc` -> `PERP_BTC_USDC`; full symbols stay. Raises ConfigError naming `option`.

    A whole ticker such as BTCUSDT is refused: taken as a base it would name a market that does not exist, and silently block all orders.
    """
    name = text.strip().upper()
    if _LISTED.fullmatch(name):
        return name
    is_ticker = name.endswith(("USDT", "USDC")) or (name.endswith("USD") and name[:-3] not in _FIAT)
    if not _BASE.fullmatch(name) or is_ticker:
        raise ConfigError(f"{option}: found {text[:40]!r}; write the base (BTC) or the exchange's name (PERP_BTC_USDC)")
    return f"PERP_{name}_USDC"


def save_addresses(
    connection: sqlite3.Connection, webhook_url: str, mode: Mode, *, now: datetime, local_url: str = ""
) -> None:
    """Store the daemon's URLs (`local_url`: on this machine) and its mode, for commands that run without its options."""
    listening = {"webhook_url": webhook_url, "local_url": local_url, "mode": mode.value}
    store_settings.set_value(connection, _LISTENING, listening, now=now)


def known_profile(name: str) -> str:
    """Return the name of a message format. Raises ConfigError for an unknown one."""
    if name not in PROFILES:
        hint = did_you_mean(name, PROFILES, otherwise=f"expected one of {', '.join(PROFILES)}")
        raise ConfigError(f"--profile: found {name[:40]!r}; {hint}")
    return name


def check_listed(symbols: Iterable[str], markets: Sequence[str], option: str = "--allowed-symbols") -> None:
    """Raise ConfigError, which names the nearest market, for a symbol that the exchange does not list. No `markets`: not known yet."""
    for symbol in symbols:
        if markets and symbol not in markets:
            hint = did_you_mean(market(symbol), map(market, markets), otherwise="see the exchange's markets")
            text = f"{option}: the exchange has no market {market(symbol)}; {hint}"
            raise ConfigError(text, field=option.removeprefix("--").replace("-", "_"))


def save_markets(connection: sqlite3.Connection, ticks: Mapping[str, Decimal], *, now: datetime) -> None:
    """Store the exchange's symbols with their price ticks, for commands: they name a market that does not exist before an alert does."""
    store_settings.set_value(
        connection, _MARKETS, {symbol: format(ticks[symbol], "f") for symbol in sorted(ticks)}, now=now
    )


def price_ticks(connection: sqlite3.Connection) -> dict[str, Decimal]:
    """The exchange's symbols with their price ticks as the daemon that started last has read them; empty if none has."""
    stored = store_settings.get_value(connection, _MARKETS)
    return {symbol: Decimal(tick) for symbol, tick in stored.items()} if isinstance(stored, dict) else {}


def listed_markets(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The exchange's symbols as the daemon that started last has read them; empty if none has."""
    return tuple(price_ticks(connection))


def local_url_of(connection: sqlite3.Connection) -> str:
    """The local URL of the daemon that started last; empty if none has stored one."""
    stored = store_settings.get_value(connection, _LISTENING)
    return str(stored.get("local_url") or "") if isinstance(stored, dict) else ""


def webhook_url(connection: sqlite3.Connection, settings: Settings, *, is_running: bool) -> str:
    """The URL to paste into TradingView: from `server.public_url` if set, else from the running daemon, else from the settings."""
    server = settings.server
    if server.public_url:
        return server.public_url.rstrip("/") + WEBHOOK_PATH
    stored = store_settings.get_value(connection, _LISTENING) if is_running else None
    if isinstance(stored, dict) and isinstance(stored.get("webhook_url"), str):
        return str(stored["webhook_url"])
    host = f"[{server.host}]" if ":" in server.host else server.host
    if settings.tls.domain:
        return domain_url(settings.tls.domain, server.port) + WEBHOOK_PATH
    return f"{'https' if settings.tls.cert else 'http'}://{host}:{server.port}{WEBHOOK_PATH}"


def domain_url(domain: str, port: int) -> str:
    """The HTTPS URL of a domain, with the port unless it is 443."""
    return f"https://{domain}" + ("" if port == 443 else f":{port}")


def mode_of(connection: sqlite3.Connection, configured: Mode, *, is_explicit: bool) -> Mode:
    """The mode of a command: the configured one if `is_explicit`, else that of the daemon that started last, else the configured one."""
    stored = store_settings.get_value(connection, _LISTENING)
    if is_explicit or not isinstance(stored, dict) or stored.get("mode") not in set(Mode):
        return configured
    return Mode(stored["mode"])


def new_credentials(mode: Mode) -> tuple[str, str]:
    """A new random (apiKey, apiSecret): `wh_live_…` for live, `wh_test_…` for paper and testnet; and `whs_…`."""
    kind = "live" if mode is Mode.LIVE else "test"
    return f"wh_{kind}_{_random_text(_KEY_LENGTH)}", f"whs_{_random_text(_SECRET_LENGTH)}"


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
