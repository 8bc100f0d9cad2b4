"""`kekbridge serve`: settings from options, the daemon, and what a person or a script is told once it listens.

Data goes to stdout, the log to stderr. Everything that runs is daemon.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kekbridge.cli.context import resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.daemon import process

if TYPE_CHECKING:
    from kekbridge.config import Settings
    from kekbridge.daemon.app import StartupInfo

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
        metavar="N", min=0, max=65535, help="Port; 0 takes a free one. Default: server.port.", show_default=False
    ),
]
Domain = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Get and renew a certificate for this name, and listen on port 443 of every address. Default: tls.domain.",
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
        help="Certificates to trust a private authority by. Default: tls.acme_ca_file.",
        show_default=False,
    ),
]


@app.command(
    epilog=examples(
        "kekbridge serve                            paper trading on 127.0.0.1:8080, nothing to set up",
        "kekbridge serve --port 9000 --data-dir ./data",
        "kekbridge serve --domain bridge.example.com         HTTPS on port 443, certificate by itself",
        "kekbridge serve --config /etc/kekbridge.toml --json",
    )
)
def serve(
    context: typer.Context,
    mode: VenueMode = None,
    host: Host = None,
    port: Port = None,
    domain: Domain = None,
    acme_directory: AcmeDirectory = None,
    acme_ca: AcmeCa = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Run the bridge: take alerts and place their orders.

    The first start creates the data directory and a webhook named `default`. Ctrl-C or SIGTERM stops in order; what is left continues at
    the next start. With --json one line of JSON says where it listens.
    """
    process.collect_rarely()
    given = {
        "mode": mode,
        "server.host": host,
        "server.port": port,
        "tls.domain": domain,
        "tls.acme_directory": acme_directory,
        "tls.acme_ca_file": None if acme_ca is None else str(acme_ca),
    }
    workspace = resolve_context(context, data_dir, config, given)
    if workspace.settings.tls.domain:
        workspace = resolve_context(context, data_dir, config, given | _public_place(workspace.settings))
    from kekbridge import log
    from kekbridge.daemon import app as daemon

    log.configure(workspace.settings.log.level, workspace.settings.log.format)

    def announce(started: StartupInfo) -> None:
        from kekbridge.cli.welcome import Welcome  # imported here: it is said when everything listens already

        Welcome(workspace).say(started, as_json=as_json)

    return daemon.serve(workspace.settings, workspace.data_dir, announce=announce)


def _public_place(settings: Settings) -> dict[str, Any]:
    """Where a bridge with a name of its own listens, unless the settings say otherwise: every address, HTTPS's own port."""
    chosen = settings.server.model_fields_set
    return {
        **({} if "host" in chosen else {"server.host": "0.0.0.0"}),  # noqa: S104 - meant to be reached; TLS is on
        **({} if "port" in chosen else {"server.port": 443}),
    }
