"""`kekbridge serve`: settings from options, the daemon, and what a person or a script is told once it listens.

Data goes to stdout, the log to stderr. Everything that runs is daemon.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.cli.workspace import find_workspace

if TYPE_CHECKING:
    from kekbridge.daemon import Started

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge serve                            paper trading on 127.0.0.1:8080, nothing to set up",
        "kekbridge serve --port 9000 --data-dir ./data",
        "kekbridge serve --config /etc/kekbridge.toml --json",
    )
)
def serve(
    context: typer.Context,
    mode: Annotated[
        Literal["paper", "testnet", "live"] | None,
        typer.Option(help="Where orders go. Default: the setting `mode`, else paper.", show_default=False),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address to listen on. Default: server.host.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=65535, help="Port; 0 takes a free one. Default: server.port.", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Run the bridge: take alerts and place their orders.

    The first start creates the data directory and a webhook named `default`. Ctrl-C or SIGTERM stops in order; what is left continues at
    the next start. With --json one line of JSON says where it listens.
    """
    workspace = find_workspace(context, data_dir, config, {"mode": mode, "server.host": host, "server.port": port})
    from kekbridge import daemon, log
    from kekbridge.cli.welcome import Welcome

    log.configure(workspace.settings.log.level, workspace.settings.log.format)
    welcome = Welcome(workspace)

    def announce(started: Started) -> None:
        welcome.say(started, as_json=as_json)

    return daemon.serve(workspace.settings, workspace.data_dir, announce=announce)
