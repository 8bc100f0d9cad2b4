"""Attacks on a running daemon: `python -m tests.system.attack silent broken-json` prints what each one cost; without names it runs all.

While an attack is under way the owner sends signed alerts from another address, each on a connection of its own. Attacks that the owner may
share an address with are repeated from the attacker's. The exit code is 1 if an alert was not answered, or a figure is over its mark.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import http.client
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.paths import DATA
from tests.system.attackers import Attack, attacking
from tests.system.fuzz import own_kib
from tests.system.harness import WEBHOOK_PATH, BridgeProcess, bridge_process, free_port, unverified

OWNER, ATTACKER = "127.0.0.2", "127.0.0.1"
# Marks of a full run.
MOST_S, MOST_MIB, MOST_MIB_LEFT, MOST_KIB_WRITTEN = 1.0, 60.0, 20.0, 100.0
# 32 KB of JSON that takes longest to parse: it breaks off behind its last key.
BROKEN = "{" + ",".join(f'"key{number:04}":1' for number in range(2700))
# Garbage of a flood is given back 2 s after it, but at most once a minute: kekbridge/connections/server.py.
_SETTLE_S, _FEW_FILES = 75.0, 60
_WARM_UP = 10


@dataclass
class Figures:
    """What one attack cost."""

    name: str
    connections: int
    #: Seconds until each alert of the owner was answered, from another address and from the attacker's.
    elsewhere_s: list[float] = field(default_factory=list)
    shared_s: list[float] = field(default_factory=list)
    #: Alerts that were not answered with 200 or 202.
    unanswered: list[str] = field(default_factory=list)
    #: Memory that the daemon has filled before, at most during, and after the attack.
    before_mib: float = 0.0
    during_mib: float = 0.0
    after_mib: float = 0.0
    #: Most open files during the attack.
    files: int = 0
    #: Written to the daemon's log and files during the attack, besides what the owner's alerts write.
    written_kib: float | None = None
    attacker: Counter[str] = field(default_factory=Counter)

    def failures(self) -> list[str]:
        """What is over its mark in a full run."""
        found = list(self.unanswered)
        slowest = max([*self.elsewhere_s, *self.shared_s], default=0.0)
        if slowest > MOST_S:
            found.append(f"an alert took {slowest:.2f} s")
        if self.during_mib - self.before_mib > MOST_MIB:
            found.append(f"memory grew by {self.during_mib - self.before_mib:.0f} MiB")
        if self.written_kib is not None and self.written_kib > MOST_KIB_WRITTEN:
            found.append(f"{self.written_kib:.0f} KiB were written")
        return found


@dataclass(frozen=True)
class Effort:
    """How much of each attack is run: the owner's alerts meanwhile, seconds of `one-byte`, and seconds to calm down afterwards."""

    alerts: int
    one_byte_s: float
    calm_s: float


FULL = Effort(alerts=20, one_byte_s=10.0, calm_s=4.0)


class Target:
    """A daemon under attack, its owner, and the address of its attacker, which a next attack on the same daemon must not share."""

    def __init__(self, bridge: BridgeProcess, *, tls: bool = False, effort: Effort = FULL) -> None:
        self.bridge = bridge
        self.tls = tls
        self.effort = effort
        self.attacker = ATTACKER
        self._context = unverified()
        self._sent = 0
        self._at_rest_mib = 0.0

    @property
    def port(self) -> int:
        return self.bridge.port

    def alert(self, source: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Send a signed alert on a new connection from an address of this machine; return status and body."""
        self._sent += 1
        fields = self.bridge.alert(alertId=f"owner-{self._sent}", action=("buy", "sell")[self._sent % 2])
        body = json.dumps(fields).encode()
        proof = hmac.new(self.bridge.webhook["apiSecret"].encode(), body, hashlib.sha256).hexdigest()
        connection: http.client.HTTPConnection
        where: dict[str, Any] = {"timeout": 30, "source_address": (source, 0)}
        if self.tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._context, **where)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, **where)
        try:
            connection.request("POST", WEBHOOK_PATH, body, {"X-Webhook-Signature": proof, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def at_rest_mib(self, headers: dict[str, str] | None = None) -> float:
        """Memory before the first attack, after a few alerts: what is created once is not an attack's."""
        if not self._at_rest_mib:
            for _ in range(_WARM_UP):
                self.alert(OWNER, headers)
            self._at_rest_mib = self.memory_mib()
        return self._at_rest_mib

    def memory_mib(self) -> float:
        return own_kib(self.bridge.daemon.pid) / 1024

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.bridge.daemon.pid}/fd").iterdir()))

    def written_kib(self) -> float:
        """What the daemon has written to files so far, its log included."""
        for line in Path(f"/proc/{self.bridge.daemon.pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("this system does not count what a process writes")

    def written_at_rest_kib(self) -> float:
        """The same, once nothing was written for half a second: jobs of the start and what follows an alert are past then."""
        before = -1.0
        for _ in range(40):
            written = self.written_kib()
            if written == before:
                break
            before = written
            time.sleep(0.5)
        return before


def measure(
    target: Target,
    name: str,
    attack: Attack,
    *,
    shared: bool = False,
    headers: dict[str, str] | None = None,
) -> Figures:
    """Attack, and send the owner's alerts meanwhile; with `shared` also from the attacker's address."""
    figures = Figures(name, attack.connections)
    figures.before_mib = target.at_rest_mib(headers)
    with attacking(attack) as figures.attacker:
        for _ in range(target.effort.alerts):
            _send(target, figures, OWNER, figures.elsewhere_s, headers)
            if shared:
                _send(target, figures, target.attacker, figures.shared_s, headers)
            figures.during_mib = max(figures.during_mib, target.memory_mib())
            figures.files = max(figures.files, target.files())
            time.sleep(0.05)
    _settle(target, figures)
    return figures


def _send(
    target: Target, figures: Figures, source: str, seconds: list[float], headers: dict[str, str] | None = None
) -> None:
    started = time.perf_counter()
    status, body = target.alert(source, headers)
    seconds.append(time.perf_counter() - started)
    if status not in (200, 202):
        figures.unanswered.append(f"an alert from {source} was answered {status}: {body[:200]}")


def _settle(target: Target, figures: Figures) -> None:
    """Note the memory once the attack's connections are gone and the daemon has given back most of it, or has had the time to do so."""
    ends_at = time.monotonic() + _SETTLE_S
    is_calm_at = time.monotonic() + target.effort.calm_s
    while time.monotonic() < ends_at:
        figures.after_mib = target.memory_mib()
        is_calm = target.files() <= _FEW_FILES and figures.after_mib - figures.before_mib < MOST_MIB_LEFT
        if is_calm and time.monotonic() >= is_calm_at:
            return
        time.sleep(0.1)


# ------------------------------------------------------------------------------------------------------------ the attacks


def _attack(target: Target, size: int, kind: Literal["hold", "again", "post"], **options: Any) -> Attack:
    """Build an attack on the listener from the attacker's address, unless `options` have another port or other sources."""
    return Attack(**{"port": target.port, "sources": (target.attacker,), "connections": size, "kind": kind, **options})


def silent(target: Target, size: int) -> Figures:
    """Connections that never send a byte."""
    return measure(target, "silent", _attack(target, size, "hold"), shared=True)


def reconnecting(target: Target, size: int) -> Figures:
    """Silent connections, opened again as soon as they are closed."""
    return measure(target, "reconnecting", _attack(target, size, "again"))


def slow_heads(target: Target, size: int) -> Figures:
    """Requests whose head never ends."""
    start = "POST / HTTP/1.1\r\nHost: x\r\nX-A: "
    attack = _attack(target, size, "hold", start=start)
    return measure(target, "slow-heads", attack, shared=True)


def slow_bodies(target: Target, size: int) -> Figures:
    """Requests whose body never ends, on connections that are opened again."""
    start = f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + "{" * 30_000
    attack = _attack(target, size, "again", start=start)
    return measure(target, "slow-bodies", attack)


def broken_json(target: Target, size: int) -> Figures:
    """Bodies of 32 KB that are no JSON, as fast as they are answered."""
    attack = _attack(target, size, "post", body=BROKEN)
    return measure(target, "broken-json", attack)


def broken_json_addresses(target: Target, size: int) -> Figures:
    """The same from ten addresses."""
    sources = tuple(f"127.0.1.{number}" for number in range(1, 11))
    attack = _attack(target, size, "post", body=BROKEN, sources=sources)
    return measure(target, "broken-json-addresses", attack)


def forged(target: Target, size: int) -> Figures:
    """Well-formed alerts with a wrong signature."""
    alert = json.dumps({**target.bridge.alert(), "signature": "v1:apiKey:" + "0" * 64})
    return measure(target, "forged", _attack(target, size, "post", body=alert))


def one_byte(target: Target, size: int) -> Figures:
    """Bodies of one byte for ten seconds, fewer at a small size; what the daemon writes meanwhile."""
    figures = Figures("one-byte", size)
    before = target.written_at_rest_kib()
    figures.before_mib = target.memory_mib()
    with attacking(_attack(target, size, "post", body="x")) as figures.attacker:
        time.sleep(target.effort.one_byte_s)
        figures.during_mib, figures.files = target.memory_mib(), target.files()
    figures.written_kib = target.written_kib() - before
    _settle(target, figures)
    return figures


def handshakes(target: Target, size: int) -> Figures:
    """TLS connections that never send a byte after their handshake."""
    attack = _attack(target, size, "hold", tls="yes")
    return measure(target, "handshakes", attack, shared=True)


def half_handshakes(target: Target, size: int) -> Figures:
    """TLS connections that send the first byte of a handshake and no more."""
    attack = _attack(target, size, "hold", tls="first byte")
    return measure(target, "half-handshakes", attack, shared=True)


def silent_tls(target: Target, size: int) -> Figures:
    """Connections to the TLS port that never send a byte."""
    return measure(target, "silent-tls", _attack(target, size, "hold"), shared=True)


def broken_json_tls(target: Target, size: int) -> Figures:
    """Bodies of 32 KB that are no JSON, over TLS."""
    attack = _attack(target, size, "post", body=BROKEN, tls="yes")
    return measure(target, "broken-json-tls", attack)


def behind_proxy(target: Target, size: int) -> Figures:
    """Broken JSON through a trusted proxy, which has one address for the attacker and the owner."""
    attack = _attack(target, size, "post", body=BROKEN, forwarded_for="203.0.113.66")
    return measure(target, "behind-proxy", attack, headers={"X-Forwarded-For": "198.51.100.7"})


def web_pages(target: Target, size: int) -> Figures:
    """Silent connections to the web pages, which load again during and after it."""
    figures = Figures("web-pages", size)
    figures.before_mib = target.at_rest_mib()
    port = int(target.bridge.environment["KEKBRIDGE_ADMIN_PORT"])
    with attacking(_attack(target, size, "hold", port=port)) as figures.attacker:
        _load_page(target, figures, port)
        figures.during_mib, figures.files = target.memory_mib(), target.files()
    _load_page(target, figures, port)
    _settle(target, figures)
    return figures


def _load_page(target: Target, figures: Figures, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(target.attacker, 0))
    started = time.perf_counter()
    try:
        connection.request("GET", "/login")
        status = connection.getresponse().status
    except OSError:
        status = 0
    finally:
        connection.close()
    figures.shared_s.append(time.perf_counter() - started)
    if status != 200:
        figures.unanswered.append(f"the web page was answered {status}")


def paper_exchange(target: Target, size: int) -> Figures:
    """Silent connections to the paper exchange, on which the owner's alerts are executed."""
    attack = _attack(target, size, "hold", port=target.bridge.paper_port, sources=(ATTACKER,))
    return measure(target, "paper-exchange", attack)


def few_files(target: Target, size: int) -> Figures:
    """Silent connections to a daemon that may open 200 files."""
    return measure(target, "few-files", _attack(target, size, "hold"), shared=True)


@dataclass(frozen=True)
class Plan:
    """One attack, its number of connections in every test run and in a full one, and the daemon that it needs."""

    run: Callable[[Target, int], Figures]
    small: int
    full: int
    tls: bool = False
    prefix: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    #: True if its daemon must have nothing else to write.
    is_first: bool = False

    @property
    def daemon(self) -> tuple[object, ...]:
        """What its daemon differs in: plans with the same can attack one daemon after the other."""
        return self.tls, self.prefix, self.environment, self.is_first


_PROXIED = (("KEKBRIDGE_SERVER_BEHIND_PROXY", "true"), ("KEKBRIDGE_SERVER_TRUSTED_PROXIES", "127.0.0.0/8"))
ATTACKS: dict[str, Plan] = {
    "silent": Plan(silent, 400, 2000),
    "reconnecting": Plan(reconnecting, 100, 2000),
    "slow-heads": Plan(slow_heads, 400, 2000),
    "slow-bodies": Plan(slow_bodies, 100, 2000),
    "broken-json": Plan(broken_json, 40, 400),
    "broken-json-addresses": Plan(broken_json_addresses, 40, 400),
    "forged": Plan(forged, 40, 400),
    "one-byte": Plan(one_byte, 40, 400, is_first=True),
    "silent-tls": Plan(silent_tls, 400, 2000, tls=True),
    "half-handshakes": Plan(half_handshakes, 400, 2000, tls=True),
    "handshakes": Plan(handshakes, 300, 2000, tls=True),
    "broken-json-tls": Plan(broken_json_tls, 40, 400, tls=True),
    "behind-proxy": Plan(behind_proxy, 40, 400, environment=_PROXIED),
    "web-pages": Plan(web_pages, 100, 2000),
    "paper-exchange": Plan(paper_exchange, 600, 2000),
    "few-files": Plan(few_files, 250, 2000, prefix=("prlimit", "--nofile=200:200")),
}


@contextmanager
def under_attack(
    plan: Plan,
    directory: Path,
    effort: Effort = FULL,
    start: Callable[..., AbstractContextManager[BridgeProcess]] = bridge_process,
) -> Iterator[Target]:
    """Run the daemon that a plan needs. `start`: bridge_process, or forked_bridge for a plan without prefix."""
    environment = {"KEKBRIDGE_ADMIN_PORT": str(free_port()), **dict(plan.environment)}
    if plan.tls:
        certificate = DATA / "tls" / "first"
        environment |= {"KEKBRIDGE_TLS_CERT": f"{certificate}.pem", "KEKBRIDGE_TLS_KEY": f"{certificate}.key"}
    options: dict[str, Any] = {"environment": environment, "webhook_arguments": ("--rate-per-minute", "100000")}
    if plan.prefix:
        options["prefix"] = plan.prefix
    with start(directory, **options) as bridge:
        yield Target(bridge, tls=plan.tls, effort=effort)


def run(name: str, size: int | None = None) -> Figures:
    """Run one attack against a new bridge; `size`: connections, the full number if None."""
    plan = ATTACKS[name]
    with (
        tempfile.TemporaryDirectory(prefix="kekbridge-attack-") as directory,
        under_attack(plan, Path(directory)) as target,
    ):
        return plan.run(target, size or plan.full)


def row(figures: Figures) -> tuple[str, ...]:
    """Format the figures as a row of the table."""

    def slowest(seconds: list[float]) -> str:
        return f"{max(seconds):.2f} s" if seconds else "-"

    memory = f"{figures.before_mib:.0f}, {figures.during_mib:.0f}, {figures.after_mib:.0f}"
    written = "-" if figures.written_kib is None else f"{figures.written_kib:.0f}"
    counts = ", ".join(f"{name}: {count:,}" for name, count in sorted(figures.attacker.items()))
    answered = len(figures.elsewhere_s) + len(figures.shared_s) - len(figures.unanswered)
    return (
        figures.name,
        f"{figures.connections:,}",
        str(answered),
        slowest(figures.elsewhere_s),
        slowest(figures.shared_s),
        memory,
        str(figures.files),
        written,
        counts,
    )


COLUMNS = (
    "attack",
    "connections",
    "answered",
    "slowest, elsewhere",
    "slowest, same address",
    "MiB before, during, after",
    "files",
    "KiB written",
    "the attacker saw",
)


def main() -> int:
    """Run the named attacks at full size and print a table; return 1 if a figure is over its mark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", choices=[*ATTACKS, []], metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument("--connections", type=int)
    arguments = parser.parse_args()
    failures: list[str] = []
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for name in arguments.names or ATTACKS:
        figures = run(name, arguments.connections)
        print("| " + " | ".join(row(figures)) + " |", flush=True)
        failures += [f"{name}: {failure}" for failure in figures.failures()]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
