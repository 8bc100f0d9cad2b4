"""`kekbridge lockouts`: addresses that are locked out after repeated authentication failures, known to the running bridge only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from kekbridge import formatting
from kekbridge.cli.context import now, resolve_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, Utc, examples

app = typer.Typer(
    cls=CommandGroup,
    help="List locked-out addresses, or lift a lockout.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge lockouts list", "kekbridge lockouts lift 203.0.113.7"),
)


@app.command("list", epilog=examples("kekbridge lockouts list", "kekbridge lockouts list --json"))
def list_lockouts(
    ctx: typer.Context, utc: Utc = False, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """List locked-out addresses.

    The settings auth.lockout_failures, lockout_window_s and lockout_s define a lockout. A restart of the bridge clears them all.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.trading_operations import ListLockouts

    lockouts = run_operation(resolve_context(ctx, data_dir, config), ListLockouts())
    if as_json:
        render.as_json(lockouts)
        return
    if not lockouts:
        render.note("No address is locked out.")
        return
    zone = UTC if utc else None
    name = formatting.zone_name(now(), zone)
    columns = [
        render.Column("ADDRESS"),
        render.Column("FAILURES", justify="right"),
        render.Column(f"SINCE ({name})"),
        render.Column(f"UNTIL ({name})"),
    ]
    render.table(
        columns,
        [
            (one["address"], one["count"], *(formatting.moment(_time(one[end]), zone) for end in ("since", "until")))
            for one in lockouts
        ],
    )


@app.command(epilog=examples("kekbridge lockouts lift 203.0.113.7", "kekbridge lockouts lift 2001:db8:0:1::/64"))
def lift(
    ctx: typer.Context,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="An address as `kekbridge lockouts list` shows it.")
    ],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Accept requests from an address again at once. Its failure count restarts at zero."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import NotFound
    from kekbridge.ops.trading_operations import LiftLockout

    reply = run_operation(resolve_context(ctx, data_dir, config), LiftLockout(address=address))
    if not reply["lifted"]:
        raise NotFound(
            "not_locked_out",
            f"{reply['address']} is not locked out; `kekbridge lockouts list` shows the addresses that are",
        )
    if as_json:
        render.as_json(reply)
    else:
        render.line(f"{reply['address']} is no longer locked out")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
