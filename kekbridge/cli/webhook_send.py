"""`kekbridge webhook test`: one real signed alert to the running daemon, or with --dry-run what it would come to.

Without a body it is a heartbeat (`ping`), which trades nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kekbridge import parsing as values
from kekbridge.cli.context import find_workspace, mode_in_force, now, open_sealer, opened, webhook_url
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

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
    from kekbridge.cli import send as sending
    from kekbridge.ingress.http import DryRun
    from kekbridge.model import Mode
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry as webhooks

    filled = values.assignments("--fill", fill or [])
    workspace = find_workspace(context, data_dir, config)
    with opened(workspace) as database:
        sealer, mode = open_sealer(workspace, database), mode_in_force(workspace, database)
        with database.snapshot() as connection:
            webhook = stored.find(connection, name)
            credentials = webhooks.credentials_of(connection, sealer, webhook, now=now())
            address = url or webhook_url(workspace, connection)
    message, is_signed = _message(body, credentials.api_key, filled)
    if body is not None and mode is Mode.LIVE and not dry_run and not yes:
        typer.confirm("This may trade with real money. Send it?", abort=True, err=True)
    rehearsal = DryRun() if dry_run else None
    headers = sending.headers_of(message, credentials.api_secret, rehearsal, is_signed=is_signed)
    return sending.show(sending.post(address, message, headers), as_json=as_json)


def _message(file: Path | None, api_key: str, filled: dict[str, str]) -> tuple[bytes, bool]:
    """The bytes to send, and whether they carry their own signature."""
    from kekbridge.alerts.template import fill
    from kekbridge.parsing import wrong

    stamp = now().strftime("%Y-%m-%dT%H:%M:%SZ")
    if file is None:
        return json.dumps({"apiKey": api_key, "action": "ping", "timestamp": stamp}).encode(), False
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(
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
