"""Send one signed alert as TradingView does: one POST, 3 s, no redirect, no proxy."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from kekbridge.alerts.template import fill
from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.ingress.http import DRY_RUN_HEADER, DryRun, proven_bytes
from kekbridge.model.webhooks import WEBHOOK_PATH

TIMEOUT_S: Final = 3.0  # docs/internals/tradingview.md section 1: TradingView gives up after this
_MAX_RESPONSE_BYTES: Final = 1_000_000


class NotDelivered(KekbridgeError):
    """No usable response to an alert; exit code 1."""


@dataclass(frozen=True, slots=True)
class SentReply:
    """The response to an alert that was sent."""

    #: HTTP status.
    status: int
    #: JSON body.
    body: Mapping[str, Any]
    #: Time from connecting to the last byte of the response, in ms.
    milliseconds: int


def build_message(text: str | None, api_key: str, values: Mapping[str, str], *, now: datetime) -> tuple[bytes, bool]:
    """Return the bytes to send, and whether they contain a signature. None is a ping; a missing apiKey is added."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    if text is None:
        return json.dumps({"apiKey": api_key, "action": "ping", "timestamp": stamp}).encode(), False
    text = fill(text.strip(), {"timenow": stamp, **values})
    try:
        document = json.loads(text)
    except ValueError:
        return text.encode(), False  # sent unchanged, to show the daemon's error for it
    if isinstance(document, dict) and "apiKey" not in document and text.startswith("{"):
        rest = text[1:].lstrip()
        text = f'{{"apiKey":{json.dumps(api_key)}{"" if rest.startswith("}") else ","}{rest}'
    return text.encode(), isinstance(document, dict) and bool(document.get("signature"))


def build_headers(body: bytes, api_secret: str, dry_run: DryRun | None, *, is_signed: bool) -> dict[str, str]:
    """Return the headers of an alert; the body is signed in a header if it has no signature itself, and for every dry run."""
    headers = {"Content-Type": "application/json"}
    flag = None if dry_run is None else dry_run.flag
    if flag is not None:
        headers[DRY_RUN_HEADER] = flag
    if flag is not None or not is_signed:
        signed = hmac.new(api_secret.encode(), proven_bytes(body, flag), hashlib.sha256).hexdigest()
        headers["X-Webhook-Signature"] = f"sha256={signed}"
    return headers


def post(url: str, body: bytes, headers: Mapping[str, str]) -> SentReply:
    """POST once. Raises NotDelivered without a readable response in time, ConfigError for an unusable URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: found {url!r}, expected a URL such as http://127.0.0.1:8080{WEBHOOK_PATH}")
    connection_class = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connection_class(parts.hostname, parts.port, timeout=TIMEOUT_S)
    started = time.perf_counter()
    try:
        connection.request("POST", parts.path or "/", body, dict(headers))
        response = connection.getresponse()
        text = response.read(_MAX_RESPONSE_BYTES)
    except TimeoutError:
        raise NotDelivered("not_delivered", f"{url} did not answer within {TIMEOUT_S:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotDelivered("not_delivered", f"{url}: {reason}; is `kekbridge serve` running?") from None
    finally:
        connection.close()
    milliseconds = int((time.perf_counter() - started) * 1000)
    try:
        reply = json.loads(text, parse_float=Decimal)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise NotDelivered(
            "not_delivered",
            f"{url} answered HTTP {response.status} without JSON; is it the URL of a kekbridge webhook?",
        )
    return SentReply(response.status, reply, milliseconds)
