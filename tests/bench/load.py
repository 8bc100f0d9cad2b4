"""Load generator: one new connection per alert, as TradingView makes them; times are CLOCK_MONOTONIC, shared by all processes."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass

from tests.bench.systems import System, quantity_of

_PATH = "/api/webhooks/tradingview"
_QUIET_S = 5.0  # without an arrival for this long, the missing orders are given up
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Sent:
    """One alert: start of its connection, seconds to its response, and the status (0: connection broken)."""

    number: int
    at: float
    ack_s: float
    status: int


@dataclass(frozen=True, slots=True)
class Result:
    """A run: acks and orders in seconds from the connect of their alert; rejections and double orders as the exchange saw them.

    `spans` has the times of connect and order.
    """

    acks: list[float]
    orders: list[float]
    spans: list[tuple[float, float]]
    last_order_s: float
    elapsed_s: float
    refused: int
    doubles: int
    missing: int
    late: int


async def _send(system: System, number: int, message: tuple[bytes, dict[str, str]]) -> Sent:
    body, headers = message
    lines = [f"POST {_PATH} HTTP/1.1", "Host: bench", "Content-Type: application/json", "Connection: close"]
    lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
    started = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    except OSError:
        answer = b""
    status = int(answer[9:12]) if len(answer) > 12 else 0
    if 400 <= status < 500:
        raise AssertionError(
            f"{system.name} rejected an alert of the benchmark: {answer.decode(errors='replace')[-300:]}"
        )
    return Sent(number, started, time.monotonic() - started, status)


async def run(system: System, *, count: int, at_once: int, copies: int = 1) -> Result:
    """Send `count` alerts, at most `at_once` at a time, each `copies` times; return when all have an order.

    Copies are the same bytes, as TradingView resends an alert: with a timestamp of its own each would be another alert.
    """
    system.arrivals()
    numbers = [next(_numbers) for _ in range(count)]
    waiting = iter([number for number in numbers for _ in range(copies)])
    messages: dict[int, tuple[bytes, dict[str, str]]] = {}
    sent: list[Sent] = []

    async def sender() -> None:
        for number in waiting:
            if number not in messages:
                messages[number] = system.message(number)
            sent.append(await _send(system, number, messages[number]))

    started = time.monotonic()
    await asyncio.gather(*(sender() for _ in range(min(at_once, count * copies))))
    arrived: dict[str, list[tuple[float, int]]] = {}
    deadline = time.monotonic() + _QUIET_S
    while time.monotonic() < deadline:
        for quantity, times in (await asyncio.to_thread(system.arrivals)).items():
            arrived.setdefault(quantity, []).extend(times)
            deadline = time.monotonic() + _QUIET_S
        if len(arrived) >= count and not any(all(status != 200 for _, status in each) for each in arrived.values()):
            break
        if system.name.startswith("flask"):
            break  # its order is sent before its response, or never
        await asyncio.sleep(0.02)
    return _evaluate(numbers, sent, arrived, started)


def _evaluate(
    numbers: list[int], sent: list[Sent], arrived: dict[str, list[tuple[float, int]]], started: float
) -> Result:
    first_sent: dict[int, float] = {}
    for each in sorted(sent, key=lambda each: each.at):
        first_sent.setdefault(each.number, each.at)
    spans: list[tuple[float, float]] = []
    last = 0.0
    doubles = refused = missing = 0
    for number in numbers:
        requests = arrived.get(quantity_of(number), [])
        accepted = [at for at, status in requests if status == 200]
        refused += len(requests) - len(accepted)
        doubles += max(len(accepted) - 1, 0)
        missing += not accepted
        if accepted:
            spans.append((first_sent[number], accepted[0]))
            last = max(last, accepted[0] - started)
    return Result(
        acks=[each.ack_s for each in sent if each.status],
        orders=[arrived_at - sent_at for sent_at, arrived_at in spans],
        spans=spans,
        last_order_s=last,
        elapsed_s=max([last, *(each.at + each.ack_s - started for each in sent)]),
        refused=refused,
        doubles=doubles,
        missing=missing,
        late=sum(each.ack_s > 3 or not each.status for each in sent),
    )
