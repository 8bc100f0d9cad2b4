"""What must hold after a mixed campaign (X1), by three witnesses only: what was sent, the exchange's own journal and state, the CLI's JSON.

Pure. Each oracle returns the violations it found as sentences.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal

from tests.system.exposure import Exposure
from tests.system.harness import Sent
from tests.system.oracles import ENDED, Findings, Row, milliseconds

#: How much later than the loss that closes it an entry of a webhook may still reach the exchange: it was on its way.
GRACE_MS = 1_000
_EXACT = Context(prec=200)
_DAY_MS = 86_400_000
#: Average prices are rounded, and so are the sums that are shown.
_CENTS = Decimal("0.05")
_OPEN = ("NEW", "PARTIAL_FILLED")
_RESTING = ("accepted", "partially_filled")
_AMOUNT = re.compile(r"-?[\d,]+(\.\d+)?")


@dataclass(frozen=True)
class Outage:
    """A time in which the exchange or the daemon did not answer, Unix ms."""

    start_ms: int
    end_ms: int
    what: str


@dataclass(frozen=True)
class Cap:
    """The limits of a webhook that trades its markets alone."""

    webhook: str
    #: The exchange's symbols.
    symbols: tuple[str, ...]
    #: Coins; None: no limit.
    max_position: Decimal | None = None
    #: USDC; None: no limit.
    max_daily_loss: Decimal | None = None


@dataclass
class Books:
    """The three witnesses at one moment, when nothing is in flight."""

    sent: list[Sent]
    #: `/paper/journal` and `/paper/state`.
    journal: list[Row]
    state: Row
    #: `logs`, `orders`, `positions`, `export fills`, `stats --since all` and `risk show`, each with --json.
    alerts: list[Row]
    orders: list[Row]
    positions: list[Row]
    fills: list[Row]
    stats: Row
    risk: Row
    outages: list[Outage] = field(default_factory=list)
    caps: Sequence[Cap] = ()
    #: The exchange's symbols that only entries with a stop loss may open.
    guarded: frozenset[str] = frozenset()

    def executed(self) -> dict[str, Decimal]:
        """Executed quantity by client order id, as the exchange says; of an entry with exits that of the entry, else that of all legs."""
        return {name: quantity for name, (quantity, _) in self.traded().items()}

    def traded(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Executed quantity and its value in USDC, likewise."""
        roots: dict[int, int] = {}
        names: dict[int, tuple[str, str | None]] = {}
        traded: dict[str, tuple[Decimal, Decimal]] = {}
        for event in self.journal:
            if event["event"] == "order_accepted" and event.get("algo") and event["client_order_id"]:
                names[event["order_id"]] = (event["client_order_id"], event["side"])
            elif event["event"] == "order_triggered":
                roots[event["order_id"]] = event["root_order_id"]
            elif event["event"] == "fill":
                node = event["algo_order_id"] or 0
                name, side = names.get(roots.get(node, node), (event["client_order_id"], None))
                if name is not None and side in (None, event["side"]):
                    quantity, value = traded.get(name, (Decimal(0), Decimal(0)))
                    more = Decimal(event["quantity"])
                    traded[name] = (quantity + more, value + more * Decimal(event["price"]))
        return traded

    def without_outages(self, start_ms: int, end_ms: int) -> int:
        """How much of a time the exchange and the daemon answered, ms."""
        return end_ms - start_ms - overlap_ms(self.outages, start_ms, end_ms)


def overlap_ms(outages: Iterable[Outage], start_ms: int, end_ms: int) -> int:
    """How much of a time is covered by outages, each moment counted once."""
    covered, until = 0, start_ms
    for outage in sorted(outages, key=lambda one: one.start_ms):
        start, end = max(outage.start_ms, until), min(outage.end_ms, end_ms)
        if end > start:
            covered += end - start
            until = end
    return covered


def judge(books: Books) -> Findings:
    """Run every oracle, and measure how long positions had no stop and how long exits took."""
    failures: list[str] = []
    for oracle in (every_alert_once, no_order_twice, nothing_beyond_the_alert):
        failures += oracle(books)
    lost = sum(line.startswith("lost") for line in failures)
    doubled = sum(line.startswith("doubled") for line in failures)
    over = limits_hold(books)
    for oracle in (
        every_alert_ended, every_order_ended, executions_agree, open_orders_agree, fills_agree, money_agrees, positions_agree, stops_cover,
        no_exit_without_position, alerts_add_up, days_add_up,
    ):  # fmt: skip
        failures += oracle(books)
    return Findings(
        lost=lost,
        doubled=doubled,
        breaches=len(over),
        longest_naked_s=longest_naked_s(books),
        unknown=sum(order["status"] == "unknown" for order in books.orders),
        failures=failures + over,
    )


# ------------------------------------------------------------------------------------------------------ lost and doubled


def _stored(books: Books) -> Counter[str]:
    return Counter(alert["alertId"] for alert in books.alerts if alert["alertId"] and alert["identity"])


def every_alert_once(books: Books) -> list[str]:
    """An acknowledged alert is stored, none that was taken is stored twice, and nothing that was not sent.

    A denied alert claims no identity but its own: if its answer is lost, the resend is judged and stored again.
    """
    stored, names = _stored(books), {one.alert_id for one in books.sent}
    taken = Counter(
        alert["alertId"]
        for alert in books.alerts
        if alert["alertId"] and alert["identity"] and not alert["identity"].startswith("alert:")
    )
    found = [
        f"lost: {one.alert_id} was acknowledged ({one.answers}) and is not stored"
        for one in books.sent
        if one.is_acknowledged and not stored[one.alert_id]
    ]
    found += [f"doubled: {name} is stored {count} times" for name, count in taken.items() if count > 1]
    return found + [f"invented: {name} is stored and was never sent" for name in stored if name not in names]


def no_order_twice(books: Books) -> list[str]:
    """The exchange accepted each client order id at most once, and the bridge shows every one that it accepted."""
    accepted = Counter(event["client_order_id"] for event in _accepted(books.journal))
    known = {order["clientOrderId"] for order in books.orders}
    found = [f"doubled: {name} was accepted {count} times" for name, count in accepted.items() if count > 1]
    return found + [
        f"invented: {name} is at the exchange and not in the list" for name in accepted if name not in known
    ]


def _accepted(journal: Iterable[Row]) -> list[Row]:
    """Orders of the bridge that the exchange accepted."""
    return [
        event
        for event in journal
        if event["event"] == "order_accepted" and str(event["client_order_id"]).startswith("kb-")
    ]


def nothing_beyond_the_alert(books: Books) -> list[str]:
    """What the entries of an alert executed at the exchange is at most the quantity that it asked for in coins."""
    executed = books.executed()
    ids = {alert["id"]: alert["alertId"] for alert in books.alerts}
    entered: defaultdict[str, Decimal] = defaultdict(Decimal)
    for order in books.orders:
        if order["purpose"] == "entry":
            entered[ids.get(order["alertId"], "")] += executed.get(order["clientOrderId"], Decimal(0))
    return [
        f"doubled: {one.alert_id} asked for {one.body['quantity']} and got {entered[one.alert_id]}"
        for one in books.sent
        if one.body.get("action") in ("buy", "sell", "add")
        and one.body.get("quantityType", "base") == "base"
        and "prevMarketPosition" not in one.body  # the strategy's position is then what it asks for
        and entered[one.alert_id] > Decimal(str(one.body.get("quantity") or "0"))
    ]


# ------------------------------------------------------------------------------------------------------- one view of it all


def every_alert_ended(books: Books) -> list[str]:
    """Every alert has a final status, except one whose order is open at the exchange."""
    open_names = _open_at_exchange(books)
    resting = {order["alertId"] for order in books.orders if order["clientOrderId"] in open_names}
    return [
        f"waiting: {alert['alertId']} is {alert['status']}"
        for alert in books.alerts
        if alert["status"] not in ENDED and alert["id"] not in resting
    ]


def every_order_ended(books: Books) -> list[str]:
    """No order waits to be sent or looked up, except a leg behind one of its alert that is open at the exchange."""
    open_names = _open_at_exchange(books)
    resting = {order["alertId"] for order in books.orders if order["clientOrderId"] in open_names}
    return [
        f"waiting: order {order['clientOrderId']} is {order['status']}"
        for order in books.orders
        if order["finishedAt"] is None
        and order["status"] in ("queued", "submitting", "unknown")
        and (order["afterLeg"] is None or order["alertId"] not in resting)
    ]


def _open_at_exchange(books: Books) -> dict[str, Row]:
    """The bridge's orders that are open at the exchange, by client order id; of a bracket its entry."""
    rows = [*books.state["open_orders"], *books.state["open_algo_orders"]]
    return {
        row["client_order_id"]: row
        for row in rows
        if str(row.get("client_order_id")).startswith("kb-") and _status(row) in _OPEN
    }


def _status(row: Row) -> str:
    return str(row.get("status") or row.get("root_algo_status") or row.get("algo_status"))


def executions_agree(books: Books) -> list[str]:
    """Per order both agree on the executed quantity; one that was accepted is not called denied, rejected, unknown or expired."""
    executed = books.executed()
    accepted = {event["client_order_id"] for event in _accepted(books.journal)}
    # A stop may be accepted, and what it sends when it is triggered refused.
    refused = {
        event["client_order_id"] for event in books.journal if event["event"] == "order_refused" and event["order_id"]
    }
    found: list[str] = []
    for order in books.orders:
        name, shown = order["clientOrderId"], Decimal(order["executedQuantity"])
        actual = executed.get(name, Decimal(0))
        if shown != actual:
            found.append(f"view: {name} ({order['status']}) shows {shown} executed, the exchange has {actual}")
        wrong = ("unknown", "expired", "denied", *(() if name in refused else ("rejected",)))
        if name in accepted and order["status"] in wrong:
            found.append(f"view: {name} shows {order['status']} and was accepted at the exchange")
    return found


def open_orders_agree(books: Books) -> list[str]:
    """The orders that the bridge shows as resting are those that are open at the exchange."""
    at_exchange = _open_at_exchange(books)
    shown = {order["clientOrderId"]: order["status"] for order in books.orders if order["status"] in _RESTING}
    found = [
        f"view: {name} is {status}, and not open at the exchange"
        for name, status in shown.items()
        if name not in at_exchange
    ]
    return found + [
        f"view: {name} is open at the exchange and not shown so" for name in at_exchange if name not in shown
    ]


def fills_agree(books: Books) -> list[str]:
    """Every fill of the exchange is stored once, with its price, quantity, fee and realized P&L."""
    shown = {str(fill["tradeId"]): fill for fill in books.fills}
    found: list[str] = []
    actual = {str(event["trade_id"]): event for event in books.journal if event["event"] == "fill"}
    for name, event in actual.items():
        fill = shown.get(name)
        if fill is None:
            found.append(
                f"fill missing: {name} {event['symbol']} {event['side']} {event['quantity']}, order {event['order_id']}"
            )
            continue
        for ours, theirs in (
            ("price", "price"),
            ("quantity", "quantity"),
            ("fee", "fee"),
            ("realizedPnl", "realized_pnl"),
        ):
            if Decimal(fill[ours] or 0) != Decimal(event[theirs] or 0):
                found.append(f"fill {name}: {ours} is {fill[ours]}, the exchange says {event[theirs]}")
    found += [f"fill {name} is stored, and unknown to the exchange" for name in shown if name not in actual]
    if len(shown) != len(books.fills):
        found.append(f"fills: {len(books.fills)} rows of {len(shown)} trades")
    return found


def money_agrees(books: Books) -> list[str]:
    """Realized P&L, fees and funding are exactly the sums of the exchange's journal."""
    sums = {"realizedPnl": _sum(books, "fill", "realized_pnl"), "fees": _sum(books, "fill", "fee")}
    sums["funding"] = _sum(books, "funding", "funding_fee")
    return [
        f"money: {name} is {books.stats[name]}, the exchange's sum is {actual}"
        for name, actual in sums.items()
        if Decimal(books.stats[name] or 0) != actual
    ]


def _sum(books: Books, event: str, name: str) -> Decimal:
    total = Decimal(0)
    for row in books.journal:
        if row["event"] == event:
            total = _EXACT.add(total, Decimal(row[name] or 0))
    return total


def positions_agree(books: Books) -> list[str]:
    """The positions that the bridge shows are those of the exchange, and those are the sums of its fills."""
    actual = {symbol: Decimal(quantity) for symbol, quantity in books.state["positions"].items() if Decimal(quantity)}
    shown = {row["symbol"]: Decimal(row["quantity"]) for row in books.positions if Decimal(row["quantity"])}
    filled: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in books.journal:
        if event["event"] == "fill":
            filled[event["symbol"]] += _signed(event)
    found = [] if shown == actual else [f"positions: shown {shown}, at the exchange {actual}"]
    summed = {symbol: quantity for symbol, quantity in filled.items() if quantity}
    return found if summed == actual else [*found, f"positions: the fills add up to {summed}, not {actual}"]


def _signed(event: Row) -> Decimal:
    return Decimal(event["quantity"]) * (1 if event["side"] == "BUY" else -1)


def alerts_add_up(books: Books) -> list[str]:
    """Every alert that was received is in exactly one group of the statistics."""
    counts = books.stats["counts"]
    groups = sum(counts[name] for name in ("refused", "duplicate", "expired", "done", "unknown", "waiting"))
    return [] if groups == counts["received"] else [f"counts: {groups} in groups, {counts['received']} received"]


def days_add_up(books: Books) -> list[str]:
    """When no order is open, a webhook has used of its limits of a day what its orders traded, and one order for each accepted entry."""
    days = {event["t"] // _DAY_MS for event in books.journal}
    if len(days) != 1 or _open_at_exchange(books):
        return []
    traded = books.traded()
    accepted = {event["client_order_id"] for event in _accepted(books.journal)}
    names = {alert["webhookId"]: alert["webhookName"] for alert in books.alerts}
    orders: Counter[str] = Counter()
    values: defaultdict[str, Decimal] = defaultdict(Decimal)
    for order in books.orders:
        webhook = names[order["webhookId"]]
        orders[webhook] += order["purpose"] == "entry" and order["clientOrderId"] in accepted
        values[webhook] += traded.get(order["clientOrderId"], (Decimal(0), Decimal(0)))[1]
    found: list[str] = []
    for scope in books.risk["scopes"]:
        for line in scope["limits"] if scope["scope"] == "webhook" else ():
            actual = {"orders a day": Decimal(orders[scope["name"]]), "traded a day": values[scope["name"]]}.get(
                line["name"]
            )
            if actual is not None and abs(_number(line["used"]) - actual) > _CENTS:
                found.append(
                    f"totals: {scope['name']} has used {line['used']} of {line['name']}, the exchange's sum is {actual}"
                )
    return found


# ------------------------------------------------------------------------------------------------------- protection, limits


def _exposures(books: Books) -> dict[str, Exposure]:
    return Exposure.replay(event for event in books.journal if event.get("symbol") in books.guarded)


def longest_naked_s(books: Books) -> float | None:
    """The longest time that a position in a guarded market was larger than its stops, outages not counted; None without positions."""
    times = [
        books.without_outages(start, end)
        for exposure in _exposures(books).values()
        for start, end in exposure.naked_times()
    ]
    return max(times, default=0) / 1000 if books.guarded else None


def stops_cover(books: Books) -> list[str]:
    """At the end the stops in guarded markets cover the position."""
    return [
        f"naked: {symbol} holds {exposure.position}, stops cover {exposure.covered()}"
        for symbol, exposure in _exposures(books).items()
        if exposure.is_naked
    ]


def no_exit_without_position(books: Books) -> list[str]:
    """No protective order stays in a market without a position."""
    held = {symbol for symbol, quantity in books.state["positions"].items() if Decimal(quantity)}
    protective = {order["clientOrderId"] for order in books.orders if order["purpose"] == "protect"}
    return [
        f"orphan: {name} stays in {row['symbol']}, which is flat"
        for name, row in _open_at_exchange(books).items()
        if name in protective and row["symbol"] not in held
    ]


def limits_hold(books: Books) -> list[str]:
    """No position was larger than its webhook allows, and no entry followed the loss that closes its webhook."""
    found: list[str] = []
    for cap in books.caps:
        if cap.max_position is not None:
            found += _position_breaches(books, cap, cap.max_position)
        if cap.max_daily_loss is not None:
            found += _loss_breaches(books, cap, cap.max_daily_loss)
    return found


def _position_breaches(books: Books, cap: Cap, limit: Decimal) -> list[str]:
    held: defaultdict[str, Decimal] = defaultdict(Decimal)
    found: list[str] = []
    for event in books.journal:
        if event["event"] == "fill" and event["symbol"] in cap.symbols:
            held[event["symbol"]] += _signed(event)
            if abs(held[event["symbol"]]) > limit:
                found.append(f"limit: {cap.webhook} holds {held[event['symbol']]} {event['symbol']}, allowed {limit}")
    return found


def _loss_breaches(books: Books, cap: Cap, limit: Decimal) -> list[str]:
    """Entries that reached the exchange though the loss had been above the limit all the time for GRACE_MS of answering time."""
    entries = {order["clientOrderId"] for order in books.orders if order["purpose"] == "entry"}
    marks: dict[str, Decimal] = {}
    held: defaultdict[str, Decimal] = defaultdict(Decimal)
    cash = Decimal(0)
    above_since: int | None = None
    found: list[str] = []
    for event in books.journal:
        symbol = event.get("symbol")
        if symbol not in cap.symbols:
            continue
        if event["event"] == "order_received" and event["client_order_id"] in entries and above_since is not None:
            late = books.without_outages(above_since, event["t"])
            if late > GRACE_MS:
                found.append(
                    f"limit: {event['client_order_id']} of {cap.webhook} came {late} ms after its loss of the day"
                )
        if event["event"] == "price":
            marks[symbol] = Decimal(event["price"])
        elif event["event"] == "fill":
            held[symbol] += _signed(event)
            cash -= _signed(event) * Decimal(event["price"])
            marks.setdefault(symbol, Decimal(event["price"]))
        loss = -(cash + sum((held[one] * marks[one] for one in marks), Decimal(0)))
        if loss <= limit:
            above_since = None
        elif above_since is None:
            above_since = int(event["t"])
    return found


def longest_exit_delay_s(books: Books) -> tuple[float, str]:
    """The longest time that a position stayed open after the alert that closes it, until its exit arrived at the exchange, and the order.

    Outages are not counted, nor is the time before the position was opened: an exit may follow its own entry at once.
    """
    received = {alert["id"]: milliseconds(alert["receivedAt"]) for alert in books.alerts}
    arrived: dict[str, int] = {}
    held: defaultdict[str, list[tuple[int, Decimal]]] = defaultdict(list)  # by symbol: since when, which position
    for event in books.journal:
        if event["event"] == "order_received" and event["client_order_id"]:
            arrived.setdefault(event["client_order_id"], int(event["t"]))
        elif event["event"] == "fill":
            before = held[event["symbol"]][-1][1] if held[event["symbol"]] else Decimal(0)
            held[event["symbol"]].append((int(event["t"]), before + _signed(event)))
    delays = [
        (_closable_ms(books, held[order["symbol"]], order["side"], start, arrived[name]) / 1000, name)
        for order in books.orders
        if order["purpose"] == "exit"
        and order["afterLeg"] is None
        and (name := order["clientOrderId"]) in arrived
        and (start := received.get(order["alertId"])) is not None
    ]
    return max(delays, default=(0.0, ""))


def _closable_ms(books: Books, held: list[tuple[int, Decimal]], side: str, start_ms: int, end_ms: int) -> int:
    """How long between two times there was a position that an order of this side reduces, ms; outages not counted."""
    sign = 1 if side == "BUY" else -1
    ends = [at for at, _ in held[1:]] + [end_ms]
    times = (
        [
            (max(at, start_ms), min(until, end_ms))
            for (at, position), until in zip(held, ends, strict=True)
            if position * sign < 0
        ]
        if held
        else []
    )
    return sum(books.without_outages(start, end) for start, end in times if end > start)


# -------------------------------------------------------------------------------------------------------- after everything


def all_is_flat(books: Books) -> list[str]:
    """After everything was cancelled and closed nothing is open at the exchange, and no limit is used by what is not there."""
    found = [
        f"flat: {symbol} {quantity} is still open"
        for symbol, quantity in books.state["positions"].items()
        if Decimal(quantity)
    ]
    found += [f"flat: order {name} is still open" for name in _open_at_exchange(books)]
    for scope in books.risk["scopes"]:
        found += [
            f"room: {scope['name']} still uses {line['used']} of {line['name']}"
            for line in scope["limits"]
            if line["name"] in ("leverage", "open positions") and _number(line["used"])
        ]
    return found


def _number(text: str) -> Decimal:
    found = _AMOUNT.search(text)
    return Decimal(found[0].replace(",", "")) if found else Decimal(0)
