"""An attacker as a process of its own: `python -m tests.system.attackers '{"port": 8080, "connections": 400, …}'`.

It prints one line when its attack is under way, and its counts as JSON when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.paths import ROOT

_WAIT_S = 60.0
_FILES = 8192
_AT_ONCE = 64  # connections that are being opened, else this process is too slow for its own handshakes


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What the attacker does on each of its connections."""

    port: int
    connections: int
    #: hold: open a connection, send `start` and wait, whatever happens then; again: the same, opened again when it is closed;
    #: post: send a request with `body` and read the response, over and over.
    kind: Literal["hold", "again", "post"]
    #: Sent at once, after the handshake if there is one.
    start: str = ""
    #: no TLS, the whole handshake, or its first byte only.
    tls: Literal["no", "yes", "first byte"] = "no"
    #: Text of one unit of the body, and how often it is repeated.
    body: str = ""
    repeat: int = 1
    path: str = "/api/webhooks/tradingview"
    #: X-Forwarded-For of each request; empty: none.
    forwarded_for: str = ""
    #: Addresses on this machine to connect from, in turn.
    sources: tuple[str, ...] = ("127.0.0.1",)
    headers: Mapping[str, str] = field(default_factory=dict)


class Attacker:
    """Runs one attack until it is stopped."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self.counts: Counter[str] = Counter()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        body = (attack.body * attack.repeat).encode()
        forwarded = f"X-Forwarded-For: {attack.forwarded_for}\r\n" if attack.forwarded_for else ""
        others = "".join(f"{name}: {value}\r\n" for name, value in attack.headers.items())
        head = (
            f"POST {attack.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{forwarded}{others}Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._open: list[asyncio.StreamWriter] = []
        self._connecting = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Attack until standard input is closed."""
        workers = [asyncio.create_task(self._work(number)) for number in range(self._attack.connections)]
        if self._attack.kind == "hold":
            await asyncio.gather(*workers)
        else:
            await asyncio.sleep(0.5)
        print("attacking", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        print(json.dumps(self.counts), flush=True)

    async def _work(self, number: int) -> None:
        source = self._attack.sources[number % len(self._attack.sources)]
        while True:
            try:
                async with self._connecting if self._attack.kind == "hold" else nullcontext(), asyncio.timeout(_WAIT_S):
                    reader, writer = await self._connect(source)
            except (OSError, TimeoutError):
                self.counts["refused"] += 1
                if self._attack.kind == "hold":
                    return
                await asyncio.sleep(0.05)
                continue
            self.counts["opened"] += 1
            if self._attack.kind == "hold":
                self._open.append(writer)  # kept, whatever happens to it
                return
            try:
                if self._attack.kind == "post":
                    await self._post(reader, writer)
                else:
                    await reader.read()
            except (OSError, asyncio.IncompleteReadError):
                self.counts["cut"] += 1
            finally:
                writer.close()

    async def _connect(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self._attack.port,
            local_addr=(source, 0),
            ssl=self._context if self._attack.tls == "yes" else None,
        )
        if self._attack.tls == "first byte":
            writer.write(b"\x16")
        if self._attack.start:
            writer.write(self._attack.start.encode())
        return reader, writer

    async def _post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the request again and again on this connection until it is closed."""
        while True:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            self.counts[head.split()[1]] += 1
            length = int(head.partition("content-length:")[2].split()[0])
            await reader.readexactly(length)


@contextmanager
def attacking(attack: Attack) -> Iterator[Counter[str]]:
    """Attack inside the block. The counter is filled at its end: `opened`, `refused`, `cut` connections, and responses by status."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.attackers", json.dumps(asdict(attack))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    counts: Counter[str] = Counter()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "attacking\n"
        yield counts
        said, _ = process.communicate(timeout=_WAIT_S)
        counts.update(json.loads(said))
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _main(text: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    options: dict[str, Any] = json.loads(text)
    options["sources"] = tuple(options["sources"])
    asyncio.run(Attacker(Attack(**options)).run())


if __name__ == "__main__":
    _main(sys.argv[1])
