"""`kekbridge dashboard`: the running bridge on one screen, with keys to halt, allow exits only, resume. Reads the admin API.

The screen shows what the daemon knows at this moment; the levers are the daemon's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.admin_client import AdminApi, find_admin_api
from kekbridge.cli.context import resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_LOOK_EVERY_S = 1.0
_SHOWN_LIMITS = 2
_SHOWN_CONDITIONS = 3
_SHOWN_STAGES = ("stored", "accepted", "filled", "answered")  # as many as 80 columns hold
_KEYS = {"h": "halted", "e": "exits_only", "r": "running"}


@app.command(
    epilog=examples(
        "kekbridge dashboard",
        "kekbridge dashboard --token      the token and address of the web pages",
        "kekbridge dashboard --json       the live state once, for scripts",
    )
)
def dashboard(
    context: typer.Context,
    show_token: Annotated[bool, typer.Option("--token", help="Print the web pages' address and token.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Watch and steer the running bridge on one screen.

    Keys: h halt, e exits only, r resume (each asks once more), q quit. The same and more is on the web pages; reach them from elsewhere
    with `ssh -L 8081:127.0.0.1:8081 HOST`.
    """
    from kekbridge.cli import render

    api = find_admin_api(resolve_context(context, data_dir, config))
    desk = DashboardClient(api)
    if show_token:
        if as_json:
            render.as_json({"url": api.address, "token": api.token})
        else:
            render.pairs([("address", api.address), ("token", api.token)])
    elif as_json or not sys.stdout.isatty():
        render.as_json(desk.state())
    else:
        _watch(desk)


class DashboardClient:
    """The daemon's admin API, as this command needs it."""

    def __init__(self, api: AdminApi) -> None:
        self._api = api

    def state(self) -> dict[str, Any]:
        """The live state. Raises ConfigError when nobody answers."""
        found: dict[str, Any] = self._api.get("/api/state")
        return found

    def steer(self, state: str) -> None:
        self._api.post("/api/trading", {"state": state, "reason": "by hand"})


def _watch(desk: DashboardClient) -> None:
    """Draw until q or Ctrl-C."""
    from rich.live import Live

    from kekbridge.cli import render

    state = desk.state()
    asked: str | None = None
    trouble = ""
    screen_of = render.console()
    with _single_keys() as key, Live(console=screen_of, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(state, width=screen_of.width, height=screen_of.height, asked=asked, trouble=trouble))
            live.refresh()
            pressed = key(_LOOK_EVERY_S)
            if pressed in ("q", "\x03", "\x04"):
                return
            try:
                if asked is not None and pressed:
                    if pressed == "y":
                        desk.steer(asked)
                    asked = None
                elif pressed in _KEYS:
                    asked = _KEYS[pressed]
                state, trouble = desk.state(), ""
            except ConfigError as error:
                trouble = error.message


@contextmanager
def _single_keys() -> Iterator[Any]:
    """Keys without Enter: a function that waits at most so many seconds for one, and returns it or nothing."""
    import os
    import select
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)

    def key(longest_s: float) -> str:
        ready, _, _ = select.select([file], [], [], longest_s)
        return os.read(file, 1).decode("latin-1").lower() if ready else ""

    try:
        tty.setcbreak(file)
        yield key
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def screen(state: dict[str, Any], *, width: int, height: int, asked: str | None = None, trouble: str = "") -> Group:
    """The whole screen for one state; fits the height by showing fewer alerts."""
    from rich.console import Group
    from rich.text import Text

    parts = [
        *_head(state),
        *_conditions(state),
        Text(),
        *_positions(state),
        Text(),
        *_open_orders(state),
        Text(),
        *_limits(state),
    ]
    room = max(height - len(parts) - 4, 1)
    parts += [Text(), *_alerts(state, room)]
    for part in parts:
        part.truncate(width, overflow="ellipsis")
    parts += [Text()] * max(height - len(parts) - 1, 0)
    return Group(*parts[: height - 1], _foot(asked, trouble, width))


def _head(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    trading, ready, exchange, account = state["trading"], state["ready"], state["exchange"], state["account"]
    first = Text()
    first.append(f" {state['mode'].upper()} ", style="reverse")
    first.append(f" {_words(trading['state'])}", style=_style(trading["state"]))
    if trading["state"] != "running" and trading["reason"]:
        first.append(f" ({_clean(trading['reason'])})")
    first.append("  ")
    first.append(
        "ready" if ready["ready"] else f"not ready: {ready['detail'] or 'reconciling'}",
        style="green" if ready["ready"] else "bold yellow",
    )
    first.append("  exchange ")
    first.append("up" if exchange["reachable"] else "DOWN", style="green" if exchange["reachable"] else "bold red")
    first.append("  stream ")
    first.append("live" if exchange["streamLive"] else "down", style="green" if exchange["streamLive"] else "yellow")
    first.append(f"  {datetime.now(UTC):%H:%M:%S} UTC", style="dim")
    day = state["lastDay"]
    money = Text("equity ")
    money.append("-" if account is None else f"{Decimal(account['value']):.2f}", style="bold")
    money.append(
        f"  unrealized {_money(account and account['unrealizedPnl'])}  net 24 h {_money(day['netPnl'])}"
        f"  fees {_money(day['fees'])}  leverage {_plain(day['leverage'])}"
    )
    counts = day["counts"]
    flow = Text(
        f"24 h: {counts['received']} alerts, {counts['done']} done, {counts['refused']} refused, {counts['unknown']} unknown,"
        f" {counts['waiting']} waiting, {counts['filled']} filled"
    )
    times = day["latencyMs"]
    if times:
        shown = (f"{stage} {one['p50']:.0f}/{one['p95']:.0f}" for stage, one in times.items() if stage in _SHOWN_STAGES)
        speed = Text(f"ms p50/p95: {'  '.join(shown)}", style="dim")
        return [first, money, flow, speed]
    return [first, money, flow]


def _conditions(state: dict[str, Any]) -> list[Text]:
    """What holds now and somebody should know, the newest last; more than three would push the positions away."""
    from rich.text import Text

    held = sorted(state["conditions"], key=lambda one: str(one["since"]))
    shown = [Text(f"! {_clean(one['words'])}", style="bold yellow") for one in held[-_SHOWN_CONDITIONS:]]
    more = len(held) - len(shown)
    return [Text(f"! {more} more: `kekbridge doctor`", style="yellow"), *shown] if more else shown


def _positions(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    rows = [
        Text(f"{'POSITION':<10}{'QUANTITY':>14}{'ENTRY':>13}{'MARK':>13}{'P&L':>12}{'LIQUIDATION':>14}", style="bold")
    ]
    for one in (state["account"] or {"positions": []})["positions"][:5]:
        pnl = one["unrealizedPnl"]
        row = Text(
            f"{_market(one['symbol']):<10}{one['quantity']:>14}{_price(one['entry']):>13}{_price(one['mark']):>13}"
        )
        row.append(f"{_money(pnl):>12}", style="" if pnl is None else "green" if Decimal(pnl) >= 0 else "red")
        row.append(f"{_price(one['liquidation']):>14}")
        rows.append(row)
    return rows if len(rows) > 1 else [Text("no open position", style="dim")]


def _open_orders(state: dict[str, Any]) -> list[Text]:
    from rich.text import Text

    found = state["openOrders"]
    if not found:
        return [Text("no open order", style="dim")]
    rows = [Text("OPEN ORDERS", style="bold")]
    for one in found[-4:]:
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
    fullest = sorted(((share, name, line) for share, name, line in used if share is not None), key=lambda one: -one[0])
    rows = [Text("LIMITS, THE FULLEST", style="bold")]
    for share, name, line in fullest[:_SHOWN_LIMITS]:
        part = max(min(share, Decimal(1)), Decimal(0))
        row = Text(f"{share * 100:>4.0f} % ")
        row.append(f"{'█' * round(part * 10):<10}", style="red" if part >= Decimal("0.9") else "green")
        row.append(f"  {_clean(name)}: {line['name']} {line['used']} of {line['limit']}")
        rows.append(row)
    closed = [
        f"{_clean(scope['name'])}: {_words(scope['state'])}"
        for scope in state["limits"][1:]
        if scope["state"] != "running"
    ]
    if closed:
        rows.append(Text(f"closed  {', '.join(closed)}", style="yellow"))
    return rows if len(rows) > 1 else [Text("no limit is used", style="dim")]


def _alerts(state: dict[str, Any], room: int) -> list[Text]:
    from rich.text import Text

    rows = [Text(f"{'TIME':<9}{'WEBHOOK':<11}{'SAYS':<11}{'STATUS':<12}WHY", style="bold")]
    for one in state["lastAlerts"][-room:]:
        says = " ".join(part for part in (one["action"], _market(one["symbol"] or "")) if part)
        row = Text(f"{one['receivedAt'][11:19]:<9}{_clean(one['webhook'])[:10]:<11}{_clean(says)[:10]:<11}")
        status = "part filled" if one["status"] == "partially_filled" else one["status"]
        row.append(f"{status:<12}", style=_style(one["status"]))
        row.append(_clean(": ".join(part for part in (one["code"], one["error"]) if part) or " "), style="dim")
        rows.append(row)
    return rows if len(rows) > 1 else [Text("no alert yet", style="dim")]


def _foot(asked: str | None, trouble: str, width: int) -> Text:
    from rich.text import Text

    if asked is not None:
        foot = Text(f" {_words(asked)}: sure? y yes, any other key no ", style="bold reverse yellow")
    elif trouble:
        foot = Text(f" {_clean(trouble)} ", style="bold reverse red")
    else:
        foot = Text(" h halt   e exits only   r resume   q quit ", style="reverse")
    foot.truncate(width, overflow="ellipsis")
    return foot


def _words(state: str) -> str:
    return {"running": "trading", "exits_only": "EXITS ONLY", "halted": "HALTED"}.get(state, state)


def _style(status: str) -> str:
    from kekbridge.cli import render

    return render.STATUS_STYLES.get(status, "")


def _clean(value: object) -> str:
    from kekbridge.cli import render

    return render.to_text(value)


def _market(symbol: str) -> str:
    from kekbridge.cli import render

    return render.market(symbol) if symbol else ""


def _money(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):+.2f}"


def _price(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):.8g}"


def _plain(value: str | None) -> str:
    return "-" if value is None else f"{Decimal(value):.2f}"
