"""Hostile bodies against a real daemon: `python -m tests.system.fuzz --bodies 100000 --seed 1` prints a table.

Two webhooks are attacked: one that requires a signature, with its real apiKey and no valid signature, and one without signature whose
limits deny every entry, so that the same bodies reach parsing, translation and risk rules. No response may be 5xx, no order may reach the
exchange, and the daemon's memory may not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.paths import DATA
from tests.system.harness import WEBHOOK_PATH, BridgeProcess, bridge_process, run_cli, timestamp

PAYLOADS = DATA / "alert-payloads.json"
CONNECTIONS = 12
TIMEOUT_S = 20.0
ENVIRONMENT = {
    # A lockout and the budget of refusals would keep most bodies from the parser.
    "KEKBRIDGE_AUTH_LOCKOUT_FAILURES": "1000000",
    "KEKBRIDGE_AUTH_REFUSAL_BURST": "1000000",
    "KEKBRIDGE_LOG_LEVEL": "error",
}
NUMBERS = (
    "0",
    "-1",
    "1e400",
    "1e-400",
    "NaN",
    "Infinity",
    "0.00000000000000000001",
    "9" * 400,
    "1_000",
    "0x10",
    "１２",
    "1,5",
    "",
)
TEXTS = (
    "",
    " ",
    "\x00",
    "\x1b[2J",
    "[red]",
    "{{close}}",
    "'; drop table alerts; --",
    "\u202ePERP",
    "💥" * 50,
    "A" * 5000,
    "..%2f",
)
NAMES = (
    *(
        "action",
        "symbol",
        "quantity",
        "quantityType",
        "price",
        "orderType",
        "limitPrice",
        "triggerPrice",
        "stopLoss",
        "takeProfit",
    ),
    *(
        "trailingStop",
        "reduceOnly",
        "leverage",
        "slippage",
        "marketPosition",
        "marketPositionSize",
        "prevMarketPosition",
        "exchange",
    ),
    *(
        "prevMarketPositionSize",
        "positionSize",
        "alertId",
        "timestamp",
        "signature",
        "comment",
        "steps",
        "strategy",
        "ticker",
        "id",
    ),
)
VALUES: tuple[Any, ...] = (
    "buy",
    "sell",
    "close",
    "flip",
    "cancel",
    "ping",
    "BTCUSDT.P",
    "ETHUSDT.P",
    "market",
    "limit",
    "2%",
    "25%",
    1,
    0.5,
)
HEADERS = (
    "X-Webhook-Signature",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "X-Forwarded-For",
    "X-Api-Key",
    "X-Kekbridge-Dry-Run",
)


@dataclass
class Report:
    """The responses, counted."""

    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: list[str] = field(default_factory=list)
    cut: int = 0
    seconds: list[float] = field(default_factory=list)
    memory_before_kib: int = 0
    memory_after_kib: int = 0
    slowest: tuple[float, bytes] = (0.0, b"")
    orders: int = 0
    is_alive: bool = False

    @property
    def sent(self) -> int:
        return sum(self.statuses.values()) + self.cut


class Bodies:
    """An endless source of requests from a seed."""

    def __init__(self, seed: int, keys: tuple[str, ...]) -> None:
        self._random = random.Random(seed)
        self._keys = keys
        collection = json.loads(PAYLOADS.read_text(encoding="utf-8"))
        self._secret = collection["fixture"]["secret"]
        self._corpus = [case["body"] for case in collection["cases"]]

    def next(self) -> tuple[bytes, dict[str, str]]:
        """Return one body and its headers."""
        make = self._random.choice(
            (self._noise, self._grammar, self._grammar, self._mutation, self._mutation, self._structure)
        )
        body = make()
        headers = {
            "Content-Type": self._random.choice(("application/json", "text/plain", "application/x-www-form-urlencoded"))
        }
        if self._random.random() < 0.03:
            bomb = body[:2000] * self._random.choice((1, 500))
            body, headers["Content-Encoding"] = gzip.compress(bomb), "gzip"
        if self._random.random() < 0.1:
            headers[self._random.choice(HEADERS)] = self._random.choice(
                ("v1,AAAA", "sha256=" + "0" * 64, "1", "127.0.0.1, ::1", "z" * 500)
            )
        return body[:200_000], headers

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 10, 300, 5000)))

    def _grammar(self) -> bytes:
        """Return an alert of real field names with arbitrary values."""
        names = self._random.sample(NAMES, self._random.randint(0, 12))
        message: dict[str, Any] = {name: self._value() for name in names}
        message["apiKey"] = self._random.choice(self._keys)
        if self._random.random() < 0.8:
            message["timestamp"] = timestamp()
        if self._random.random() < 0.7:
            message |= {"action": "buy", "symbol": "BTCUSDT.P"}
        text = json.dumps(message, ensure_ascii=self._random.random() < 0.5)
        return text.encode(self._random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32")), "surrogatepass")

    def _value(self, depth: int = 0) -> Any:
        kind = self._random.random()
        if kind < 0.5:
            return self._random.choice(VALUES)
        if kind < 0.65:
            return self._random.choice(NUMBERS)
        if kind < 0.8:
            return self._random.choice(TEXTS)
        if kind < 0.9 or depth > 3:
            return self._random.choice((None, True, False, -0.0, 10**30, 1e300, []))
        if kind < 0.95:
            return [self._value(depth + 1) for _ in range(self._random.randint(0, 4))]
        return {self._random.choice(NAMES): self._value(depth + 1) for _ in range(self._random.randint(0, 4))}

    def _mutation(self) -> bytes:
        """Return a real alert with a few bytes inserted, removed, replaced or repeated."""
        text = self._random.choice(self._corpus).replace(self._secret, self._random.choice(self._keys))
        body = bytearray(text.replace("2026-01-15T10:30:03Z", timestamp()).encode())
        for _ in range(self._random.randint(0, 4)):
            at = self._random.randint(0, len(body))
            match self._random.randint(0, 3):
                case 0:
                    body[at:at] = self._random.randbytes(1)
                case 1:
                    del body[at : at + self._random.randint(1, 8)]
                case 2:
                    body[at : at + 4] = self._random.choice((b"NaN", b"{{", b"\xff", b'"', b"1e9", b"\\u0000"))
                case _:
                    body[at:at] = body[at : at + 40]
        return bytes(body)

    def _structure(self) -> bytes:
        """Return a body of extreme depth, length or repetition."""
        shape = self._random.randint(0, 6)
        size = self._random.choice((10, 1000, 30_000, 70_000))
        if shape == 0:
            return b"[" * size
        if shape == 1:
            return b'{"a":' * min(size, 12_000) + b"1" + b"}" * min(size, 12_000)
        if shape == 2:
            return b'{"quantity":' + b"9" * size + b"}"
        if shape == 3:
            return b"{" + b",".join(b'"k%d":1' % number for number in range(min(size, 6000))) + b"}"
        start = b'{"apiKey":"' + self._random.choice(self._keys).encode() + b'",'
        if shape == 4:
            return start + b'"x":[' + self._random.choice((b'"",', b"1,", b"{},", b'"a",')) * (size // 4) + b"1]}"
        if shape == 5:
            return start + b'"' + b"q_" * (size // 2) + b'":1}'
        return start + b'"symbol":"' + b"A" * size + b'"}'


async def attack(bridge: BridgeProcess, bodies: Bodies, count: int, report: Report) -> None:
    """Send `count` bodies over a few concurrent connections."""
    remaining = iter(range(count))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one_after_another() -> None:
            for _ in remaining:
                await _send(session, bridge.url + WEBHOOK_PATH, *bodies.next(), report)

        await asyncio.gather(*(one_after_another() for _ in range(CONNECTIONS)))


async def _send(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str], report: Report) -> None:
    started = time.perf_counter()
    try:
        async with session.post(url, data=body, headers=headers) as answer:
            await answer.read()
            report.statuses[answer.status] += 1
            if answer.status >= 500:
                report.server_errors.append(f"{answer.status}: {body[:300]!r} {headers}")
    except (aiohttp.ClientError, OSError):
        report.cut += 1  # a body over the size limit is rejected before all of it was sent
    spent = time.perf_counter() - started
    report.seconds.append(spent)
    report.slowest = max(report.slowest, (spent, body[:80]))


def own_kib(pid: int) -> int:
    """Return the memory that a process has filled, in KiB; without the code and data of files, of which a fork maps more as it runs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def run(directory: Path, *, bodies: int, seed: int) -> Report:
    """Run the campaign against a new bridge."""
    report = Report()
    options = {"environment": ENVIRONMENT, "webhook_arguments": ("--rate-per-minute", "1000000")}
    with bridge_process(directory, **options) as bridge:
        arguments = ("webhook", "create", "open", "--no-require-signature", "--allowed-symbols", "WOO", "--json")
        rates = ("--rate-per-minute", "1000000", "--rate-per-hour", "1000000", "--rate-per-day", "1000000")
        opened = json.loads(run_cli(*arguments, *rates, data_dir=bridge.data_dir))
        source = Bodies(seed, (bridge.webhook["apiKey"], opened["apiKey"], "wh_test_nobody"))
        warm_up = min(bodies // 5, 2000)
        asyncio.run(attack(bridge, source, warm_up, report))
        report.memory_before_kib = own_kib(bridge.daemon.pid)
        asyncio.run(attack(bridge, source, bodies - warm_up, report))
        report.memory_after_kib = own_kib(bridge.daemon.pid)
        report.orders = sum(event["event"] == "order_received" for event in bridge.journal())
        report.is_alive = bridge.is_ready()
    return report


def table(report: Report, *, seed: int) -> str:
    """Format the report as a Markdown table."""
    ordered = sorted(report.seconds)
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(report.statuses.items()))
    rows = [
        ("bodies sent", f"{report.sent:,} (seed {seed})"),
        ("answers", statuses),
        ("cut by the sender's side", str(report.cut)),
        ("answers of 500 and above", str(sum(count for status, count in report.statuses.items() if status >= 500))),
        ("orders at the exchange", str(report.orders)),
        ("slowest answer", f"{ordered[-1] * 1000:.0f} ms (99 %: {ordered[int(len(ordered) * 0.99)] * 1000:.0f} ms)"),
        ("its body begins", repr(report.slowest[1])),
        (
            "memory of the daemon",
            f"{report.memory_before_kib / 1024:.0f} MiB, then {report.memory_after_kib / 1024:.0f} MiB",
        ),
        ("still answering", "yes" if report.is_alive else "NO"),
    ]
    return "\n".join(["| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> int:
    """Run the campaign and print the table; return 1 on a 5xx, an order, or a daemon that no longer answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bodies", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kekbridge-fuzz-") as directory:
        report = run(Path(directory), bodies=arguments.bodies, seed=arguments.seed)
    print(table(report, seed=arguments.seed))
    for error in report.server_errors[:10]:
        print(error, file=sys.stderr)
    return 1 if report.server_errors or report.orders or not report.is_alive else 0


if __name__ == "__main__":
    sys.exit(main())
