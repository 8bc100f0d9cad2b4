"""`kekbridge web`: the address and the token of the web pages, and a new token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from kekbridge.cli.context import resolve_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    cls=CommandGroup,
    help="Show address and token of the web pages, or replace the token.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge web token", "kekbridge web token --rotate"),
)


@app.callback()
def web() -> None:
    """Show address and token of the web pages, or replace the token."""


@app.command(
    epilog=examples(
        "kekbridge web token             address and token, to sign in",
        "kekbridge web token --rotate    if the token may have leaked",
    )
)
def token(
    ctx: typer.Context,
    rotate: Annotated[bool, typer.Option("--rotate", help="Replace the token, and sign every browser out.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the address of the web pages and the token that signs in.

    Scripts and scrapers that send the token as `Authorization: Bearer` need the new one after --rotate, too.
    """
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.web_token import RotateWebToken, ShowWebAccess

    context = resolve_context(ctx, data_dir, config)
    access = run_operation(context, RotateWebToken() if rotate else ShowWebAccess())
    print_web_access(access, as_json=as_json)


@app.command(epilog=examples("kekbridge web link", "xdg-open $(kekbridge web link)"))
def link(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print a link that signs one browser in, once and within ten minutes."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.web_token import MakeSignInLink

    made = run_operation(resolve_context(ctx, data_dir, config), MakeSignInLink())
    if as_json:
        render.as_json(made)
    else:
        render.line(made["url"])


def print_web_access(access: Mapping[str, str], *, as_json: bool) -> None:
    """Print address and token of the web pages, as far as they are given."""
    from kekbridge.cli import render

    if as_json:
        render.as_json(access)
    else:
        names = {"url": "address", "token": "token"}
        render.pairs([(names[name], value) for name, value in access.items()])
