"""`kekbridge serve`: read the settings, run the daemon, and print the start message once it listens.

The first start creates the webhook `default`. In paper mode the start message shows its credentials, which are worthless elsewhere; in
testnet and live mode it shows none, since stdout may end up in a journal. What the message needs is imported after the daemon listens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kekbridge.cli.context import own_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.daemon import process

if TYPE_CHECKING:
    from kekbridge.config import Settings
    from kekbridge.daemon.app import StartupInfo
    from kekbridge.webhooks.registry import Credentials

app = typer.Typer(rich_markup_mode=None, add_completion=False)

VenueMode = Annotated[
    Literal["paper", "testnet", "live"] | None,
    typer.Option(help="Where orders go. Default: the setting `mode`, else paper.", show_default=False),
]
Host = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Address to listen on. Default: server.host.", show_default=False),
]
Port = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=65535, help="Port; 0 picks a free one. Default: server.port.", show_default=False
    ),
]
Domain = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Obtain and renew a certificate for this name, and listen on port 443 of all addresses. Default: tls.domain.",
        show_default=False,
    ),
]
AcmeDirectory = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Certificate authority. Default: tls.acme_directory.", show_default=False),
]
AcmeCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CA certificates of a private authority. Default: tls.acme_ca_file.",
        show_default=False,
    ),
]
LogFormat = Annotated[
    Literal["auto", "text", "json"] | None,
    typer.Option(
        help="How the log is written to stderr; auto: events on a terminal, else JSON. Default: log.format.",
        show_default=False,
    ),
]


@app.command(
    epilog=examples(
        "kekbridge serve                        paper trading on 127.0.0.1:8080",
        "kekbridge serve --port 9000 --data-dir ./data",
        "kekbridge serve --domain bridge.example.com     HTTPS on port 443",
        "kekbridge serve --config /etc/kekbridge.toml --json",
    )
)
def serve(
    ctx: typer.Context,
    mode: VenueMode = None,
    host: Host = None,
    port: Port = None,
    domain: Domain = None,
    acme_directory: AcmeDirectory = None,
    acme_ca: AcmeCa = None,
    log_format: LogFormat = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Run the bridge: receive alerts and place orders.

    The first start creates the data directory and a webhook named `default`. Ctrl-C or SIGTERM shuts down cleanly; pending work resumes
    at the next start. On a terminal each event is one readable line; elsewhere, and with --log-format, the log is written. --json prints
    the addresses as one line of JSON.
    """
    process.collect_rarely()
    process.share_heaps()
    overrides = {
        "mode": mode,
        "server.host": host,
        "server.port": port,
        "tls.domain": domain,
        "tls.acme_directory": acme_directory,
        "tls.acme_ca_file": None if acme_ca is None else str(acme_ca),
        "log.format": log_format,
    }
    context = own_context(ctx, data_dir, config, overrides)
    if context.settings.tls.domain:
        context = own_context(ctx, data_dir, config, overrides | _public_listener(context.settings))
    from kekbridge import log
    from kekbridge.daemon import app as daemon

    level, form = context.settings.log.level, context.settings.log.format
    # A person at a terminal reads the welcome, then one line per event, not the log; what goes wrong is shown.
    is_watched = sys.stdout.isatty() and form == "auto" and not as_json
    is_quiet = is_watched and sys.stderr.isatty() and level == "info"
    log.configure("warning" if is_quiet else level, form)
    show_events = None
    if is_watched:
        from kekbridge.cli.event_lines import event_printer

        show_events = event_printer()
    code = daemon.serve(
        context.settings,
        context.data_dir,
        announce=lambda info: _announce(info, as_json=as_json),
        show_events=show_events,
    )
    if is_quiet:
        from kekbridge.cli import render

        render.note("Stopped. What waits continues at the next start.")
    return code


def _public_listener(settings: Settings) -> dict[str, Any]:
    """Return where a bridge with a domain listens by default: all addresses, port 443. Settings take precedence."""
    configured = settings.server.model_fields_set
    return {
        **({} if "host" in configured else {"server.host": "0.0.0.0"}),  # noqa: S104 - meant to be reached; TLS is on
        **({} if "port" in configured else {"server.port": 443}),
    }


_FIRST_SYMBOL = "BTCUSDT.P"
_FIRST_QUANTITY = "0.001"


def _announce(info: StartupInfo, *, as_json: bool) -> None:
    """Print the start message; flushed, since the caller waits for it."""
    from kekbridge.cli import render

    if as_json:
        render.as_json(_as_data(info))
    else:
        _print(info)
    sys.stdout.flush()


def _as_data(info: StartupInfo) -> dict[str, Any]:
    import dataclasses

    data: dict[str, Any] = {
        "mode": info.mode,
        "url": info.url,
        "webhookUrl": info.webhook_url,
        "paperUrl": info.paper_url,
        "dataDir": str(info.data_dir),
        "vault": info.vault,
    }
    if info.checks:
        data["checks"] = [dataclasses.asdict(check) for check in info.checks]
    webhook, credentials = info.webhook, info.credentials
    if webhook is not None and credentials is not None:
        data["webhook"] = {
            "name": webhook.name,
            "id": webhook.id,
            "apiKey": credentials.api_key,
            "apiSecret": credentials.api_secret,
        }
    return data


_MODE_TEXTS = {
    "paper": "paper: no real money, orders go to the built-in exchange",
    "testnet": "testnet: orders go to Orderly's testnet",
    "live": "LIVE: orders trade real money",
}


def _print(info: StartupInfo) -> None:
    """Print the welcome: at most twelve lines, besides what the exchange's checks found."""
    from kekbridge import __version__
    from kekbridge.cli import render

    render.pairs(
        [
            ("kekbridge", f"{__version__}, {_MODE_TEXTS[info.mode.value]}"),
            ("webhook URL", info.webhook_url),
            *([("web pages", _web_pages(info))] if info.pages_url else []),
            *([("paper exchange", info.paper_url)] if info.paper_url else []),
            ("data", str(info.data_dir)),
            ("secrets", info.vault),
        ]
    )
    for check in info.checks:
        fix = f" ({check.fix})" if check.fix else ""
        render.line(f"{check.level:<8}  {check.name}: {check.text}{fix}")
    webhook, credentials = info.webhook, info.credentials
    if webhook is None:
        render.line("No webhook is enabled. Create one:  kekbridge webhook create NAME")
    else:
        if credentials is not None:
            render.line("Try it in another terminal:  kekbridge try  or paste this line:")
            render.line(_first_order(info, credentials))
        render.line(f"Message for TradingView:  kekbridge template {webhook.name}")
    render.line("Ready. Press Ctrl-C to stop.")


def _web_pages(info: StartupInfo) -> str:
    """On a terminal the link that signs in; elsewhere, where others may read it, only the address."""
    if sys.stdout.isatty() and info.sign_in_url:
        return f"{info.sign_in_url} (once, within ten minutes; later `kekbridge web link`)"
    return f"{info.pages_url} (sign in with `kekbridge web link`)"


def _first_order(info: StartupInfo, credentials: Credentials) -> str:
    """A curl command that buys on paper, on one line so that it can be copied."""
    from ulid import ULID

    from kekbridge.cli.send import curl_line

    # A new id at every start: pasted twice, the command is answered "duplicate"; after a restart it trades again.
    identity = f"first-order-{str(ULID())[-6:].lower()}"
    order = {
        "apiKey": credentials.api_key,
        "alertId": identity,
        "action": "buy",
        "symbol": _FIRST_SYMBOL,
        "quantity": _FIRST_QUANTITY,
    }
    return curl_line(info.webhook_url, order, credentials.api_secret, identity=identity)
