"""Sends one alert to the running daemon as TradingView would: one POST, three seconds, no redirect; and shows what it answered.

Shared by `webhook test` and `replay`. Signs with the webhook's own secret; decides nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from kekbridge import parsing
from kekbridge.alerts.signature import sign
from kekbridge.cli.context import mode_in_force, now, open_sealer, opened, resolve_context, webhook_url
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples
from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.ingress.http import DRY_RUN_HEADER, DryRun, proven_bytes

TIME_LIMIT_S: Final = 3.0  # docs/internals/tradingview.md section 1: longer than this and TradingView gives up
_MOST_ANSWERED = 1_000_000


class NotDelivered(KekbridgeError):
    """No answer came; the command line prints the one line and exits with 1."""


@dataclass(frozen=True, slots=True)
class SentReply:
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


def post(url: str, body: bytes, headers: Mapping[str, str]) -> SentReply:
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
    return SentReply(response.status, answered, spent)


def show(reply: SentReply, *, as_json: bool) -> int:
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


def _show_rehearsal(reply: SentReply) -> None:
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


_NOW = '"$(date -u +%Y-%m-%dT%H:%M:%SZ)"'
_SLOT = "<now>"


def curl_line(url: str, fields: Mapping[str, str], api_secret: str) -> str:
    """One line for sh, bash and zsh: POSTs `fields` with a template signature over all of them and the shell's own time.

    The body stands in single quotes, broken once for the time: '…"timestamp":"'"$(date …)"'",…'. The timestamp is not signed, so the
    same line works whenever it is pasted.
    """
    body = json.dumps(
        {**fields, "timestamp": _SLOT, "signature": sign(api_secret, fields)}, ensure_ascii=True, separators=(",", ":")
    )
    before, after = body.split(_SLOT)
    quoted = _single(before) + _NOW + _single(after)
    return f"curl -sS {shlex.quote(url)} -H 'Content-Type: application/json' -d {quoted}"


def _single(text: str) -> str:
    """Single quotes whatever the text, as zsh would expand `!` and bash `$` elsewhere."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


EPILOG = examples(
    "kekbridge webhook test default                                   a heartbeat: trades nothing",
    "kekbridge template default --kind indicator --symbol BTCUSDT.P --quantity 0.001 2>/dev/null > alert.json",
    "kekbridge webhook test default --body alert.json --fill close=65000 --dry-run",
    "kekbridge webhook test default --body alert.json --fill close=65000",
)


def _option(metavar: str, help_text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help_text, show_default=False)


def send_test(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name or id.", show_default=False)],
    body: Annotated[
        Path | None, _option("FILE", "The message to send (- for stdin). Default: a ping.", "--body")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Decide, show everything, send and store nothing.")
    ] = False,
    fill: Annotated[
        list[str] | None, _option("NAME=VALUE", "Replace {{NAME}} as TradingView would; timenow is now.", "--fill")
    ] = None,
    url: Annotated[str | None, _option("URL", "Send to this address instead of the daemon's own.", "--url")] = None,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Send one signed alert to the running daemon, as TradingView would.

    An apiKey is put in where the message has none, and a signature where it carries none. Exit code 0 when it was taken.
    """
    from kekbridge.cli import send
    from kekbridge.ingress.http import DryRun
    from kekbridge.model import Mode
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry

    filled = parsing.assignments("--fill", fill or [])
    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        sealer, mode = open_sealer(workspace, database), mode_in_force(workspace, database)
        with database.snapshot() as connection:
            webhook = stored.find(connection, name)
            credentials = registry.credentials_of(connection, sealer, webhook, now=now())
            address = url or webhook_url(workspace, connection)
    message, is_signed = _message(body, credentials.api_key, filled)
    if body is not None and mode is Mode.LIVE and not dry_run and not yes:
        typer.confirm("This may trade with real money. Send it?", abort=True, err=True)
    rehearsal = DryRun() if dry_run else None
    headers = send.headers_of(message, credentials.api_secret, rehearsal, is_signed=is_signed)
    return send.show(send.post(address, message, headers), as_json=as_json)


def _message(file: Path | None, api_key: str, filled: dict[str, str]) -> tuple[bytes, bool]:
    """The bytes to send, and whether they carry their own signature."""
    from kekbridge.alerts.template import fill
    from kekbridge.parsing import invalid

    stamp = now().strftime("%Y-%m-%dT%H:%M:%SZ")
    if file is None:
        return json.dumps({"apiKey": api_key, "action": "ping", "timestamp": stamp}).encode(), False
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(
            "--body", str(file), f"a readable text file ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        ) from None
    text = fill(text.strip(), {"timenow": stamp, **filled})
    try:
        document = json.loads(text)
    except ValueError:
        return text.encode(), False  # sent as it is: the daemon's own words on it are what the sender wants to see
    if isinstance(document, dict) and "apiKey" not in document and text.startswith("{"):
        rest = text[1:].lstrip()
        text = f'{{"apiKey":{json.dumps(api_key)}{"" if rest.startswith("}") else ","}{rest}'
    return text.encode(), isinstance(document, dict) and bool(document.get("signature"))
