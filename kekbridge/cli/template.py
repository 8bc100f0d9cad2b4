"""`kekbridge template`: print the message to paste into a TradingView alert on stdout, its explanation on stderr.

The message is built in alerts/template.py; this command reads the credentials and prints.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from kekbridge import formatting
from kekbridge.alerts.template import steps as template_steps
from kekbridge.cli import filters
from kekbridge.cli.context import resolve_context
from kekbridge.cli.control import run_operation
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.ops.webhook_operations import MakeTemplate

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_LARGEST_MESSAGE: Final = 65_536
_PINE_SCRIPT: Final = "//@version=6\n// Alert messages for kekbridge."
Kind = Literal["strategy", "indicator", "close", "flip", "position", "ping", "pine"]


# Options that set a field of the message: parameters of this command and of alerts.template.build.
_FIELD_OPTIONS: Final = (
    "action", "symbol", "quantity", "quantity_type", "order_type", "limit_price", "trigger_price", "stop_loss",
    "take_profit", "trailing_stop", "leverage", "slippage", "comment", "symbols", "max_quantity",
)  # fmt: skip


def _option(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@app.command(
    epilog=examples(
        "kekbridge template default                    for a strategy alert",
        "kekbridge template default --kind indicator --quantity 0.01 --stop-loss 2%",
        "kekbridge template default --kind close --symbol BTCUSDT.P",
        "kekbridge template default --symbols BTCUSDT.P,ETHUSDT.P --max-quantity 0.05",
        "kekbridge template default 2>/dev/null | xclip     only the message",
    )
)
def template(
    ctx: typer.Context,
    name: filters.WebhookName,
    kind: Annotated[Kind, typer.Option(help="Kind of alert.")] = "strategy",
    action: Annotated[Literal["buy", "sell"], typer.Option(help="Action of an indicator alert.")] = "buy",
    symbol: Annotated[str | None, _option("TICKER", "Trade this market instead of the chart's.")] = None,
    quantity: Annotated[str | None, _option("N", "Order quantity, in coins unless --quantity-type is given.")] = None,
    quantity_type: Annotated[
        str | None, _option("UNIT", "base, usd, percent_equity, percent_position or risk_percent.")
    ] = None,
    order_type: Annotated[
        str | None, _option("TYPE", "market, limit, stop, stop_limit, ioc, fok or post_only.")
    ] = None,
    limit_price: Annotated[str | None, _option("PRICE", "Price of a limit order.")] = None,
    trigger_price: Annotated[str | None, _option("PRICE", "Trigger price of a stop order.")] = None,
    stop_loss: Annotated[str | None, _option("PRICE|2%", "Stop loss: a price, or percent of the entry.")] = None,
    take_profit: Annotated[str | None, _option("PRICE|4%", "Take profit: a price or 4%; or 2%:50%, 4%:50%.")] = None,
    trailing_stop: Annotated[str | None, _option("PRICE|1.5%", "Distance of a trailing stop.")] = None,
    leverage: Annotated[str | None, _option("X", "Set the market's leverage before the order.")] = None,
    slippage: Annotated[str | None, _option("0.5%", "Maximum deviation from the alert's price.")] = None,
    comment: Annotated[
        str | None, _option("TEXT", "Comment; a cancel with the same comment matches the order.")
    ] = None,
    symbols: Annotated[
        str | None, _option("TICKERS", "Markets that it may name, with commas. Default: the webhook's allowed symbols.")
    ] = None,
    max_quantity: Annotated[
        str | None, _option("N", "Largest entry, in coins. Default: the webhook's largest order.")
    ] = None,
    profile: Annotated[
        str | None, _option("NAME", "Message format of another service. Default: the webhook's profile.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the message to FILE, readable by you only.",
            show_default=False,
        ),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Also copy it to the terminal's clipboard (OSC 52).")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the message to paste into a TradingView alert.

    Stdout holds only the message, on one line; its explanation and the webhook URL go to stderr. Fixed fields are signed: an alert with
    one of them changed is refused. TradingView fills in placeholders such as {{ticker}}; --symbols and --max-quantity bound them.
    """
    from kekbridge.cli import render

    fields = {name: ctx.params[name] for name in _FIELD_OPTIONS if ctx.params[name] is not None}
    made = run_operation(
        resolve_context(ctx, data_dir, config), MakeTemplate(webhook=name, kind=kind, profile=profile, fields=fields)
    )
    steps = list(template_steps(kind, made["webhookUrl"]))
    if output is not None:
        _write(made["message"], output)
    if copy:
        _copy_to_clipboard(made["message"])
    if as_json:
        names = ("message", "webhookUrl", "explanation", "free", "unbounded", "risk", "problems")
        file = None if output is None else str(output)
        render.as_json({name: made[name] for name in names} | {"steps": steps, "file": file})
        return
    for problem in made["problems"]:
        render.note(f"warning: {problem}")
    if made["warning"]:
        render.note(f"warning: {made['warning']}")
    sys.stderr.flush()
    if output is None:
        render.line(made["message"])
    else:
        render.note(f"Message: {output}")
    sys.stdout.flush()  # the message comes between the warnings and the steps
    _print_notes(made, steps)


def _print_notes(made: dict[str, Any], steps: list[str]) -> None:
    """Print on stderr what each field means, and what to click."""
    from kekbridge.cli import render

    render.note(f"Webhook URL: {made['webhookUrl']}")
    for part, text in made["explanation"].items():
        render.note(f"  {part}: {text}")
    render.note(made["risk"])
    if made["profile"] != made["usualProfile"]:
        render.note(
            f"Set the webhook to this profile:  kekbridge webhook edit {made['webhook']} --profile {made['profile']}"
        )
    render.note("In TradingView:")
    for number, step in enumerate(steps, 1):
        render.note(f"  {number}. {step}")


def _write(message: str, file: Path) -> None:
    """Write the message, which holds a key, to a file of mode 0600; only an earlier message is replaced. Raises ConfigError."""
    from kekbridge.errors import ConfigError

    try:
        if file.is_file() and file.stat().st_size and not _is_message(file):
            raise ConfigError(f"--output: {file} is not an earlier message of this command; name another file")
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as opened:
            os.fchmod(descriptor, 0o600)  # an existing file keeps its mode otherwise
            opened.write(message + "\n")
    except OSError as error:
        raise ConfigError(f"--output: {file} cannot be written: {error.strerror}; name another file") from None


def _is_message(file: Path) -> bool:
    """True for what this command writes: one line with a webhook's key or a signature, or a script of alert messages."""
    with file.open("rb") as opened:
        text = opened.read(_LARGEST_MESSAGE).decode(errors="replace")
    if text.startswith(_PINE_SCRIPT):
        return True
    has_proof = formatting.holds_credential(text) or '"signature":"v1:' in text
    return text.strip().count("\n") == 0 and has_proof


def _copy_to_clipboard(text: str) -> None:
    """Copy text to the terminal's clipboard, also over SSH; does nothing when stderr is no terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
        sys.stderr.flush()
