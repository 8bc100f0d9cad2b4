"""`kekbridge lockouts`: addresses that failed to authenticate too often and are not listened to for a while. Asks the running bridge."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from kekbridge.cli.context import resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    help="List addresses that are locked out, and let one in again.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge lockouts list", "kekbridge lockouts lift 203.0.113.7"),
)


@app.command("list", epilog=examples("kekbridge lockouts list", "kekbridge lockouts list --json"))
def list_lockouts(
    context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List who is locked out now, how often they failed, and until when. A restart of the bridge forgets all of them.

    auth.lockout_failures, lockout_window_s and lockout_s say how many failures within which time shut an address out, and for how long.
    """
    from kekbridge.cli import render
    from kekbridge.cli.admin_client import find_admin_api

    found = find_admin_api(resolve_context(context, data_dir, config)).get("/api/lockouts")
    if as_json:
        render.as_json(found)
        return
    if not found:
        render.note("Nobody is locked out.")
        return
    columns = [
        render.Column("ADDRESS"),
        render.Column("FAILURES", justify="right"),
        render.Column("SINCE (UTC)"),
        render.Column("UNTIL (UTC)"),
    ]
    render.table(columns, [(one["address"], one["count"], _time(one["since"]), _time(one["until"])) for one in found])


@app.command(epilog=examples("kekbridge lockouts lift 203.0.113.7", "kekbridge lockouts lift 2001:db8:0:1::/64"))
def lift(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="As `kekbridge lockouts list` shows it.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Listen to an address again at once. Its next failures are counted anew."""
    from kekbridge.cli import render
    from kekbridge.cli.admin_client import find_admin_api
    from kekbridge.errors import NotFound
    from kekbridge.ingress.lockout import read_address

    wanted = read_address(address)
    told = find_admin_api(resolve_context(context, data_dir, config)).post(
        "/api/lockouts/lift", {"address": str(wanted)}
    )
    if not told["lifted"]:
        raise NotFound("not_locked_out", f"{wanted} is not locked out; `kekbridge lockouts list` shows who is")
    if as_json:
        render.as_json(told)
    else:
        render.line(f"{wanted} is listened to again")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
