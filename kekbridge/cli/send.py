"""`kekbridge webhook test`: let the bridge send one signed alert to itself as TradingView does, and show the response.

`replay` shares the showing; the start message of `serve` shares the curl line.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kekbridge import parsing
from kekbridge.alerts.signature import sign
from kekbridge.cli import filters
from kekbridge.cli.context import mode_in_force, open_database, resolve_context
from kekbridge.cli.control import daemon_status, run_operation
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples
from kekbridge.ops.webhook_operations import SendAlert


def show_reply(reply: Mapping[str, Any], *, as_json: bool) -> int:
    """Print the result of SendAlert; return the exit code: 0 if the alert was (or would be) accepted, else 1."""
    from kekbridge.cli import render

    status, body = reply["httpStatus"], reply["body"]
    is_success = status < 300 and body.get("success") is not False
    if as_json:
        render.as_json({"httpStatus": status, "milliseconds": reply["milliseconds"], **body})
    elif body.get("dryRun"):
        _show_dry_run(reply)
    else:
        render.pairs([("response", f"HTTP {status} after {reply['milliseconds']} ms"), *body.items()])
    return 0 if is_success else 1


def _show_dry_run(reply: Mapping[str, Any]) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.explain import print_verdicts
    from kekbridge.reports import dry_run

    report = dry_run.read(reply)
    rows: list[tuple[str, object]] = [
        ("dry run", "nothing was stored, no order was sent"),
        ("status", report.status),
        ("response", f"HTTP {report.http_status}"),
    ]
    named = {"code": report.code, "error": report.error, "field": report.field, "fix": report.fix}
    rows += [(name, text) for name, text in named.items() if text]
    render.pairs([*rows, *(("warning", warning) for warning in report.warnings)])
    if report.verdicts:
        render.heading("rules")
        print_verdicts(report.verdicts)
    for number, order in enumerate(report.orders, start=1):
        render.heading(f"order {number}: {order.title}")
        pairs = [
            ("POST", order.path),
            ("body", order.body),
            ("leverage", order.leverage),
            ("waits for", order.waits_for),
        ]
        render.pairs([(name, value) for name, value in pairs if value is not None], indent=2)
    for cancel in report.cancels:
        render.pairs([("would cancel", cancel)])


_SHELL_TIME = '"$(date -u +%Y-%m-%dT%H:%M:%SZ)"'
_TIME_PLACEHOLDER = "<now>"


def curl_line(url: str, fields: Mapping[str, str], api_secret: str, *, identity: str) -> str:
    """Return one line for sh, bash and zsh that POSTs `fields` with a template signature and the shell's current time.

    `identity` is sent as Idempotency-Key: each paste has another time, and would be another alert without it.

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
    return (
        f"curl -sS {shlex.quote(url)} -H 'Content-Type: application/json' -H 'Idempotency-Key: {identity}' -d {quoted}"
    )


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
    name: filters.WebhookName,
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

    values = parsing.assignments("--fill", fill or [])
    context = resolve_context(ctx, data_dir, config)
    message = None if body is None else _read_message(body)
    if message is not None and not dry_run and not yes:
        status = daemon_status(context)
        if status is not None:
            mode = Mode(status["mode"])
        else:
            with open_database(context) as database:
                mode = mode_in_force(context, database)
        if mode is Mode.LIVE:
            typer.confirm("This may trade real money. Send it?", abort=True, err=True)
    operation = SendAlert(webhook=name, message=message, values=values, dry_run=dry_run, url=url)
    return show_reply(run_operation(context, operation), as_json=as_json)


def _read_message(file: Path) -> str:
    from kekbridge.parsing import invalid

    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(
            "--body", str(file), f"a readable text file ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        ) from None
