"""What is looked at before a venue is trusted: reachable, clock, key, scopes, expiry, addresses, broker, markets.

One screen for `serve` and `kekbridge doctor`. Nothing here is fixed or refused; each line says what was found and how to fix it.
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
_NEEDED: Final = frozenset({"read", "trading"})


@dataclass(frozen=True, slots=True)
class VenueUnderCheck:
    """What the checks look at."""

    name: str
    base_url: str
    account_api: AccountApi
    signer: Signer
    broker_id: str
    clock: Callable[[], datetime]
    clock_offset_ms: Callable[[], int | None]


async def run_checks(venue: VenueUnderCheck) -> tuple[Check, ...]:
    """Ask everything once. A check that cannot be made is a line of its own; when the venue is down it is the only one."""
    system = await _safely("exchange", _system(venue))
    if system[0].level == "broken":
        return system
    lines = [*system, _clock(venue.clock_offset_ms())]
    for name, check in (
        ("key", _key(venue)),
        ("addresses", _addresses(venue)),
        ("account", _account(venue)),
        ("markets", _markets(venue)),
    ):
        lines += await _safely(name, check)
    return tuple(lines)


async def _safely(name: str, check: Awaitable[tuple[Check, ...]]) -> tuple[Check, ...]:
    try:
        return await check
    except ExchangeUnavailable as error:
        is_key = error.code in ("orderly:-1001", "orderly:-1002")
        fix = (
            "`kekbridge keys check`; make a new key on the exchange's API-key page and enter it with `kekbridge keys add`"
            if is_key
            else "check the network and exchange.base_url, then run `kekbridge doctor` again"
        )
        return (Check(name, "broken", error.message, fix),)


async def _system(venue: VenueUnderCheck) -> tuple[Check, ...]:
    system = await venue.account_api.system_info()
    if system.is_maintenance:
        until = f" until {system.ends_at:%Y-%m-%d %H:%M} UTC" if system.ends_at else ""
        return (
            Check(
                "exchange",
                "warning",
                f"{venue.base_url} is in maintenance{until}",
                "wait; entries are held back meanwhile",
            ),
        )
    if system.starts_at is not None and system.starts_at > venue.clock():
        return (Check("exchange", "warning", f"maintenance is planned for {system.starts_at:%Y-%m-%d %H:%M} UTC"),)
    return (Check("exchange", "ok", f"{venue.base_url} answers"),)


def _clock(offset_ms: int | None) -> Check:
    if offset_ms is None:
        return Check("clock", "warning", "the exchange's answers carry no time to compare with")
    if abs(offset_ms) > _CLOCK_WARNING_MS:
        where = "behind" if offset_ms > 0 else "ahead of"
        text = f"this machine's clock is {abs(offset_ms) / 1000:.1f} s {where} the exchange's (corrected when signing)"
        return Check("clock", "warning", text, "switch time synchronisation on (timedatectl set-ntp true)")
    return Check("clock", "ok", f"within {abs(offset_ms)} ms of the exchange's")


async def _key(venue: VenueUnderCheck) -> tuple[Check, ...]:
    key = await venue.account_api.key(venue.signer.account_id, venue.signer.orderly_key)
    if key is None:
        text = f"the exchange does not know {venue.signer.orderly_key} for account {venue.signer.account_id}"
        fix = "check exchange.account_id, or register the key: `kekbridge keys register`"
        return (Check("key", "broken", text, fix),)
    return (Check("key", "ok", venue.signer.orderly_key), _scopes(key), _expiry(key, venue.clock()))


def _scopes(key: KeyInfo) -> Check:
    shown = ",".join(sorted(key.scopes)) or "none"
    missing = _NEEDED - key.scopes
    if missing:
        text = f"the key's scopes are {shown}; {' and '.join(sorted(missing))} is missing"
        return Check("scopes", "broken", text, "make a key with the scopes read,trading")
    if "asset" in key.scopes:
        text = f"the key's scopes are {shown}; with asset it can move funds"
        return Check("scopes", "warning", text, "make a key with the scopes read,trading only")
    return Check("scopes", "ok", shown)


def _expiry(key: KeyInfo, now: datetime) -> Check:
    if key.expires_at is None:
        return Check("expiry", "warning", "the exchange does not say when the key expires")
    left = key.expires_at - now
    day = f"{key.expires_at:%Y-%m-%d}"
    if left <= timedelta(0):
        return Check(
            "expiry", "broken", f"the key expired on {day}", "make a new key and enter it with `kekbridge keys add`"
        )
    if left < _EXPIRY_WARNING:
        return Check(
            "expiry",
            "warning",
            f"the key expires on {day}, in {left.days} days",
            "make a new key soon: `kekbridge keys generate`",
        )
    return Check("expiry", "ok", f"the key is valid until {day}")


async def _addresses(venue: VenueUnderCheck) -> tuple[Check, ...]:
    keys = await venue.account_api.keys()
    own = next((key for key in keys if key.orderly_key == venue.signer.orderly_key), None)
    if own is None:
        return (
            Check("addresses", "warning", "the account's list of keys does not show this key", "`kekbridge keys list`"),
        )
    if own.ip_rule == "DISALLOW_ALL_IPS":
        return (
            Check(
                "addresses", "broken", "the key may be used from no address", "reset its address rule on the exchange"
            ),
        )
    if own.ip_rule == "ALLOW_RESTRICTION_LIST" and own.ip_list:
        return (Check("addresses", "ok", f"the key works from {', '.join(own.ip_list)} only"),)
    if venue.name == "paper":
        return (Check("addresses", "ok", "the paper key works from everywhere; it opens nothing else"),)
    fix = "restrict it to this machine's address on the exchange's API-key page"
    return (Check("addresses", "warning", "the key works from every address", fix),)


async def _account(venue: VenueUnderCheck) -> tuple[Check, ...]:
    owner = await venue.account_api.owner(venue.signer.account_id)
    if owner is None:
        return (
            Check(
                "account",
                "broken",
                f"the exchange does not know {venue.signer.account_id}",
                "check exchange.account_id",
            ),
        )
    if venue.broker_id and owner.broker_id != venue.broker_id:
        text = f"the account belongs to broker {owner.broker_id}, exchange.broker_id says {venue.broker_id}"
        return (Check("account", "warning", text, f'set exchange.broker_id = "{owner.broker_id}" if that is meant'),)
    return (Check("account", "ok", f"wallet {owner.address}, broker {owner.broker_id}"),)


async def _markets(venue: VenueUnderCheck) -> tuple[Check, ...]:
    rules, marks = await venue.account_api.rules(), await venue.account_api.marks()
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
