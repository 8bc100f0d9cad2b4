"""R5, R8, R9, R10, M3, M5, M7, M8: alerts that arrive twice, at once, too late, in the wrong order, or beside a second daemon."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.system.campaigns.run import MARKETS, WIDE, Outcome, Run, running
from tests.system.harness import Process, Sent, call
from tests.system.oracles import Findings

AT_ONCE = 60
_CHARTS = 20  # markets whose bars close at the same time
_AGO_S = 550  # start of the bars in the past: they follow each other faster than one per real second
MARKET_OF = {symbol: f"PERP_{symbol.removesuffix('USDT.P')}_USDC" for symbol in MARKETS}
SYMBOL, MARKET, SIZE = "SOLUSDT.P", "PERP_SOL_USDC", "0.2"


def positions(run: Run) -> dict[str, Decimal]:
    """Return the open positions at the exchange."""
    state = call(f"{run.bridge.paper_url}/paper/state")
    return {symbol: Decimal(quantity) for symbol, quantity in state["positions"].items()}


async def repeats(seed: int, alerts: int) -> Outcome:
    """R5: every alert is sent four times, half of them one after the other, half of them at the same instant."""
    with running(seed, environment={"KEKBRIDGE_QUEUE_CONCURRENCY": "50"}, webhook=WIDE) as run:
        run.trade_everything()
        for first in range(0, alerts, AT_ONCE):
            batch = [run.any_alert() for _ in range(min(AT_ONCE, alerts - first))]
            await asyncio.gather(*(_four_times(run, alert, at_once=n % 2 == 0) for n, alert in enumerate(batch)))
            await run.until(lambda: run.waiting() < AT_ONCE)
        await run.settle()
        findings = run.findings()
        stored = Counter(alert["alert_id"] for alert in run.evidence().alerts)
        findings.failures += [f"R5 {name}: stored {count} times" for name, count in stored.items() if count != 1]
        if len(stored) != alerts:
            findings.failures.append(f"R5: {alerts} alerts sent, {len(stored)} stored")
        return Outcome("R5 every alert four times, serial and at once", alerts, findings, seed)


async def _four_times(run: Run, alert: dict[str, object], *, at_once: bool) -> None:
    sent = Sent(alert_id=str(alert["alertId"]), body=dict(alert))
    run.sent.append(sent)
    if at_once:
        await asyncio.gather(*(run.sender.send(alert, sent) for _ in range(4)))
        return
    for _ in range(4):
        await run.sender.send(alert, sent)


async def other_bodies(seed: int, alerts: int) -> Outcome:
    """R9: an alertId comes again with another quantity: 409, and the first order remains the only one."""
    findings = Findings()
    with running(seed) as run:
        for first in range(0, alerts, AT_ONCE):
            await asyncio.gather(*(_with_other_body(run, findings) for _ in range(min(AT_ONCE, alerts - first))))
        await run.settle()
        findings.add(run.findings())
        accepted = sum(run.bridge.orders_received().values())
        if accepted != alerts:
            findings.failures.append(f"R9: {alerts} alerts made {accepted} orders")
        return Outcome("R9 same alertId, other body", alerts, findings, seed)


async def _with_other_body(run: Run, findings: Findings) -> None:
    (alert,) = _any_entries(run, 1)
    await run.send(alert)
    other = {**alert, "quantity": str(Decimal(str(alert["quantity"])) * run.rng.randint(2, 9))}
    again = await run.sender.send(other)
    if again.answers != [409]:
        findings.failures.append(f"R9 {alert['alertId']}: another body was answered {again.answers}")


async def two_daemons(seed: int, trials: int) -> Outcome:
    """R10: a second daemon on the same data directory refuses to start while the first continues to trade."""
    findings = Findings()
    with running(seed) as run:
        for _ in range(trials):
            second = run.bridge._new_daemon()
            sending = asyncio.create_task(run.send(run.any_alert()))
            await asyncio.to_thread(_start_and_wait, second, findings)
            await sending
        await run.settle()
        findings.add(run.findings())
        if not run.bridge.daemon.is_alive:
            findings.failures.append("R10: the first daemon has ended")
        return Outcome("R10 a second daemon on one data directory", trials, findings, seed)


def _start_and_wait(second: Process, findings: Findings) -> None:
    if second.start():
        findings.failures.append("R10: a second daemon started")
        second.kill()
    elif second.wait() == 0:
        findings.failures.append("R10: a second daemon ended with exit code 0")


async def bursts(seed: int, rounds: int) -> Outcome:
    """M3: 200 alerts at once where a limit allows 10: the daily order limit of a new webhook, and the maximum position."""
    findings, admitted = Findings(), Counter[int]()
    # No response is lost here: Orderly's own timeouts, so that a busy machine does not make orders unknown.
    long_timeouts = {"KEKBRIDGE_EXCHANGE_RECV_WINDOW_MS": "5000", "KEKBRIDGE_EXCHANGE_REQUEST_TIMEOUT_S": "5"}
    for number in range(rounds):
        by_count = number % 2 == 0
        limit = ("--daily-orders", "10") if by_count else ("--max-position-size", "2")
        with running(seed + number, environment=long_timeouts, webhook=limit) as run:
            alerts = [run.alert(action="buy", symbol=SYMBOL, quantity=SIZE) for _ in range(200)]
            await asyncio.gather(*(run.send(alert) for alert in alerts))
            await run.settle()
            findings.add(run.findings())
            count = sum(run.bridge.orders_received().values())
            admitted[count] += 1
            if count > 10:
                findings.breaches += 1
            if count != 10 or positions(run) != {MARKET: Decimal(2)}:
                findings.failures.append(f"M3 round {number}: {count} orders, position {positions(run)}")
    return Outcome(
        "M3 200 alerts at once, room for 10", rounds, findings, seed, note=f"orders per round: {dict(admitted)}"
    )


async def closes(seed: int, trials: int) -> Outcome:
    """M5: closes of random size, many at once and mostly larger than the position, never reverse it."""
    findings = Findings()
    with running(seed) as run:
        done = 0
        while done < trials:
            side, sign = run.rng.choice((("buy", 1), ("sell", -1)))
            await run.send(run.alert(action=side, symbol=SYMBOL, quantity=str(Decimal(SIZE) * run.rng.randint(1, 5))))
            await run.until(lambda: not run.waiting())
            count = min(run.rng.randint(1, 8), trials - done)
            sizes = [str(Decimal(SIZE) * run.rng.randint(1, 20) / 2) for _ in range(count)]
            await asyncio.gather(*(run.send(run.alert(action="close", symbol=SYMBOL, quantity=size)) for size in sizes))
            await run.until(lambda: not run.waiting())
            done += count
            if positions(run).get(MARKET, Decimal(0)) * sign < 0:
                findings.breaches += 1
                findings.failures.append(f"M5: closes {sizes} reversed the position")
            await run.send(run.alert(action="close", symbol=SYMBOL, quantity=None))
            await run.until(lambda: not run.waiting())
        await run.settle()
        findings.add(run.findings())
        return Outcome("M5 closes larger than the position", done, findings, seed)


async def stale(seed: int, trials: int) -> Outcome:
    """M7: the exchange is unavailable while orders are queued; those older than their allowed age are never sent, the others are."""
    findings = Findings()
    max_age_s = 3
    environment = {
        "KEKBRIDGE_QUEUE_MAX_AGE_S": str(max_age_s),
        "KEKBRIDGE_QUEUE_BACKOFF_S": "0.2",
        "KEKBRIDGE_QUEUE_ATTEMPTS": "10",
        "KEKBRIDGE_QUEUE_CONCURRENCY": "50",
        "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0",
    }
    with running(seed, environment=environment, webhook=WIDE) as run:
        run.trade_everything()
        done, number = 0, 0
        while done < trials:
            run.faults({"fault": "rate_limit", "path": "/v1/order"})
            first, second = (_any_entries(run, min(run.rng.randint(5, 40), trials // 4 + 1)) for _ in range(2))
            await asyncio.gather(*(run.send(alert) for alert in first))
            # In every other round the first batch is too old when the exchange is back; the second never is.
            await asyncio.sleep(run.rng.uniform(1.0, 1.3) * max_age_s if number % 2 else run.rng.uniform(0.0, 0.3))
            await asyncio.gather(*(run.send(alert) for alert in second))
            run.faults()
            await run.until(lambda: not run.waiting())
            done, number = done + len(first) + len(second), number + 1
        await run.settle()
        findings.add(run.findings())
        by_status = dict(run.query("SELECT status, count(*) FROM orders GROUP BY status ORDER BY 1"))
        findings.failures += [
            f"M7: no order was {wanted}" for wanted in ("filled", "expired") if not by_status.get(wanted)
        ]
        note = ", ".join(f"{count} {status}" for status, count in by_status.items())
        return Outcome("M7 queue held longer than the allowed age", done, findings, seed, note=note)


def _any_entries(run: Run, count: int) -> list[dict[str, object]]:
    symbols = run.rng.choices(list(run.markets), k=count)
    return [run.alert(action="buy", symbol=symbol, quantity=run.markets[symbol]) for symbol in symbols]


async def swapped(seed: int, trials: int) -> Outcome:
    """M8: the close and the open of one bar arrive swapped, 0 to 500 ms apart; with `--follow position` the position ends right."""
    findings = Findings()
    environment = {
        "KEKBRIDGE_QUEUE_MAX_AGE_S": "3600",
        "KEKBRIDGE_AUTH_MAX_TIMESTAMP_AGE_S": "3600",  # bars age, because each takes longer than its second
        "KEKBRIDGE_QUEUE_CONCURRENCY": "50",
    }
    with running(seed, environment=environment, webhook=(*WIDE, "--follow", "position")) as run:
        run.trade_everything()
        symbols = [name for name in run.markets if name.startswith("PERP_")][: min(_CHARTS, trials)]
        shares = [len(range(number, trials, len(symbols))) for number in range(len(symbols))]
        charts = zip(symbols, shares, strict=True)
        await asyncio.gather(*(_chart(run, symbol, bars, findings) for symbol, bars in charts))
        await run.settle()
        findings.add(run.findings())
        return Outcome("M8 close and open of a bar swapped", trials, findings, seed)


async def _chart(run: Run, symbol: str, bars: int, findings: Findings) -> None:
    """Send the bars of one market, with timestamps one second apart: alerts of the same second have no order."""
    unit, before = Decimal(run.markets[symbol]), Decimal(0)
    started = datetime.now(UTC) - timedelta(seconds=_AGO_S)
    for number in range(bars):
        target = unit * run.rng.randint(1, 5) * run.rng.choice((1, -1))
        if target * before > 0:
            target = -target
        bar = Bar(symbol, (started + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ"))
        new, old = (
            _position_alert(run, bar, target, before=Decimal(0)),
            _position_alert(run, bar, Decimal(0), before=before),
        )
        first, second = (new, old) if run.rng.random() < 0.7 else (old, new)
        sending = [asyncio.create_task(run.send(first))]
        await asyncio.sleep(run.rng.uniform(0, 0.5))
        sending.append(asyncio.create_task(run.send(second)))
        await asyncio.gather(*sending)
        found = await _settled_position(run, symbol, target)
        if found != target:
            order = "swapped" if first is new else "in order"
            findings.failures.append(f"M8 {symbol} from {before} to {target} ({order}): ended at {found}")
        before = found


async def _settled_position(run: Run, symbol: str, target: Decimal) -> Decimal:
    """Return the position as soon as it is `target`, or else when no order of the symbol is in flight."""
    await run.until(lambda: not run.waiting(symbol) or positions(run).get(symbol, Decimal(0)) == target)
    return positions(run).get(symbol, Decimal(0))


@dataclass(frozen=True, slots=True)
class Bar:
    """A market and the time its bar closed, to the second."""

    symbol: str
    closed_at: str


def _position_alert(run: Run, bar: Bar, target: Decimal, *, before: Decimal) -> dict[str, object]:
    """Build the alert of a strategy that moves from `before` to `target`."""
    grows = abs(target) > abs(before)
    action = "buy" if target > before else "sell"
    return run.alert(
        action=action,
        symbol=bar.symbol,
        timestamp=bar.closed_at,
        quantity=str(abs(target - before)),
        marketPosition=_side(target),
        marketPositionSize=str(abs(target)),
        prevMarketPosition=_side(before),
        prevMarketPositionSize=str(abs(before)),
        comment="open" if grows else "close",
    )


def _side(position: Decimal) -> str:
    return "flat" if position == 0 else "long" if position > 0 else "short"


async def filled_while_down(seed: int, trials: int) -> Outcome:
    """R8: the order is accepted, the daemon killed, the order fills; the restarted daemon records its price and guards its stop."""
    findings = Findings()
    delay = {"fault": "delay", "path": "/v1/algo/order", "method": "POST", "delay_ms": 600, "when": "after"}
    with running(seed) as run:
        for number in range(trials):
            run.faults(delay, *([{"fault": "lose_stop", "count": 1}] if number % 2 else []))
            symbol = run.rng.choice(list(MARKETS))
            sending = asyncio.create_task(
                run.send(run.alert(action="buy", symbol=symbol, quantity=MARKETS[symbol], stopLoss="5%"))
            )
            await run.until(lambda name=MARKET_OF[symbol]: name in positions(run))  # type: ignore[misc]
            await asyncio.sleep(run.rng.uniform(0, 0.3))
            run.bridge.daemon.kill()
            run.faults()
            killed = time.monotonic()
            await asyncio.to_thread(run.restart)
            await sending
            await run.until(lambda: not run.waiting())
            await run.until(lambda: _all_protected(run))
            if not _all_protected(run):
                findings.failures.append(f"R8 trial {number}: no stop {time.monotonic() - killed:.1f} s after the kill")
            await run.send(run.alert(action="close", symbol=symbol, quantity=None))
            await run.until(lambda: not run.waiting())
        await run.settle()
        found = run.findings()
        findings.add(found)
        return Outcome("R8 filled while the bridge was down", trials, findings, seed)


def _all_protected(run: Run) -> bool:
    """Return True if every open position has live stops of its size at the exchange."""
    state = call(f"{run.bridge.paper_url}/paper/state")
    covered: Counter[str] = Counter()
    for row in state["open_algo_orders"]:
        covered[row["symbol"]] += sum((_live(leaf) for leaf in _leaves(row)), Decimal(0))  # type: ignore[assignment]
    return all(abs(Decimal(quantity)) <= covered[symbol] for symbol, quantity in state["positions"].items())


def _leaves(row: dict[str, object]) -> list[dict[str, object]]:
    children = row.get("child_orders")
    if isinstance(children, list) and children:
        return [leaf for child in children for leaf in _leaves(child)]
    return [row]


def _live(leaf: dict[str, object]) -> Decimal:
    is_stop = leaf["algo_type"] in ("STOP", "STOP_LOSS")
    is_open = leaf.get("algo_status") in ("NEW", None) and not leaf.get("is_triggered")
    return Decimal(str(leaf["quantity"])) if is_stop and is_open else Decimal(0)
