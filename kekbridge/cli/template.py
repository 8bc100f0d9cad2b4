"""`kekbridge template`: the message to paste into a TradingView alert, alone on stdout; what its parts mean on stderr.

What a message says is decided in alerts/template.py; this command opens the credentials and prints.
"""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from kekbridge.cli.context import now, open_sealer, opened, resolve_context, webhook_url
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.alerts.template import Template

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Kind = Literal["strategy", "indicator", "close", "flip", "position", "ping", "pine"]


# The options that say what stands in the message: parameters here, and of alerts.template.build.
_WISHES: Final = (
    "action", "symbol", "quantity", "quantity_type", "order_type", "limit_price", "trigger_price", "stop_loss",
    "take_profit", "trailing_stop", "leverage", "slippage", "comment",
)  # fmt: skip


def _option(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@app.command(
    epilog=examples(
        "kekbridge template default                                         for a strategy's alert",
        "kekbridge template default --kind indicator --action buy --quantity 0.01 --stop-loss 2%",
        "kekbridge template default --kind close --symbol BTCUSDT.P",
        "kekbridge template default 2>/dev/null | xclip                      the message alone",
    )
)
def template(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name or id.", show_default=False)],
    kind: Annotated[Kind, typer.Option(help="What the alert is for.")] = "strategy",
    action: Annotated[Literal["buy", "sell"], typer.Option(help="Of an indicator's alert.")] = "buy",
    symbol: Annotated[str | None, _option("TICKER", "Trade this market, whatever the chart shows.")] = None,
    quantity: Annotated[str | None, _option("N", "Order this much, in coins.")] = None,
    quantity_type: Annotated[
        str | None, _option("UNIT", "base, usd, percent_equity, percent_position or risk_percent.")
    ] = None,
    order_type: Annotated[
        str | None, _option("TYPE", "market, limit, stop, stop_limit, ioc, fok or post_only.")
    ] = None,
    limit_price: Annotated[str | None, _option("PRICE", "Of a limit order.")] = None,
    trigger_price: Annotated[str | None, _option("PRICE", "Where a stop order starts.")] = None,
    stop_loss: Annotated[str | None, _option("PRICE|2%", "Stop loss: a price, or percent of the entry.")] = None,
    take_profit: Annotated[str | None, _option("PRICE|4%", "Take profit: a price, or percent of the entry.")] = None,
    trailing_stop: Annotated[str | None, _option("PRICE|1.5%", "Distance of a stop that follows the price.")] = None,
    leverage: Annotated[str | None, _option("X", "Set the market to this leverage first.")] = None,
    slippage: Annotated[str | None, _option("0.5%", "Farthest price from the alert's.")] = None,
    comment: Annotated[str | None, _option("TEXT", "A note; a cancel with the same comment finds the order.")] = None,
    profile: Annotated[
        str | None, _option("NAME", "In another service's fields. Default: the webhook's own profile.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Put it on the terminal's clipboard, too (OSC 52).")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the message to paste into a TradingView alert.

    One line on stdout and nothing else; what its parts mean, and where to send it, on stderr. Everything that stands fixed in it is
    signed: a changed field is refused. Placeholders such as {{ticker}} are filled in by TradingView.
    """
    from kekbridge.alerts.profiles import PROFILES
    from kekbridge.alerts.template import build
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.store import webhooks as stored
    from kekbridge.webhooks import registry

    workspace = resolve_context(context, data_dir, config)
    with opened(workspace) as database:
        sealer = open_sealer(workspace, database)
        with database.snapshot() as connection:
            webhook = stored.find(connection, name)
            credentials = registry.credentials_of(connection, sealer, webhook, now=now())
            url = webhook_url(workspace, connection)
    chosen = profile or webhook.settings.profile
    if chosen not in PROFILES:
        raise ConfigError(f"--profile: found {chosen[:40]!r}, expected one of {', '.join(PROFILES)}")
    wishes = {wish: context.params[wish] for wish in _WISHES}
    made = build(kind, api_key=credentials.api_key, api_secret=credentials.api_secret, profile=chosen, **wishes)
    if as_json:
        render.as_json(
            {"message": made.message, "webhookUrl": url, "explanation": dict(made.explanation), "free": made.free}
        )
        return
    _print(made, url)
    if copy:
        _copy(made.message)
    if chosen != webhook.settings.profile:
        render.note(f"The webhook must understand it:  kekbridge webhook edit {webhook.name} --profile {chosen}")


def _print(made: Template, url: str) -> None:
    from kekbridge.cli import render

    render.line(made.message)
    render.note(f"To send to: {url}")
    for part, words in made.explanation:
        render.note(f"  {part}: {words}")


def _copy(text: str) -> None:
    """Ask the terminal to take the text onto its clipboard; works over SSH. Nothing happens where stderr is no terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
        sys.stderr.flush()
