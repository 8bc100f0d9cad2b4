"""R6, R7 and M4: the response to an accepted order is lost or visible late, or its stop is rejected, lost or too small."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

from tests.system.campaigns.run import MARKETS, WIDE, Outcome, Run, running
from tests.system.harness import call
from tests.system.oracles import Findings
from tests.waiting import measuring_stalls

BATCH = 500
_ENTRIES_AT_ONCE = 10
PROTECT_WITHIN_S = 5.0
_CREATES = ("/v1/order", "/v1/algo/order")


async def lost_answers(seed: int, trials: int) -> Outcome:
    """R6: responses to order requests are lost in one of four ways after the exchange accepted the order."""
    return await _lost(seed, trials, "R6 answer lost after acceptance", lag=False)


async def lost_answers_and_lag(seed: int, trials: int) -> Outcome:
    """R7: the same, and an accepted order becomes visible to queries up to 3 s later."""
    return await _lost(seed, trials, "R7 answer lost and read lag up to 3 s", lag=True)


async def _lost(seed: int, trials: int, name: str, *, lag: bool) -> Outcome:
    # Orders of one symbol wait for each other: only with all markets are enough of them in flight at once.
    environment = {"KEKBRIDGE_QUEUE_CONCURRENCY": "50", "KEKBRIDGE_QUEUE_MAX_AGE_S": "120"}
    if lag:
        environment["KEKBRIDGE_QUEUE_CLOCK_TOLERANCE_S"] = "3"
    with running(seed, environment=environment, webhook=WIDE) as run:
        run.trade_everything()
        done = 0
        while done < trials:
            run.faults(*_lost_answer_faults(run, lag=lag))
            batch = [run.any_alert() for _ in range(min(BATCH, trials - done))]
            await asyncio.gather(*(run.send(alert) for alert in batch))
            done += len(batch)
            if not await run.until(lambda: not run.waiting()):
                break  # the oracles report the rest
        run.faults()
        await run.settle()
        findings = run.findings()
        findings.failures += _unknown_but_accepted(run)
        by_status = run.query("SELECT status, count(*) FROM orders GROUP BY status ORDER BY 2 DESC")
        return Outcome(name, done, findings, seed, note=", ".join(f"{count} {status}" for status, count in by_status))


def _lost_answer_faults(run: Run, *, lag: bool) -> list[dict[str, Any]]:
    """Choose how this batch loses its responses."""
    fault: dict[str, Any] = run.rng.choice(
        (
            {"fault": "lose_answer"},
            {"fault": "reset_inside"},
            {"fault": "server_error", "status": 500, "when": "after"},
            {"fault": "html", "when": "after"},
        )
    )
    faults = [
        {**fault, "path": path, "method": "POST", "probability": 0.8, "seed": run.rng.randint(1, 10**6)}
        for path in _CREATES
    ]
    if lag:
        faults.append({"fault": "read_lag", "delay_ms": run.rng.randint(0, 3000)})
    return faults


def _unknown_but_accepted(run: Run) -> list[str]:
    received = run.bridge.orders_received()
    unknown = run.query("SELECT client_order_id FROM orders WHERE status = 'unknown'")
    return [
        f"left as unknown, but the exchange has it: {client_order_id}"
        for (client_order_id,) in unknown
        if received[client_order_id]
    ]


async def stops(seed: int, trials: int) -> Outcome:
    """M4: the stop of an entry is lost, its replacement rejected, or the entry fills in parts: naked at most 5 s, else closed."""
    findings = Findings()
    kinds: dict[str, list[dict[str, Any]]] = {
        "lost": [{"fault": "lose_stop"}],
        "refused": [{"fault": "lose_stop"}, {"fault": "refuse", "algo_type": "STOP", "code": -1005}],
        "its answer lost": [
            {"fault": "lose_stop"},
            {"fault": "lose_answer", "path": "/v1/algo/order", "method": "POST"},
        ],
        "partly filled": [{"fault": "partial_fills", "parts": 4}],
    }
    longest: dict[str, float] = {}

    environment = {"KEKBRIDGE_QUEUE_CONCURRENCY": "50"}
    with ExitStack() as stack:
        # Concurrent, because each has its own bridge and mostly waits. All are started first: starting one blocks the others.
        starts = [running(seed + number, environment=environment, webhook=WIDE) for number in range(len(kinds))]
        runs = [stack.enter_context(start) for start in starts]
        trials_by_kind = [
            _stops_of_kind(run, max(trials // len(kinds), 1), faults)
            for run, faults in zip(runs, kinds.values(), strict=True)
        ]

        def processes() -> list[int]:
            return [process for run in runs for process in run.bridge.processes()]

        async with measuring_stalls(processes) as stalled_s:
            results = await asyncio.gather(*trials_by_kind)
            allowed_s = PROTECT_WITHIN_S + stalled_s()
        for kind, found in zip(kinds, results, strict=True):
            longest[kind] = found.longest_naked_s or 0.0
            findings.add(found)
            if longest[kind] > allowed_s:
                findings.breaches += 1
                findings.failures.append(f"M4 stop {kind}: naked for {longest[kind]:.2f} s")
    note = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in longest.items())
    return Outcome("M4 stop lost, refused, partly filled", trials, findings, seed, note=f"naked at most: {note}")


async def _stops_of_kind(run: Run, wanted: int, faults: list[dict[str, Any]]) -> Findings:
    run.trade_everything()
    done = 0
    while done < wanted:
        symbols = run.rng.sample(list(run.markets)[len(MARKETS) :], min(_ENTRIES_AT_ONCE, wanted - done))
        await _protected_entries(run, symbols, faults)
        done += len(symbols)
    await run.settle()
    return run.findings()


async def _protected_entries(run: Run, symbols: list[str], faults: list[dict[str, Any]]) -> None:
    """Send entries with a stop in these markets under these faults, wait until they are protected or flat, and close everything."""
    await run.until(lambda: not _guarded(run))
    run.faults(*faults)
    sizes = [str(Decimal(run.markets[symbol]) * 4) for symbol in symbols]
    entries = [
        run.alert(action="buy", symbol=symbol, quantity=size, stopLoss="5%")
        for symbol, size in zip(symbols, sizes, strict=True)
    ]
    await asyncio.gather(*(run.send(entry) for entry in entries))
    await run.until(lambda: not run.waiting())
    await _until_protected(run)
    run.faults()
    await asyncio.gather(*(run.send(run.alert(action="close", symbol=symbol, quantity=None)) for symbol in symbols))
    await run.until(lambda: not run.waiting() and not _open(run))


async def _until_protected(run: Run) -> None:
    """Wait until the protection controller has seen a stop of the right size, or has closed the position."""
    unprotected = "SELECT count(*) FROM protections WHERE state = 'wanted'"
    await run.until(lambda: not run.query(unprotected)[0][0] or not _open(run))


def _guarded(run: Run) -> int:
    return int(run.query("SELECT count(*) FROM protections WHERE state <> 'over'")[0][0])


def _open(run: Run) -> dict[str, str]:
    positions: dict[str, str] = call(f"{run.bridge.paper_url}/paper/state")["positions"]
    return positions
