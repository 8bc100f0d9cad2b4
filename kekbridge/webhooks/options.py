"""The options of a webhook: one row per setting, with its option, help, and how its text is parsed and written.

`webhook create`, `webhook edit` and the web page build their options from this table, so that they never differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kekbridge import parsing
from kekbridge.alerts.profiles import PROFILES
from kekbridge.errors import ConfigError
from kekbridge.formatting import amount
from kekbridge.model import WebhookSettings
from kekbridge.model.networks import AllowList
from kekbridge.webhooks.registry import perp_symbol

Parser = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One setting."""

    #: Command-line option, with its dashes.
    option: str
    #: Part of WebhookSettings that has the field: "limits", "rates" or "" (the settings themselves).
    part: str
    #: Name of the field.
    field: str
    #: Parses the option's text; None for a switch and for repeated options.
    parser: Parser | None
    #: Placeholder of the value in help texts.
    metavar: str
    #: Help text, one sentence.
    help: str
    #: The option may be given repeatedly.
    is_many: bool = False
    #: Allowed words; empty = any.
    choices: tuple[str, ...] = ()

    @property
    def is_share(self) -> bool:
        """True for a fraction that is shown and typed as a percentage."""
        return self.parser is parsing.ratio

    @property
    def is_duration(self) -> bool:
        """True for seconds that are shown and typed with a unit."""
        return self.parser is parsing.seconds

    @property
    def label(self) -> str:
        """Its name on the web page; of a limit, the name that `kekbridge risk show` uses (risk/limits.py)."""
        return _LABELS[self.parameter]

    @property
    def is_usual(self) -> bool:
        """True for one of those that most people set; the page folds the others away."""
        return self.parameter in _USUAL

    @property
    def parameter(self) -> str:
        """The option as a Python parameter: `--max-notional` -> `max_notional`."""
        return self.option.removeprefix("--").replace("-", "_")


def _symbols(option: str, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(perp_symbol(word, option) for word in parsing.text_list(option, text)))


def _future_time(option: str, text: str) -> Any:
    return parsing.future_instant(option, text, datetime.now(UTC))


def _leverage(option: str, text: str) -> Any:
    leverage = parsing.number(option, text)
    if leverage > 100:
        raise parsing.invalid(option, text, "a number from 1 to 100")
    return leverage


def _as_is(_option: str, text: str) -> str:
    return text


_POLICIES = ("refuse", "lower")
_FOLLOW = ("signal", "position")
_PROFILE_NAMES = tuple(PROFILES)

ROWS: tuple[Row, ...] = (
    Row("--allowed-symbols", "limits", "allowed_symbols", _symbols, "BTC,ETH", "Trade these markets only."),
    Row("--min-order-size", "limits", "min_order_size", parsing.number, "SIZE", "Smallest entry, in coins."),
    Row("--max-order-size", "limits", "max_order_size", parsing.number, "SIZE", "Largest entry, in coins."),
    Row("--max-position-size", "limits", "max_position_size", parsing.number, "SIZE", "Largest position of one market, in coins."),
    Row("--max-notional", "limits", "max_notional", parsing.usdc, "USDC", "Largest value of one entry."),
    Row("--daily-limit", "limits", "daily_limit", parsing.usdc, "USDC", "Value traded per UTC day."),
    Row("--daily-orders", "limits", "daily_orders", parsing.count, "N", "Orders per UTC day."),
    Row("--max-leverage", "limits", "max_leverage", _leverage, "X", "Highest leverage, 1 to 100."),
    Row("--leverage-policy", "limits", "leverage_policy", _as_is, "refuse|lower", "Above it: refuse, or lower it.", choices=_POLICIES),
    Row("--max-open-positions", "limits", "max_open_positions", parsing.count, "N", "Markets with an open position."),
    Row("--require-stop-loss", "limits", "require_stop_loss", None, "", "Refuse entries without a stop loss."),
    Row("--max-stop-distance", "limits", "max_stop_distance", parsing.ratio, "SHARE", "Largest stop distance (5%); 20% if required."),
    Row("--max-slippage", "limits", "max_slippage", parsing.ratio, "SHARE", "Farthest market price from the alert's price, such as 0.5%."),
    Row("--max-daily-loss", "limits", "max_daily_loss", parsing.usdc, "USDC", "Loss of a UTC day after which only exits pass."),
    Row("--max-drawdown", "limits", "max_drawdown", parsing.ratio, "SHARE", "Fall from the equity peak that stops entries, such as 20%."),
    Row("--cooldown", "limits", "cooldown_s", parsing.seconds, "TIME", "Least time between two entries in a market, such as 90s or 5m."),
    Row("--trading-hours", "limits", "trading_hours", _as_is, "HOURS", 'When entries are allowed, such as "Mon-Fri 07:00-22:00 UTC".'),
    Row("--rate-per-minute", "rates", "per_minute", parsing.count, "N", "Entries per minute; exits have no rate limit."),
    Row("--rate-per-hour", "rates", "per_hour", parsing.count, "N", "Entries per hour."),
    Row("--rate-per-day", "rates", "per_day", parsing.count, "N", "Entries per day."),
    Row("--require-signature", "", "require_signature", None, "", "Require a signature besides the apiKey."),
    Row("--require-timestamp", "", "require_timestamp", None, "", "Require a timestamp in the message."),
    Row("--max-timestamp-age", "", "max_timestamp_age_s", parsing.seconds, "TIME", "Oldest alert that is still executed, such as 60s."),
    Row("--follow", "", "follow", _as_is, "signal|position", "Each alert is an order, or names a target position.", choices=_FOLLOW),
    Row("--resync", "", "resync", None, "", "With --follow position: correct a gap to the strategy's position, not only report it."),
    Row("--reorder-ms", "", "reorder_ms", parsing.count, "MS", "How long an alert with a strategy's position waits for one it overtook."),
    Row("--reverse", "", "reverse", None, "", "An entry against an open position closes it first, then opens its full size."),
    Row("--key-in-path", "", "key_in_path", None, "", "Take the key from the end of the URL, which makes the URL a secret."),
    Row("--profile", "", "profile", _as_is, "NAME", "Format of the messages: seed is kekbridge's own.", choices=_PROFILE_NAMES),
    Row("--rescale-units", "", "rescale_units", None, "", "Trade PEPE alerts on the 1000PEPE market, sizes divided by 1000."),
    Row("--expect-alert-every", "", "expect_alert_every_s", parsing.seconds, "TIME", "Notify if no alert came for this time, such as 25h."),
    Row("--alert-expires", "", "alert_expires_at", _future_time, "DATE", "When TradingView ends the alert: 60d, or a date."),
    Row("--default", "", "defaults", None, "FIELD=VALUE", "Value of a field that the message leaves out.", is_many=True),
    Row("--lock", "", "locked", None, "FIELD=VALUE", "Value of a field that no message can change.", is_many=True),
    Row("--alias", "", "aliases", None, "FROM=TO", "Trade the ticker FROM on the market TO.", is_many=True),
    Row("--allow-address", "", "allowed_addresses", None, "NETWORK", "Accept this network of senders only; or tradingview.", is_many=True),
)  # fmt: skip

_LABELS: Mapping[str, str] = {
    "allowed_symbols": "Allowed symbols",
    "min_order_size": "Smallest order (coins)",
    "max_order_size": "Largest order (coins)",
    "max_position_size": "Largest position (coins)",
    "max_notional": "Largest order value (USDC)",
    "daily_limit": "Traded a day (USDC)",
    "daily_orders": "Most orders a day",
    "max_leverage": "Highest leverage",
    "leverage_policy": "Above the highest leverage",
    "max_open_positions": "Most open positions",
    "require_stop_loss": "Stop loss required",
    "max_stop_distance": "Largest stop distance",
    "max_slippage": "Largest slippage",
    "max_daily_loss": "Largest loss a day (USDC)",
    "max_drawdown": "Largest drawdown",
    "cooldown": "Cool-down between entries",
    "trading_hours": "Trading hours",
    "rate_per_minute": "Entries per minute",
    "rate_per_hour": "Entries per hour",
    "rate_per_day": "Entries per day",
    "require_signature": "Signature required",
    "require_timestamp": "Timestamp required",
    "max_timestamp_age": "Oldest alert",
    "follow": "What an alert means",
    "resync": "Correct gaps to the strategy",
    "reorder_ms": "Wait for an overtaken alert (ms)",
    "reverse": "Reverse with the full size",
    "key_in_path": "Key in the URL",
    "profile": "Message format",
    "rescale_units": "Rescale units",
    "expect_alert_every": "Alert expected every",
    "alert_expires": "Alert ends at TradingView",
    "default": "Default fields",
    "lock": "Locked fields",
    "alias": "Ticker aliases",
    "allow_address": "Allowed senders",
}
_USUAL = frozenset(
    {
        "allowed_symbols",
        "max_order_size",
        "max_notional",
        "daily_limit",
        "max_leverage",
        "max_open_positions",
        "require_stop_loss",
        "max_daily_loss",
        "require_signature",
        "max_timestamp_age",
        "follow",
        "profile",
        "expect_alert_every",
        "alert_expires",
    }
)
#: Every setting by its parameter.
ROW_OF: Mapping[str, Row] = {row.parameter: row for row in ROWS}

# Fields that cannot be cleared with `none`.
REQUIRED_FIELDS = frozenset({"leverage_policy", "follow", "profile", "reorder_ms", "per_minute", "per_hour", "per_day"})


# What a zero is refused for, with its own fix: it would deny every order.
_AMOUNTS = (parsing.number, parsing.usdc, parsing.count, parsing.ratio, parsing.seconds, _leverage)
_ZERO = re.compile(r"0+(\.0+)?\s*[%a-z]*", re.ASCII)


def apply(options: Mapping[str, Any], settings: WebhookSettings) -> WebhookSettings:
    """Return the settings changed by the given options. Raises ConfigError as `parse` does."""
    changes: dict[str, dict[str, Any]] = {"limits": {}, "rates": {}, "": {}}
    for row in ROWS:
        text = options.get(row.parameter)
        if text is None or text == []:
            continue
        changes[row.part][row.field] = parse(row, text)
    return replace(
        settings,
        limits=replace(settings.limits, **changes["limits"]),
        rates=replace(settings.rates, **changes["rates"]),
        **changes[""],
    )


def parse(row: Row, text: Any) -> Any:
    """The value of one setting, from its text as typed: a list for a repeated option, a bool for a switch.

    Raises ConfigError naming the option, what was found and what is expected; its `field` is the row's parameter.
    """
    try:
        return _parse(row, text)
    except ConfigError as error:
        raise ConfigError(error.message, code=error.code, field=row.parameter) from None


def _parse(row: Row, text: Any) -> Any:
    if row.is_many:
        return _parse_many(row, list(text))
    if row.parser is None:
        return bool(text)
    if text == parsing.NONE and row.field not in REQUIRED_FIELDS:
        return None
    if row.parser in _AMOUNTS and row.field not in REQUIRED_FIELDS and _ZERO.fullmatch(text):
        raise ConfigError(f"{row.option}: found {text!r}; write {parsing.NONE} for no limit")
    if row.choices and text not in row.choices:
        raise parsing.invalid(row.option, text, f"{', '.join(row.choices[:-1])} or {row.choices[-1]}")
    return row.parser(row.option, text)


def _parse_many(row: Row, texts: list[str]) -> Any:
    if texts == [parsing.NONE]:
        return () if row.field == "allowed_addresses" else {}
    if row.field == "allowed_addresses":
        return _addresses(row.option, texts)
    values = parsing.assignments(row.option, texts)
    if row.field == "aliases":
        return {ticker.upper(): perp_symbol(market, row.option) for ticker, market in values.items()}
    return values


def _addresses(option: str, texts: list[str]) -> tuple[str, ...]:
    AllowList.parse(texts, option)
    return tuple(text.strip() for text in texts)


def text_of(row: Row, settings: WebhookSettings) -> str:
    """A setting as typed, so that `apply` parses it back; empty if not set, one line per value of a repeated option."""
    value = getattr(getattr(settings, row.part) if row.part else settings, row.field)
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if row.is_share:
        return f"{amount(value * 100)}%"
    if row.is_duration:
        return parsing.seconds_text(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, tuple):
        return ("\n" if row.is_many else ",").join(value)
    return amount(value) if isinstance(value, Decimal) else str(value)
