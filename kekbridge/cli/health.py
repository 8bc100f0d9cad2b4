"""`kekbridge health`: one question to the running bridge, for health checks of containers and monitors that have no HTTP client."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kekbridge.cli.context import is_running, open_database, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge health                exit code 0: the bridge answers",
        "kekbridge health --ready        exit code 0: it is ready to trade",
    )
)
def health(
    ctx: typer.Context,
    ready: Annotated[bool, typer.Option("--ready", help="Ask GET /readyz instead of GET /healthz.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Ask the bridge whether it runs, or is ready to trade; for scripts.

    It asks at the address that receives alerts. Exit code 1 means no. `kekbridge doctor` says more.
    """
    from kekbridge.cli import render
    from kekbridge.ops.health import ask
    from kekbridge.webhooks.registry import local_url_of

    context = resolve_context(ctx, data_dir, config)
    path = "/readyz" if ready else "/healthz"
    status, body = 0, dict[str, Any]()
    if is_running(context):
        with open_database(context) as database, database.snapshot() as connection:
            url = local_url_of(connection)
        status, body = ask(url, path)
    is_good = status == 200
    if as_json:
        render.as_json({"ok": is_good, "answer": body})
    elif is_good:
        render.line("ready" if ready else "ok")
    elif not status:
        render.line(f"no bridge answers for {context.data_dir}; `kekbridge doctor` says more")
    else:
        render.line(f"not ready: {body.get('detail') or 'not reconciled with the exchange yet'}")
    return 0 if is_good else 1
