"""Fault injection: which faults are armed, and whether one applies now. The callers act on them.

`POST /paper/faults` takes one object or {"faults": [...]}; {} clears all. Fields of every fault: `path` and `method`
(exact; default: any), `count` (applies at most this often), `probability` with `seed`.

| fault | effect |
| --- | --- |
| lose_answer | the request is executed, then the connection is cut without a response |
| reset_before | the connection is cut before the request is read |
| reset_inside | the request is executed, then the connection is cut in the middle of the response |
| delay | wait `delay_ms` before (`when`: before) or after (`when`: after) the request is executed |
| rate_limit | 429, code -1003; nothing is executed; with `retry_after_s` a header Retry-After, of any length |
| server_error | `status` (500), `code` (-1000), `message`, `retry_after_s`; `when`: before or after the request is executed |
| html | a 403 page of HTML; `when`: before or after the request is executed |
| maintenance | system_info reports status 2 and order calls fail with -1011, until cleared |
| key_revoked | signed calls fail with -1002 |
| refuse | creates fail with `code` and `message`; `algo_type` and `symbol` limit it to algo orders of that type, or to one market |
| read_lag | orders and fills younger than `delay_ms` are invisible to GETs, until cleared |
| hide_orders | plain and algo orders are invisible to GETs, unlike their fills in `/v1/trades`, until cleared |
| partial_fills | orders fill in `parts` parts, some ms apart; `symbol` limits it |
| lose_order | a create is answered as accepted, with an id, but no order exists; `symbol` and `algo_type` limit it |
| lose_stop | the stop loss of a bracket is rejected when the entry fills; `symbol` limits it |
| no_fill | MARKET orders stay NEW, until cleared |
| duplicate_reports, reorder_reports, withhold_reports | private reports are sent twice, after the next one, never; `topic` limits it |
| stream_drop | private connections are cut at once; later ones when they connect or at the next report |
| stream_silence | nothing is sent on any stream, not even pings, until cleared |
| refuse_topic | a subscription of `topic` is refused |
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kekbridge.paper.codec import ApiError, parse_integer, parse_number

KINDS: Final = frozenset(
    {
        "lose_answer",
        "reset_before",
        "reset_inside",
        "delay",
        "rate_limit",
        "server_error",
        "html",
        "maintenance",
        "read_lag",
        "duplicate_reports",
        "reorder_reports",
        "withhold_reports",
        "stream_drop",
        "stream_silence",
        "partial_fills",
        "no_fill",
        "key_revoked",
        "refuse",
        "lose_order",
        "hide_orders",
        "lose_stop",
        "refuse_topic",
    }
)


@dataclass(slots=True)
class Fault:
    """One armed fault. Without `count` and `probability` it applies every time until cleared."""

    #: One of KINDS.
    kind: str
    #: Request path that it applies to; None: any.
    path: str | None = None
    #: HTTP method that it applies to; None: any.
    method: str | None = None
    #: Symbol that it applies to; None: any.
    symbol: str | None = None
    #: Algo order type that it applies to; None: any.
    algo_type: str | None = None
    #: How many more times it applies; None: no limit.
    count: int | None = None
    #: Probability that it applies, 0 to 1; None: always.
    probability: float | None = None
    #: Delay or lag in ms.
    delay_ms: int = 0
    #: Whether it applies "before" or "after" the request is executed.
    when: str = "before"
    #: Number of partial fills.
    parts: int = 2
    #: Error code of the response.
    code: int = -1000
    #: Error message of the response.
    message: str = "fault injected by POST /paper/faults"
    #: HTTP status of the response; None: that of the code.
    status: int | None = None
    #: Header Retry-After of the response, seconds; None: not sent.
    retry_after_s: int | None = None
    #: Stream topic that it applies to; None: any.
    topic: str | None = None
    #: Random numbers for `probability`.
    rng: random.Random = field(default_factory=random.Random)

    def as_json(self) -> dict[str, object]:
        """Return the fault as `GET /paper/faults` shows it."""
        probability = None if self.probability is None else str(self.probability)
        return {
            "fault": self.kind,
            "path": self.path,
            "method": self.method,
            "symbol": self.symbol,
            "algo_type": self.algo_type,
            "count": self.count,
            "probability": probability,
            "delay_ms": self.delay_ms,
            "when": self.when,
            "parts": self.parts,
            "code": self.code,
            "retry_after_s": self.retry_after_s,
            "topic": self.topic,
        }


class Faults:
    """The armed faults, in the order in which they were armed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.armed: list[Fault] = []

    def arm(self, body: Mapping[str, Any]) -> None:
        """Arm one fault or every fault of a `faults` list; `{}` clears all. ApiError -1005 for an invalid one."""
        if not body:
            self.armed.clear()
            return
        listed = body.get("faults", [body])
        if not isinstance(listed, list):
            raise ApiError(-1005, "faults must be a list of objects.")
        self.armed.extend([self._parse(one, index) for index, one in enumerate(listed)])

    def _parse(self, body: object, index: int) -> Fault:
        if not isinstance(body, Mapping):
            raise ApiError(-1005, "Each fault must be an object.")
        kind = body.get("fault", body.get("kind"))
        if kind not in KINDS:
            raise ApiError(-1005, f"fault is {kind!r}; expected one of {', '.join(sorted(KINDS))}.")
        chance = parse_number(body.get("probability"), "probability")
        when = str(body.get("when", "before"))
        if when not in ("before", "after"):
            raise ApiError(-1005, "when must be before or after.")
        seed = parse_integer(body.get("seed"), "seed")
        unknown = set(body) - {*Fault.__slots__, "fault", "kind", "seed"}
        if unknown:
            raise ApiError(-1005, f"unknown field {sorted(unknown)[0]!r} in a fault.")
        return Fault(
            kind=str(kind),
            path=body.get("path"),
            method=str(body["method"]).upper() if body.get("method") else None,
            symbol=body.get("symbol"),
            algo_type=body.get("algo_type"),
            count=parse_integer(body.get("count"), "count"),
            probability=None if chance is None else float(chance),
            delay_ms=parse_integer(body.get("delay_ms"), "delay_ms") or 0,
            when=when,
            parts=parse_integer(body.get("parts", body.get("n")), "parts") or 2,
            code=parse_integer(body.get("code"), "code") or -1000,
            message=str(body.get("message", "fault injected by POST /paper/faults")),
            status=parse_integer(body.get("status"), "status"),
            retry_after_s=parse_integer(body.get("retry_after_s"), "retry_after_s"),
            topic=body.get("topic"),
            rng=random.Random((self.seed + index) if seed is None else seed),
        )

    def is_armed(self, kind: str) -> bool:
        """Return whether a fault of this kind is armed; does not count as a hit."""
        return any(fault.kind == kind for fault in self.armed)

    def find(self, kind: str) -> Fault | None:
        """Return the first armed fault of this kind, if any; does not count as a hit."""
        return next((fault for fault in self.armed if fault.kind == kind), None)

    def hit(
        self,
        kind: str,
        *,
        method: str = "",
        path: str = "",
        when: str | None = None,
        algo_type: str | None = None,
        topic: str | None = None,
        symbol: str | None = None,
    ) -> Fault | None:
        """Return the first fault of this kind that matches and applies now, and count the hit; None without one."""
        for fault in self.armed:
            if fault.kind != kind or (when is not None and fault.when != when):
                continue
            if fault.path is not None and fault.path != path:
                continue
            if fault.method is not None and fault.method != method:
                continue
            if fault.algo_type is not None and fault.algo_type != algo_type:
                continue
            if fault.topic is not None and fault.topic != topic:
                continue
            if fault.symbol is not None and symbol is not None and fault.symbol != symbol:
                continue
            if self._fires(fault):
                return fault
        return None

    def _fires(self, fault: Fault) -> bool:
        if fault.probability is not None and fault.rng.random() >= fault.probability:
            return False
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self.armed.remove(fault)
        return True

    def fill_parts(self, symbol: str) -> int:
        """Return the number of fills of an order of this symbol, and count the hit; 1 without the fault."""
        for fault in self.armed:
            if fault.kind == "partial_fills" and fault.symbol in (None, symbol) and self._fires(fault):
                return max(fault.parts, 1)
        return 1

    def read_lag_ms(self) -> int:
        """Return how long new orders and fills are invisible to reads, ms; 0 without the fault."""
        fault = self.find("read_lag")
        return fault.delay_ms if fault else 0
