"""Limits as values: read from the configuration, combined, described with their usage, and formatted.

Decides nothing; rules.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any, Final

from kekbridge.formatting import format_decimal
from kekbridge.model import ZERO, AccountSnapshot, LimitBreach, Limits, Usage
from kekbridge.risk.account_exposure import AccountExposure
from kekbridge.risk.drawdown import drawdown_of, loss_of_day, next_midnight
from kekbridge.risk.exposure import names_symbol

_NONE: Final = Limits(min_order_size=None, max_notional=None, max_leverage=None, max_open_positions=None)
_ROUND: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)
_TWELVE_DECIMALS, _FOUR_DECIMALS, _CENT = Decimal("1e-12"), Decimal("1e-4"), Decimal("0.01")
_MAX_DECIMALS: Final = 12
_LARGER_IS_TIGHTER: Final = frozenset({"min_order_size", "cooldown_s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLine:
    """One limit formatted for display; empty texts do not apply."""

    #: What is limited, such as `traded a day`.
    name: str
    #: The limit with its unit.
    limit: str
    #: How much of it is used.
    used: str = ""
    #: How much of it is left.
    left: str = ""
    #: When or how it resets.
    resets: str = ""


def account_limits(**numbers: Any) -> Limits:
    """Build the account's limits from the settings of `[risk]`; 0, empty and absent mean no limit. Raises TypeError for an unknown name."""
    known = {field.name for field in fields(Limits)}
    unknown = sorted(numbers.keys() - known)
    if unknown:
        raise TypeError(f"{unknown[0]} is not a limit")
    given = {name: value for name, value in numbers.items() if value not in (None, 0, "", ())}
    if "allowed_symbols" in given:
        given["allowed_symbols"] = tuple(given["allowed_symbols"])
    absent = {field.name: getattr(_NONE, field.name) for field in fields(Limits)}
    return Limits(**{**absent, **given})


def tighter(webhook: Limits, account: Limits) -> Limits:
    """Combine both into one set of limits that denies what either denies. The leverage policy is the webhook's: the account has none."""
    merged: dict[str, Any] = {}
    for field in fields(Limits):
        one, other = getattr(webhook, field.name), getattr(account, field.name)
        merged[field.name] = _tighter_value(field.name, one, other)
    return Limits(**merged)


def describe_usage(
    limits: Limits,
    usage: Usage,
    now: datetime,
    *,
    scope: str = "webhook",
    snapshot: AccountSnapshot | None = None,
) -> tuple[LimitLine, ...]:
    """List every limit that is set, with what is used and left of it. `scope` selects the sums of the `webhook` or the `account`.

    Without a snapshot, limits that need account data (loss, drawdown, leverage, positions) are listed without their usage.
    """
    is_account = scope == "account"
    midnight = _until_midnight(now)
    traded = usage.account_traded_today if is_account else usage.traded_today
    orders = usage.account_orders_today if is_account else usage.orders_today
    lines = [
        _plain_line(
            "allowed symbols", ", ".join(limits.allowed_symbols) if limits.allowed_symbols is not None else None
        ),
        _plain_line("smallest order", limits.min_order_size and f"{limit_number(limits.min_order_size)} coins"),
        _plain_line("largest order", limits.max_order_size and f"{limit_number(limits.max_order_size)} coins"),
        _plain_line("largest position", limits.max_position_size and f"{limit_number(limits.max_position_size)} coins"),
        _plain_line("largest order value", limits.max_notional and usdc(limits.max_notional)),
        _used_line("traded a day", limits.daily_limit, traded, usdc, midnight),
        _used_line("orders a day", _decimal(limits.daily_orders), Decimal(orders), limit_number, midnight),
    ]
    lines += _account_lines(limits, usage, snapshot, midnight, is_account=is_account)
    lines += [
        _plain_line("stop loss", "required" if limits.require_stop_loss else None),
        _plain_line("stop distance", limits.max_stop_distance and f"at most {percent(limits.max_stop_distance)}"),
        _plain_line("slippage", limits.max_slippage and f"at most {percent(limits.max_slippage)}"),
        _plain_line("cool-down", f"{limits.cooldown_s} s per symbol" if limits.cooldown_s else None),
        _plain_line("trading hours", limits.trading_hours or None),
    ]
    return tuple(line for line in lines if line is not None)


def breaches_of(
    scope: str, limits: Limits, usage: Usage, snapshot: AccountSnapshot, *, now: datetime
) -> Iterable[LimitBreach]:
    """Breached loss limits of one scope; drawdown first, since it lasts longer than a day's loss."""
    drawdown = drawdown_of(usage.equity_peak, snapshot.account_value)
    if limits.max_drawdown is not None and drawdown >= limits.max_drawdown:
        reason = f"drawdown {percent(drawdown)}, limit {percent(limits.max_drawdown)}"
        yield LimitBreach(scope=scope, rule="drawdown", reason=reason, until=None)
    if limits.max_daily_loss is None:
        return
    loss = loss_of_day(AccountExposure(), usage, snapshot, limits.allowed_symbols, scope)
    if loss >= limits.max_daily_loss:
        reason = f"daily loss of {usdc(loss)}, limit {usdc(limits.max_daily_loss)}"
        yield LimitBreach(scope=scope, rule="daily_loss", reason=reason, until=next_midnight(now))


@lru_cache(maxsize=512)  # the same sizes and limits are shown again and again
def limit_number(value: Decimal) -> str:
    """Plain notation without trailing zeros, rounded to twelve decimals."""
    text = format_decimal(value)
    if len(text.partition(".")[2]) <= _MAX_DECIMALS:
        return text
    return format_decimal(_ROUND.quantize(value, _TWELVE_DECIMALS))


def usdc(value: Decimal) -> str:
    """USDC with thousands separators and cents: `12,345.60 USDC`."""
    return f"{value:,.2f} USDC"


def percent(fraction: Decimal) -> str:
    """A fraction as percent, at most four decimals: 0.005 is `0.5 %`."""
    return f"{limit_number(_ROUND.quantize(fraction * 100, _FOUR_DECIMALS))} %"


def times(value: Decimal) -> str:
    """A multiple, at most two decimals: `2.5x`."""
    return f"{limit_number(_ROUND.quantize(value, _CENT))}x"


def _account_lines(
    limits: Limits, usage: Usage, snapshot: AccountSnapshot | None, midnight: str, *, is_account: bool
) -> list[LimitLine | None]:
    """Limits whose usage is read from the account: loss, drawdown, leverage, open positions."""
    if snapshot is None:
        return [
            _plain_line("loss a day", limits.max_daily_loss and usdc(limits.max_daily_loss)),
            _plain_line("drawdown", limits.max_drawdown and percent(limits.max_drawdown)),
            _plain_line("leverage", limits.max_leverage and times(limits.max_leverage)),
            _plain_line(
                "open positions", str(limits.max_open_positions) if limits.max_open_positions is not None else None
            ),
        ]
    sums, value = AccountExposure(), snapshot.account_value
    loss = max(ZERO, loss_of_day(sums, usage, snapshot, limits.allowed_symbols, "account" if is_account else "webhook"))
    fallen = drawdown_of(usage.equity_peak, value)
    total = sums.total(snapshot, usage)
    leverage = total.notional / value if value > 0 else ZERO
    return [
        _used_line("loss a day", limits.max_daily_loss, loss, usdc, midnight),
        _used_line("drawdown", limits.max_drawdown, fallen, percent, "kekbridge resume --reset-peak"),
        _used_line("leverage", limits.max_leverage, leverage, times, ""),
        _used_line(
            "open positions", _decimal(limits.max_open_positions), Decimal(total.open_symbols), limit_number, ""
        ),
    ]


def _tighter_value(name: str, one: Any, other: Any) -> Any:
    if name == "leverage_policy":
        return one
    if name == "require_stop_loss":
        return one or other
    if one is None or other is None:
        return other if one is None else one
    if name == "allowed_symbols":
        return tuple(symbol for symbol in one if names_symbol(other, symbol))
    if name == "trading_hours":
        return one if one == other else f"{one} & {other}"
    return max(one, other) if name in _LARGER_IS_TIGHTER else min(one, other)


def _plain_line(name: str, limit: str | Decimal | None) -> LimitLine | None:
    return LimitLine(name=name, limit=str(limit)) if limit else None


def _used_line(
    name: str, limit: Decimal | None, used: Decimal, show: Callable[[Decimal], str], resets: str
) -> LimitLine | None:
    if limit is None:
        return None
    return LimitLine(name=name, limit=show(limit), used=show(used), left=show(max(ZERO, limit - used)), resets=resets)


def _until_midnight(now: datetime) -> str:
    """When daily limits reset, as text; days are UTC."""
    minutes = -(-int((next_midnight(now) - now).total_seconds()) // 60)
    return f"00:00 UTC, in {minutes // 60} h {minutes % 60:02d} min"


def _decimal(count: int | None) -> Decimal | None:
    return None if count is None else Decimal(count)
