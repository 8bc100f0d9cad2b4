"""`kekbridge dashboard`: the running bridge's live state on one screen, with keys to halt, deny entries and resume.

Reads and writes over the daemon's control socket only. `--token` prints the access to the web pages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import CliContext, resolve_context
from kekbridge.cli.control import run_operation
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.cli.web import print_web_access
from kekbridge.errors import KekbridgeError
from kekbridge.ops.operation import Operation
from kekbridge.ops.trading_operations import ExitsOnly, Halt, Resume, ShowState
from kekbridge.ops.web_token import ShowWebAccess

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_REFRESH_S = 1.0
_SHOWN_LIMITS = 2
_SHOWN_CONDITIONS = 3
_SHOWN_STAGES = ("stored", "accepted", "filled", "answered")  # as many as fit 80 columns
# By key: the state to confirm, and the operation that sets it.
_ACTIONS: dict[str, tuple[str, Operation]] = {
    "h": ("halted", Halt(by="dashboard")),
    "e": ("exits_only", ExitsOnly(by="dashboard")),
    "r": ("running", Resume(by="dashboard")),
}
_ANSWER_WITHIN_S = 5.0


@app.command(
    epilog=examples(
        "kekbridge dashboard",
        "kekbridge dashboard --token      address and token of the web pages",
        "kekbridge dashboard --json       the live state once, for scripts",
    )
)
def dashboard(
    ctx: typer.Context,
    show_token: Annotated[bool, typer.Option("--token", help="Print the address and token of the web pages.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Watch and control the running bridge on one screen.

    Keys: h halt, e exits only, r resume (each asks for confirmation), q quit. The web pages show more; from another machine, reach them
    with `ssh -L 8081:127.0.0.1:8081 HOST`.
    """
    from kekbridge.cli import render

    context = resolve_context(ctx, data_dir, config)
    if show_token:
        print_web_access(run_operation(context, ShowWebAccess()), as_json=as_json)
    elif as_json or not sys.stdout.isatty():
        render.as_json(run_operation(context, ShowState()))
    else:
        _watch(context)


def _watch(context: CliContext) -> None:
    """Redraw the screen every second until q or Ctrl-C."""
    from rich.live import Live

    from kekbridge.cli import render

    state = run_operation(context, ShowState())
    pending: tuple[str, Operation] | None = None
    error_text = ""
    console = render.console()
    with _single_keys() as read_key, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(
                screen(
                    state,
                    width=console.width,
                    height=console.height,
                    pending=None if pending is None else pending[0],
                    error_text=error_text,
                )
            )
            live.refresh()
            pressed = read_key(_REFRESH_S)
            if pressed in ("q", "\x03", "\x04"):
                return
            try:
                if pending is not None and pressed:
                    if pressed == "y":
                        _run_now(context, pending[1])
                    pending = None
                elif pressed in _ACTIONS:
                    pending = _ACTIONS[pressed]
                state, error_text = _run_now(context, ShowState()), ""
            except KekbridgeError as error:
                error_text = error.message


def _run_now(context: CliContext, operation: Operation) -> Any:
    """Run an operation without waiting for a bridge that is starting, so that the screen stays alive."""
    return run_operation(context, operation, start_within_s=0.0, answer_within_s=_ANSWER_WITHIN_S, shows_waiting=False)


@contextmanager
def _single_keys() -> Iterator[Any]:
    """Yield a function that returns the next key pressed, or "" after the given number of seconds."""
    import os
    import select
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)

    def read_key(timeout_s: float) -> str:
        ready, _, _ = select.select([file], [], [], timeout_s)
        return os.read(file, 1).decode("latin-1").lower() if ready else ""

    try:
        tty.setcbreak(file)
        yield read_key
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def screen(
    state: dict[str, Any], *, width: int, height: int, pending: str | None = None, error_text: str = ""
) -> Group:
    """Render one state; shows as many alerts as fit the height.

    `pending` is a trading state that waits for confirmation, `error_text` the last error.
    """
    from rich.console import Group
    from rich.text import Text

    parts = [
        *_header(state),
        *_conditions(state),
        Text(),
        *_positions(state),
        Text(),
        *_open_orders(state),
        Text(),
        *_limits(state),
    ]
    alert_rows = max(height - len(parts) - 4, 1)
    parts += [Text(), *_alerts(state, alert_rows)]
    for part in parts:
        part.truncate(width, overflow="ellipsis")
    parts += [Text()] * max(height - len(parts) - 1, 0)
    return Group(*parts[: height - 1], _footer(pending, error_text, width))


def _header(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    trading, ready, exchange, account = state["trading"], state["ready"], state["exchange"], state["account"]
    first = Text()
    first.append(f" {state['mode'].upper()} ", style="reverse")
    first.append(f" {_state_text(trading['state'])}", style=_style(trading["state"]))
    if trading["state"] != "running" and trading["reason"]:
        first.append(f" ({formatting.to_text(trading['reason'])})")
    first.append("  ")
    first.append(
        "ready" if ready["ready"] else f"not ready: {ready['detail'] or 'reconciling'}",
        style="green" if ready["ready"] else "bold yellow",
    )
    first.append("  exchange ")
    first.append("up" if exchange["reachable"] else "DOWN", style="green" if exchange["reachable"] else "bold red")
    first.append("  stream ")
    first.append("live" if exchange["streamLive"] else "down", style="green" if exchange["streamLive"] else "yellow")
    first.append(f"  {datetime.now(UTC).astimezone():%H:%M:%S %Z}", style="dim")
    day = state["lastDay"]
    money = Text("equity ")
    money.append("-" if account is None else f"{Decimal(account['value']):.2f}", style="bold")
    money.append(
        f"  unrealized {_money(account and account['unrealizedPnl'])}  net 24 h {_money(day['netPnl'])}"
        f"  fees {_money(day['fees'])}  leverage {_leverage(day['leverage'])}"
    )
    counts = day["counts"]
    counts_line = Text(
        f"24 h: {counts['received']} alerts, {counts['done']} done, {counts['refused']} refused, {counts['unknown']} unknown,"
        f" {counts['waiting']} waiting, {counts['filled']} filled"
    )
    times = day["latencyMs"]
    if times:
        shown = (f"{stage} {one['p50']:.0f}/{one['p95']:.0f}" for stage, one in times.items() if stage in _SHOWN_STAGES)
        latencies = Text(f"ms p50/p95: {'  '.join(shown)}", style="dim")
        return [first, money, counts_line, latencies]
    return [first, money, counts_line]


def _conditions(state: dict[str, Any]) -> list[Text]:
    """Active conditions, newest last; at most three, so that positions stay on the screen."""
    from rich.text import Text

    active = sorted(state["conditions"], key=lambda one: str(one["since"]))
    shown = [Text(f"! {formatting.to_text(one['words'])}", style="bold yellow") for one in active[-_SHOWN_CONDITIONS:]]
    more = len(active) - len(shown)
    return [Text(f"! {more} more: `kekbridge doctor`", style="yellow"), *shown] if more else shown


def _positions(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    rows = [
        Text(f"{'POSITION':<13}{'QUANTITY':>14}{'ENTRY':>13}{'MARK':>13}{'P&L':>12}{'LIQUIDATION':>14}", style="bold")
    ]
    for one in (state["account"] or {"positions": []})["positions"][:5]:
        pnl = one["unrealizedPnl"]
        mode = " isolated" if one["marginMode"] == "ISOLATED" else ""
        row = Text(
            f"{_market(one['symbol']) + mode:<13}{one['quantity']:>14}{_price(one['entry']):>13}{_price(one['mark']):>13}"
        )
        row.append(f"{_money(pnl):>12}", style="" if pnl is None else "green" if Decimal(pnl) >= 0 else "red")
        row.append(f"{_price(one['liquidation']):>14}")
        rows.append(row)
    return rows if len(rows) > 1 else [Text("no open positions", style="dim")]


def _open_orders(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    orders = state["openOrders"]
    if not orders:
        return [Text("no open orders", style="dim")]
    rows = [Text("OPEN ORDERS", style="bold")]
    for one in orders[-4:]:
        price = f" at {one['limitPrice']}" if one["limitPrice"] else ""
        rows.append(
            Text(
                f"{_market(one['symbol']):<10}{one['side'].lower()} {one['quantity']} {one['orderType']}{price}  {one['status']}"
            )
        )
    return rows


def _limits(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    from kekbridge.formatting import used_share

    used = [
        (used_share(line["used"], line["limit"]), scope["name"], line)
        for scope in state["limits"]
        for line in scope["limits"]
        if line["used"]
    ]
    most_used = sorted(
        ((share, name, line) for share, name, line in used if share is not None), key=lambda one: -one[0]
    )
    rows = [Text("LIMITS, MOST USED FIRST", style="bold")]
    for share, name, line in most_used[:_SHOWN_LIMITS]:
        part = max(min(share, Decimal(1)), Decimal(0))
        row = Text(f"{share * 100:>4.0f} % ")
        row.append(f"{'█' * round(part * 10):<10}", style="red" if part >= Decimal("0.9") else "green")
        row.append(f"  {formatting.to_text(name)}: {line['name']} {line['used']} of {line['limit']}")
        rows.append(row)
    closed = [
        f"{formatting.to_text(scope['name'])}: {_state_text(scope['state'])}"
        for scope in state["limits"][1:]
        if scope["state"] != "running"
    ]
    if closed:
        rows.append(Text(f"closed  {', '.join(closed)}", style="yellow"))
    return rows if len(rows) > 1 else [Text("no limits in use", style="dim")]


def _alerts(state: dict[str, Any], count: int) -> list[Text]:
    from rich.text import Text

    rows = [Text(f"{'TIME':<9}{'WEBHOOK':<11}{'ALERT':<11}{'STATUS':<12}WHY", style="bold")]
    for one in state["lastAlerts"][-count:]:
        alert = " ".join(part for part in (one["action"], _market(one["symbol"] or "")) if part)
        at = datetime.fromisoformat(one["receivedAt"]).astimezone()
        row = Text(f"{at:%H:%M:%S} {formatting.to_text(one['webhook'])[:10]:<11}{formatting.to_text(alert)[:10]:<11}")
        status = "part filled" if one["status"] == "partially_filled" else one["status"]
        row.append(f"{status:<12}", style=_style(one["status"]))
        row.append(
            formatting.to_text(": ".join(part for part in (one["code"], one["error"]) if part) or " "), style="dim"
        )
        rows.append(row)
    return rows if len(rows) > 1 else [Text("no alerts yet", style="dim")]


def _footer(pending: str | None, error_text: str, width: int) -> Text:
    from rich.text import Text

    if pending is not None:
        footer = Text(
            f" {_state_text(pending)}: press y to confirm, any other key to cancel ", style="bold reverse yellow"
        )
    elif error_text:
        footer = Text(f" {formatting.to_text(error_text)} ", style="bold reverse red")
    else:
        footer = Text(" h halt   e exits only   r resume   q quit ", style="reverse")
    footer.truncate(width, overflow="ellipsis")
    return footer


def _state_text(state: str) -> str:
    return {"running": "trading", "exits_only": "EXITS ONLY", "halted": "HALTED"}.get(state, state)


def _style(status: str) -> str:
    from kekbridge.cli import render

    return render.STATUS_STYLES.get(status, "")


def _market(symbol: str) -> str:
    return formatting.market(symbol) if symbol else ""


def _money(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):+.2f}"


def _price(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):.8g}"


def _leverage(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):.2f}"
