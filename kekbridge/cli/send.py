"""`kekbridge webhook test`: send one signed alert as TradingView does (one POST, 3 s, no redirect) and show the response.

`replay` shares signing, sending and showing; the start message of `serve` shares the curl line.
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
from kekbridge.cli.context import mode_in_force, now, open_database, open_sealer, resolve_context, webhook_url
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples
from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.ingress.http import DRY_RUN_HEADER, DryRun, proven_bytes
from kekbridge.model.webhooks import WEBHOOK_PATH

TIMEOUT_S: Final = 3.0  # docs/internals/tradingview.md section 1: TradingView gives up after this
_MAX_RESPONSE_BYTES = 1_000_000


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

    @property
    def is_success(self) -> bool:
        return self.status < 300 and self.body.get("success") is not False


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


def show_reply(reply: SentReply, *, as_json: bool) -> int:
    """Print the response; return the exit code: 0 if the alert was (or would be) accepted, else 1."""
    from kekbridge.cli import render

    if as_json:
        render.as_json({"httpStatus": reply.status, "milliseconds": reply.milliseconds, **reply.body})
        return 0 if reply.is_success else 1
    if reply.body.get("dryRun"):
        _show_dry_run(reply)
    else:
        render.pairs([("response", f"HTTP {reply.status} after {reply.milliseconds} ms"), *reply.body.items()])
    return 0 if reply.is_success else 1


def _show_dry_run(reply: SentReply) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.explain import print_verdicts
    from kekbridge.codes import CODES
    from kekbridge.model import Verdict

    body = reply.body
    rows: list[tuple[str, object]] = [
        ("dry run", "nothing was stored, no order was sent"),
        ("status", body.get("status")),
        ("response", f"HTTP {body.get('httpStatus')}"),
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
        waits = None if after is None else f"order {int(after) + 1}, and is sized again then"
        pairs = [
            ("POST", order.get("path")),
            ("body", request),
            ("leverage", order.get("leverage")),
            ("waits for", waits),
        ]
        render.pairs([(name, value) for name, value in pairs if value is not None], indent=2)
    for cancel in body.get("cancels", ()):
        render.pairs(
            [("would cancel", f"{cancel.get('symbol') or 'every market'}, comment {cancel.get('comment') or 'any'}")]
        )


_SHELL_TIME = '"$(date -u +%Y-%m-%dT%H:%M:%SZ)"'
_TIME_PLACEHOLDER = "<now>"


def curl_line(url: str, fields: Mapping[str, str], api_secret: str) -> str:
    """Return one line for sh, bash and zsh that POSTs `fields` with a template signature and the shell's current time.

    The body is in single quotes, interrupted once for the time: '…"timestamp":"'"$(date …)"'",…'. The timestamp is not signed, so the
    line works whenever it is pasted.
    """
    body = json.dumps(
        {**fields, "timestamp": _TIME_PLACEHOLDER, "signature": sign(api_secret, fields)},
        ensure_ascii=True,
        separators=(",", ":"),
    )
    before, after = body.split(_TIME_PLACEHOLDER)
    quoted = _single_quoted(before) + _SHELL_TIME + _single_quoted(after)
    return f"curl -sS {shlex.quote(url)} -H 'Content-Type: application/json' -d {quoted}"


def _single_quoted(text: str) -> str:
    """Quote for a shell, always with single quotes: zsh expands `!` and bash `$` inside others."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


TEST_EXAMPLES = examples(
    "kekbridge webhook test default                       a ping, trades nothing",
    "kekbridge template default --kind indicator --symbol BTCUSDT.P \\",
    "    --quantity 0.001 > alert.json",
    "kekbridge webhook test default --body alert.json --fill close=65000 \\",
    "    --dry-run",
    "kekbridge webhook test default --body alert.json --fill close=65000",
)


def _option(metavar: str, help_text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help_text, show_default=False)


def send_test(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name or id.", show_default=False)],
    body: Annotated[
        Path | None, _option("FILE", "File with the message to send (- for stdin). Default: a ping.", "--body")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show verdicts and orders; store and send nothing.")
    ] = False,
    fill: Annotated[
        list[str] | None, _option("NAME=VALUE", "Value of {{NAME}}; {{timenow}} defaults to now.", "--fill")
    ] = None,
    url: Annotated[str | None, _option("URL", "Send to this URL instead of the daemon's own.", "--url")] = None,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Send one signed alert to the running daemon, as TradingView does.

    A missing apiKey and a missing signature are added. Exit code 0 if the alert was accepted.
    """
    from kekbridge.model import Mode
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry

    values = parsing.assignments("--fill", fill or [])
    context = resolve_context(ctx, data_dir, config)
    with open_database(context) as database:
        sealer, mode = open_sealer(context, database), mode_in_force(context, database)
        with database.snapshot() as connection:
            webhook = stored.find(connection, name)
            credentials = registry.credentials_of(connection, sealer, webhook, now=now())
            address = url or webhook_url(context, connection)
    message, is_signed = _build_message(body, credentials.api_key, values)
    if body is not None and mode is Mode.LIVE and not dry_run and not yes:
        typer.confirm("This may trade real money. Send it?", abort=True, err=True)
    headers = build_headers(message, credentials.api_secret, DryRun() if dry_run else None, is_signed=is_signed)
    return show_reply(post(address, message, headers), as_json=as_json)


def _build_message(file: Path | None, api_key: str, values: dict[str, str]) -> tuple[bytes, bool]:
    """Return the bytes to send, and whether they contain a signature."""
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
    text = fill(text.strip(), {"timenow": stamp, **values})
    try:
        document = json.loads(text)
    except ValueError:
        return text.encode(), False  # sent unchanged, to show the daemon's error for it
    if isinstance(document, dict) and "apiKey" not in document and text.startswith("{"):
        rest = text[1:].lstrip()
        text = f'{{"apiKey":{json.dumps(api_key)}{"" if rest.startswith("}") else ","}{rest}'
    return text.encode(), isinstance(document, dict) and bool(document.get("signature"))
