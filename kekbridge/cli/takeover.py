"""`kekbridge takeover`: on a standby, restore the newest state of the other machine, remove its key, and be the one that trades."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import CliContext, own_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge takeover --check      a rehearsal: nothing changes",
        "kekbridge takeover",
        "kekbridge takeover --yes && kekbridge serve",
    )
)
def takeover(
    ctx: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Rehearse: check everything, change nothing.")] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Trade here instead of on the other machine, whose key is removed.

    Restores its newest state, removes its key at the exchange, and waits until the exchange confirms that: it can trade no more, even if it
    comes back. No order is sent again: what was queued is looked up at the exchange by the next `kekbridge serve`. A takeover that was
    interrupted, or that the exchange did not confirm (exit code 1), is run again.
    """
    from kekbridge.cli import render
    from kekbridge.cli.as_service import exit_as_service
    from kekbridge.cli.control import run_operation
    from kekbridge.ops import standby_record
    from kekbridge.ops.takeover import Takeover

    exit_as_service(ctx, data_dir)
    context = own_context(ctx, data_dir, config)
    record = standby_record.read_record(context.data_dir)
    if record is not None and record.taken_over_at is None and not check and not yes:
        account = f"{record.mode.value} account {record.account_id}"
        question = f"Take over from {record.host} ({account})? Its key is removed at the exchange for good."
        typer.confirm(question, abort=True, err=True)
    result = run_operation(context, Takeover(mode=context.settings.mode, check=check))
    if as_json:
        render.as_json(result)
    else:
        _print(context, result)


def _print(context: CliContext, result: dict[str, Any]) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.as_service import is_service
    from kekbridge.cli.units import SERVICE, SOCKET

    host, up_to = result["host"], f"{formatting.moment(_time(result['upTo']))} UTC"
    what = f"{formatting.counted(result['alerts'], 'alert')}, {formatting.counted(result['orders'], 'order')}, as of {up_to}"
    for name in result["otherTradingKeys"]:
        render.note(
            f"Another key may trade, too: {name}; if {host} could use it, remove it with `kekbridge keys remove`."
        )
    if result["checkedOnly"]:
        render.line(f"ready to take over from {host}: {what}")
        render.note(f"It took {result['tookSeconds']} s. Nothing was changed.")
        return
    render.line(f"taken over from {host}: {what}")
    if result["doubted"]:
        orders = formatting.counted(result["doubted"], "order")
        render.note(
            f"{orders} of its queue may have been sent: the next start looks up each at the exchange, and sends none twice."
        )
    if result["movedAside"] is not None:
        render.note(f"The earlier data of this machine is in {result['movedAside']}")
    start = f"sudo systemctl enable --now {SOCKET} {SERVICE}" if is_service(context.data_dir) else "kekbridge serve"
    render.note(f"Start it now:  {start}")
    url = context.settings.server.public_url or context.settings.tls.domain or "the webhooks' address"
    render.note(
        f"Then point {url} (DNS name, proxy or tunnel) at this machine: paths, keys and secrets of the webhooks are the same."
    )
    render.note(
        f"Alerts that {host} answered after {up_to} are not known here: look through TradingView's alert log from then on. If the exchange"
        " has orders of them, entries are refused until `kekbridge doctor` has shown these orders and you run `kekbridge resume`."
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
