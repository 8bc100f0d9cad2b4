"""Alerts as people really send them (data/alert-cases.json): how a case is read, sent and checked, on whatever answers it.

A case has the webhook's options, the positions before it, messages in their order, and what must hold afterwards. In texts `@KEY@` is
the apiKey, `@ID@` a text of the case alone, `@NOW@` the time at which the case starts, with seconds added (`@NOW-30@`) or in a format
(`@NOW|%H:%M@`), `@NOWS@` and `@NOWMS@` that time in Unix seconds and milliseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from kekbridge.model import RateLimits, WebhookSettings
from kekbridge.webhooks.options import ROWS, apply
from tests.paths import DATA

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads((DATA / "alert-cases.json").read_text(encoding="utf-8"))["cases"]
}
_MANY_ALERTS = RateLimits(per_minute=10_000, per_hour=10_000, per_day=10_000)
_TIME = re.compile(r"@NOW(?P<unit>S|MS)?(?P<offset>[+-][0-9]+)?(?:\|(?P<format>[^@]*))?@")


@dataclass(frozen=True)
class Delivery:
    """One message of a case, ready to be sent."""

    body: bytes
    headers: Mapping[str, str]
    #: Which of the case's webhooks it is for.
    webhook: int
    method: str
    path: str | None


@dataclass(frozen=True)
class PositionSet:
    """Positions that something else than the case's webhooks sets between two messages, by symbol."""

    positions: Mapping[str, Decimal]


@dataclass(frozen=True)
class CaseAnswer:
    """The answer to one message."""

    status: int
    body: Mapping[str, Any]


@dataclass
class CaseResult:
    """What holds after a case."""

    answers: Sequence[CaseAnswer]
    positions: Mapping[str, Decimal]
    #: Live protective orders: kind and price.
    protection: Sequence[tuple[str, Decimal]]
    #: Rows of the log as text; None where there is none.
    logs: Sequence[str] | None = field(default=None)


def webhook_settings(options: Sequence[str]) -> WebhookSettings:
    """The settings that `webhook create` makes of the options, with high rates and without a required signature."""
    rows = {row.option: row for row in ROWS}
    given: dict[str, Any] = {}
    left = list(options)
    while left:
        option = left.pop(0)
        row = rows[option if option in rows else "--" + option.removeprefix("--no-")]
        is_switch = row.parser is None and not row.is_many
        value = (option in rows) if is_switch else left.pop(0)
        is_one_of_many = row.is_many and isinstance(value, str)
        given[row.parameter] = [*given.get(row.parameter, ()), value] if is_one_of_many else value
    return apply({"require_signature": False, **given}, WebhookSettings(rates=_MANY_ALERTS))


def settings_of(case: Mapping[str, Any]) -> list[WebhookSettings]:
    """The settings of each of a case's webhooks."""
    return [webhook_settings(options) for options in case.get("webhooks", [case["webhook"]])]


def prior_positions(case: Mapping[str, Any]) -> dict[str, Decimal]:
    return {f"PERP_{base}_USDC": Decimal(size) for base, size in case["prior"].items()}


def deliveries(case: Mapping[str, Any], keys: Sequence[str], *, now: datetime) -> list[Delivery | PositionSet]:
    """The messages of a case in their order, for webhooks with these keys, begun at `now`."""
    return [_delivery(case, each, keys, now) for each in case["bodies"]]


def _delivery(case: Mapping[str, Any], each: Any, keys: Sequence[str], now: datetime) -> Delivery | PositionSet:
    if isinstance(each, dict) and "set" in each:
        return PositionSet({f"PERP_{base}_USDC": Decimal(size) for base, size in each["set"].items()})
    is_wrapped = (
        isinstance(each, dict) and ("body" in each or "text" in each) and "headers" not in each.get("body", each)
    )
    is_wrapped = is_wrapped and each.keys() <= {"body", "text", "via", "headers", "method", "path", "wait_s"}
    wrap = each if is_wrapped else {}
    written = wrap.get("text", wrap.get("body")) if is_wrapped else each
    via = int(wrap.get("via", 0))
    text = written if isinstance(written, str) else json.dumps(written)
    headers = {**case.get("headers", {}), **wrap.get("headers", {})}
    if "content_type" in case:
        headers["Content-Type"] = case["content_type"]

    def fill(raw: str) -> str:
        raw = raw.replace("@KEY@", keys[via]).replace("@ID@", case["id"])
        return _TIME.sub(lambda match: _time_text(match, now), raw)

    return Delivery(
        body=fill(text).encode(),
        headers={name: fill(value) for name, value in headers.items()},
        webhook=via,
        method=wrap.get("method", "POST"),
        path=wrap.get("path"),
    )


def _time_text(match: re.Match[str], now: datetime) -> str:
    moment = now + timedelta(seconds=int(match["offset"] or 0))
    if match["format"] is not None:
        return moment.strftime(match["format"])
    if match["unit"]:
        factor = 1000 if match["unit"] == "MS" else 1
        return str(int(moment.timestamp() * factor))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def find_fault(case: Mapping[str, Any], result: CaseResult) -> str | None:
    """What does not hold, or None; of a case with several right outcomes the fault of the last."""
    fault: str | None = None
    for expect in case["expect"].get("any", [case["expect"]]):
        fault = _fault(expect, result)
        if fault is None:
            return None
    return fault


def _fault(expect: Mapping[str, Any], result: CaseResult) -> str | None:
    statuses = [answer.status for answer in result.answers]
    last = result.answers[-1].body
    text = json.dumps(last, ensure_ascii=False)
    wanted = {f"PERP_{base}_USDC": Decimal(size) for base, size in expect.get("position_after", {}).items()}
    checks: list[tuple[bool, str]] = [
        (
            all(status in allowed for status, allowed in zip(statuses, expect["statuses"], strict=True)),
            f"statuses {statuses}, wanted {expect['statuses']}",
        ),
        (
            "position_after" not in expect or result.positions == wanted,
            f"positions {result.positions}, wanted {wanted}",
        ),
        (
            "code" not in expect or last.get("code") == expect["code"],
            f"code {last.get('code')}, wanted {expect.get('code')}",
        ),
        *((word in text, f"{word} is not named") for word in expect.get("error_names", ())),
        *((re.search(p, text, re.IGNORECASE) is not None, f"{p} is not said") for p in expect.get("error_says", ())),
        *((re.search(p, text, re.IGNORECASE) is None, f"{p} is said") for p in expect.get("error_not", ())),
        *((name in str(last.get("warnings")), f"no warning names {name}") for name in expect.get("warning_names", ())),
        *(_duplicate_checks(expect, result)),
        *(_protection_checks(expect, result)),
        *(_log_checks(expect, result)),
    ]
    return next((f"{text_of_fault}; answer {text}" for holds, text_of_fault in checks if not holds), None)


def _duplicate_checks(expect: Mapping[str, Any], result: CaseResult) -> list[tuple[bool, str]]:
    found = [bool(answer.body.get("duplicate")) for answer in result.answers]
    wanted = expect.get("duplicate", found)
    return [(found == wanted, f"duplicate {found}, wanted {wanted}")]


def _protection_checks(expect: Mapping[str, Any], result: CaseResult) -> list[tuple[bool, str]]:
    checks = []
    if expect.get("protected"):
        checks.append((any(kind == "stop_loss" for kind, _ in result.protection), "there is no live stop"))
    for kind, price in expect.get("protection", {}).items():
        near = any(
            kind == found and (price is True or abs(at / Decimal(price) - 1) <= Decimal("0.002"))
            for found, at in result.protection
        )
        checks.append((near, f"no {kind} at {price}, only {result.protection}"))
    return checks


def _log_checks(expect: Mapping[str, Any], result: CaseResult) -> list[tuple[bool, str]]:
    if result.logs is None:
        return []
    wanted = expect.get("in_logs", {})
    words = ["duplicate"] if wanted.get("duplicate") else [wanted["code"]] if "code" in wanted else []
    return [
        *((any(word in row for row in result.logs), f"{word} is in no row of the log") for word in words),
        *((not any(p in row for row in result.logs), f"a row of the log says {p}") for p in expect.get("logs_not", ())),
    ]
