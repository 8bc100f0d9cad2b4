"""Checks of an Orderly account: reachability, clock, key, scopes, expiry, addresses, broker, markets.

Shown by `serve` and `kekbridge doctor`. Reads only; each check names what was found and how to fix it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import KeyInfo
from kekbridge.exchange.orderly.account_api import AccountApi
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model.check import Check

_EXPIRY_WARNING: Final = timedelta(days=14)
_CLOCK_WARNING_MS: Final = 5_000
_REQUIRED_SCOPES: Final = frozenset({"read", "trading"})


@dataclass(frozen=True, slots=True)
class CheckTarget:
    """The account to check."""

    #: `paper`, `testnet` or `live`.
    name: str
    #: REST URL, for messages.
    base_url: str
    account_api: AccountApi
    signer: Signer
    #: Expected broker; empty = any.
    broker_id: str
    #: Local time, aware UTC.
    clock: Callable[[], datetime]
    #: Exchange clock minus ours, in ms; None before the first reply.
    clock_offset_ms: Callable[[], int | None]


async def run_checks(target: CheckTarget) -> tuple[Check, ...]:
    """Run every check once. One that cannot be made is `broken`; if the exchange is down, that is the only one."""
    system = await _run("exchange", _system(target))
    if system[0].level == "broken":
        return system
    checks = [*system, _clock(target.clock_offset_ms())]
    for name, check in (
        ("key", _key(target)),
        ("addresses", _addresses(target)),
        ("account", _account(target)),
        ("markets", _markets(target)),
    ):
        checks += await _run(name, check)
    return tuple(checks)


async def _run(name: str, check: Awaitable[tuple[Check, ...]]) -> tuple[Check, ...]:
    try:
        return await check
    except ExchangeUnavailable as error:
        is_key = error.code in ("orderly:-1001", "orderly:-1002")
        fix = (
            "`kekbridge keys check`; create a new key on the exchange's API-key page and enter it with `kekbridge keys add`"
            if is_key
            else "check the network and exchange.base_url, then run `kekbridge doctor` again"
        )
        return (Check(name, "broken", error.message, fix),)


async def _system(target: CheckTarget) -> tuple[Check, ...]:
    system = await target.account_api.system_info()
    if system.is_maintenance:
        until = f" until {system.ends_at:%Y-%m-%d %H:%M} UTC" if system.ends_at else ""
        return (
            Check(
                "exchange",
                "warning",
                f"{target.base_url} is in maintenance{until}",
                "wait; entries are held back until it ends",
            ),
        )
    if system.starts_at is not None and system.starts_at > target.clock():
        return (Check("exchange", "warning", f"maintenance is planned for {system.starts_at:%Y-%m-%d %H:%M} UTC"),)
    return (Check("exchange", "ok", f"{target.base_url} answers"),)


def _clock(offset_ms: int | None) -> Check:
    if offset_ms is None:
        return Check("clock", "warning", "the exchange's replies carry no time to compare with")
    if abs(offset_ms) > _CLOCK_WARNING_MS:
        where = "behind" if offset_ms > 0 else "ahead of"
        text = f"this machine's clock is {abs(offset_ms) / 1000:.1f} s {where} the exchange's (corrected when signing)"
        return Check("clock", "warning", text, "turn on time synchronization (timedatectl set-ntp true)")
    return Check("clock", "ok", f"within {abs(offset_ms)} ms of the exchange's")


async def _key(target: CheckTarget) -> tuple[Check, ...]:
    key = await target.account_api.key(target.signer.account_id, target.signer.orderly_key)
    if key is None:
        text = f"the exchange does not know {target.signer.orderly_key} for account {target.signer.account_id}"
        fix = "check exchange.account_id, or register the key: `kekbridge keys register`"
        return (Check("key", "broken", text, fix),)
    return (Check("key", "ok", target.signer.orderly_key), _scopes(key), _expiry(key, target.clock()))


def _scopes(key: KeyInfo) -> Check:
    shown = ",".join(sorted(key.scopes)) or "none"
    missing = _REQUIRED_SCOPES - key.scopes
    if missing:
        text = f"the key's scopes are {shown}; {' and '.join(sorted(missing))} is missing"
        return Check("scopes", "broken", text, "create a key with the scopes read,trading")
    if "asset" in key.scopes:
        text = f"the key's scopes are {shown}; with asset it can move funds"
        return Check("scopes", "warning", text, "create a key with the scopes read,trading only")
    return Check("scopes", "ok", shown)


def _expiry(key: KeyInfo, now: datetime) -> Check:
    if key.expires_at is None:
        return Check("expiry", "warning", "the exchange does not report when the key expires")
    left = key.expires_at - now
    day = f"{key.expires_at:%Y-%m-%d}"
    if left <= timedelta(0):
        return Check(
            "expiry", "broken", f"the key expired on {day}", "create a new key and enter it with `kekbridge keys add`"
        )
    if left < _EXPIRY_WARNING:
        return Check(
            "expiry",
            "warning",
            f"the key expires on {day}, in {left.days} days",
            "create a new key soon: `kekbridge keys generate`",
        )
    return Check("expiry", "ok", f"the key is valid until {day}")


async def _addresses(target: CheckTarget) -> tuple[Check, ...]:
    keys = await target.account_api.keys()
    own = next((key for key in keys if key.orderly_key == target.signer.orderly_key), None)
    if own is None:
        return (
            Check("addresses", "warning", "the account's list of keys does not show this key", "`kekbridge keys list`"),
        )
    if own.ip_rule == "DISALLOW_ALL_IPS":
        return (
            Check(
                "addresses",
                "broken",
                "the key's address rule allows no address",
                "reset its address rule on the exchange",
            ),
        )
    if own.ip_rule == "ALLOW_RESTRICTION_LIST" and own.ip_list:
        return (Check("addresses", "ok", f"the key works from {', '.join(own.ip_list)} only"),)
    if target.name == "paper":
        return (Check("addresses", "ok", "the paper key works from every address; it is valid for paper only"),)
    fix = "`kekbridge keys restrict-ip --here` restricts it to this machine's address"
    return (Check("addresses", "warning", "the key works from every address", fix),)


async def _account(target: CheckTarget) -> tuple[Check, ...]:
    owner = await target.account_api.owner(target.signer.account_id)
    if owner is None:
        return (
            Check(
                "account",
                "broken",
                f"the exchange does not know {target.signer.account_id}",
                "check exchange.account_id",
            ),
        )
    if target.broker_id and owner.broker_id != target.broker_id:
        text = f"the account belongs to broker {owner.broker_id}, exchange.broker_id is {target.broker_id}"
        return (Check("account", "warning", text, f'set exchange.broker_id = "{owner.broker_id}" if that is intended'),)
    return (Check("account", "ok", f"wallet {owner.address}, broker {owner.broker_id}"),)


async def _markets(target: CheckTarget) -> tuple[Check, ...]:
    rules, marks = await target.account_api.rules(), await target.account_api.marks()
    if not rules or not marks:
        return (
            Check(
                "markets",
                "broken",
                f"{len(rules)} markets and {len(marks)} mark prices were listed",
                "see the exchange's status page",
            ),
        )
    return (Check("markets", "ok", f"{len(rules)} markets, {len(marks)} mark prices"),)
