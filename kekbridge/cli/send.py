"""Sends one alert to the running daemon as TradingView would: one POST, three seconds, no redirect; and shows what it answered.

Shared by `webhook test` and `replay`. Signs with the webhook's own secret; decides nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.ingress.http import DRY_RUN_HEADER, DryRun, proven_bytes

TIME_LIMIT_S: Final = 3.0  # tradingview.md section 1: longer than this and TradingView gives up
_MOST_ANSWERED = 1_000_000


class NotDelivered(KekbridgeError):
    """No answer came; the command line prints the one line and exits with 1."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the daemon answered, and how long it took."""

    status: int
    body: Mapping[str, Any]
    milliseconds: int

    @property
    def is_success(self) -> bool:
        return self.status < 300 and self.body.get("success") is not False


def headers_of(body: bytes, api_secret: str, dry_run: DryRun | None, *, is_signed: bool) -> dict[str, str]:
    """The headers of one alert: a header signature where the message has none of its own, and always for a dry run."""
    headers = {"Content-Type": "application/json"}
    flag = None if dry_run is None else dry_run.flag
    if flag is not None:
        headers[DRY_RUN_HEADER] = flag
    if flag is not None or not is_signed:
        signed = hmac.new(api_secret.encode(), proven_bytes(body, flag), hashlib.sha256).hexdigest()
        headers["X-Webhook-Signature"] = f"sha256={signed}"
    return headers


def post(url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    """POST once. Raises NotDelivered with one line when there was no readable answer in time, ConfigError for an unusable URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--url: found {url!r}, expected an address such as http://127.0.0.1:8080/api/webhooks/tradingview"
        )
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIME_LIMIT_S)
    started = time.perf_counter()
    try:
        connection.request("POST", parts.path or "/", body, dict(headers))
        response = connection.getresponse()
        text = response.read(_MOST_ANSWERED)
    except TimeoutError:
        raise NotDelivered("not_delivered", f"{url} did not answer within {TIME_LIMIT_S:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotDelivered("not_delivered", f"{url}: {reason}; is `kekbridge serve` running?") from None
    finally:
        connection.close()
    spent = int((time.perf_counter() - started) * 1000)
    try:
        answered = json.loads(text, parse_float=Decimal)
    except ValueError:
        answered = None
    if not isinstance(answered, dict):
        raise NotDelivered(
            "not_delivered", f"{url} answered HTTP {response.status} without JSON: is this kekbridge's address?"
        )
    return Reply(response.status, answered, spent)


def show(reply: Reply, *, as_json: bool) -> int:
    """Print the answer; returns the exit code: 0 when the alert was (or would be) taken, else 1."""
    from kekbridge.cli import render

    if as_json:
        render.as_json({"httpStatus": reply.status, "milliseconds": reply.milliseconds, **reply.body})
        return 0 if reply.is_success else 1
    if reply.body.get("dryRun"):
        _show_rehearsal(reply)
    else:
        render.pairs([("answer", f"HTTP {reply.status} after {reply.milliseconds} ms"), *reply.body.items()])
    return 0 if reply.is_success else 1


def _show_rehearsal(reply: Reply) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.explain import print_verdicts
    from kekbridge.codes import CODES
    from kekbridge.model import Verdict

    body = reply.body
    rows: list[tuple[str, object]] = [
        ("dry run", "nothing was stored and nothing was sent"),
        ("would be", body.get("status")),
        ("would answer", f"HTTP {body.get('httpStatus')}"),
    ]
    rows += [(name, body[name]) for name in ("code", "error", "field") if body.get(name)]
    known = CODES.get(str(body.get("code")))
    rows += [("fix", known.fix)] if known and not reply.is_success else []
    render.pairs([*rows, *(("warning", warning) for warning in body.get("warnings", ()))])
    if body.get("verdicts"):
        render.heading("rules")
        print_verdicts([Verdict(**verdict) for verdict in body["verdicts"]])
    for number, order in enumerate(body.get("orders", ()), start=1):
        render.heading(
            f"order {number}: {order.get('side')} {order.get('quantity')} {order.get('symbol')} ({order.get('purpose')})"
        )
        request = json.dumps(order.get("request"), separators=(",", ":"), default=str)
        after = order.get("afterLeg")
        waits = None if after is None else f"order {int(after) + 1}, and is sized once more then"
        pairs = [
            ("POST", order.get("path")),
            ("body", request),
            ("leverage", order.get("leverage")),
            ("waits for", waits),
        ]
        render.pairs([(name, value) for name, value in pairs if value is not None], indent=2)
    for wish in body.get("cancels", ()):
        render.pairs(
            [("would cancel", f"{wish.get('symbol') or 'every market'}, comment {wish.get('comment') or 'any'}")]
        )
