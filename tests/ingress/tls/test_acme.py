"""Certificates by themselves: obtained from a real ACME authority, kept, renewed in time, and not hammered for when it fails."""

from __future__ import annotations

import asyncio
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.config import Tls
from kekbridge.errors import ConfigError
from kekbridge.ingress.tls.acme import AutoCertificate, check_domain
from kekbridge.ingress.tls.acme_client import ChallengeServer, Validity, read_validity
from kekbridge.ingress.tls.context import serving_context
from tests.ingress.tls.pebble import DOMAIN, Pebble, needs_pebble, running_pebble
from tests.system.harness import clean_environment, free_port
from tests.waiting import until

# The older library that the development tools' own pins allow still reads its request by pyOpenSSL, and says so at every turn.
pytestmark = [
    pytest.mark.filterwarnings("ignore:CSR support in pyOpenSSL is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The next major version of josepy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority whose certificates live for 12 seconds: they are due for renewal after 8."""
    with running_pebble(tmp_path_factory.mktemp("pebble"), validity_s=12) as authority:
        yield authority


class Bridge:
    """What the daemon builds around a certificate, with a clock that can be set and the news it tells."""

    def __init__(self, place: Path, **settings: object) -> None:
        self.shift = timedelta(0)
        self.news: list[tuple[str, dict[str, str]]] = []
        self.certificate = AutoCertificate(
            Tls.model_validate({"domain": DOMAIN} | settings),
            place,
            host="127.0.0.1",
            clock=lambda: datetime.now(UTC) + self.shift,
            report=self.report,
        )

    async def report(self, kind: str, details: dict[str, str]) -> None:
        self.news.append((kind, details))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.news]


def at(pebble: Pebble) -> dict[str, object]:
    return {
        "acme_directory": pebble.directory,
        "acme_ca_file": str(pebble.ca_file),
        "acme_port": pebble.http_port,
        "acme_email": "trader@example.com",
    }


async def peer_certificate(tls: Tls, trust: ssl.SSLContext, name: str = DOMAIN) -> bytes:
    """The certificate that a server with these settings shows to a client that checks chain and name."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving_context(tls))
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return bytes(shown)


@needs_pebble
async def test_a_certificate_is_obtained_kept_and_renewed(pebble: Pebble, tmp_path: Path) -> None:
    """The authority really connects; the chain verifies for the name; a restart asks nobody; when it is time there is a new one."""
    bridge = Bridge(tmp_path, **at(pebble))
    await bridge.certificate.ensure()
    trust = pebble.context(tmp_path)
    first = await peer_certificate(bridge.certificate.tls, trust)
    assert bridge.kinds == ["certificate_renewed"]
    again = Bridge(tmp_path, **at(pebble) | {"acme_directory": pebble.directory, "acme_port": free_port()})
    await again.certificate.ensure()
    assert again.news == []
    renewing = asyncio.create_task(bridge.certificate.run())
    try:
        await until(lambda: len(bridge.news) > 1)
    finally:
        renewing.cancel()
    assert bridge.kinds[:2] == ["certificate_renewed", "certificate_renewed"]
    assert await peer_certificate(bridge.certificate.tls, trust) != first
    for file in (tmp_path / "acme").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600), file


@needs_pebble
async def test_the_account_is_found_again(pebble: Pebble, tmp_path: Path) -> None:
    """A second certificate uses the account of the first: its key is kept."""
    bridge = Bridge(tmp_path, **at(pebble))
    await bridge.certificate.ensure()
    (account,) = (tmp_path / "acme").rglob("account.pem")
    key = account.read_bytes()
    await bridge.certificate.renew()
    assert account.read_bytes() == key
    assert bridge.kinds == ["certificate_renewed", "certificate_renewed"]


@needs_pebble
async def test_an_unreachable_answer_is_told_and_not_hammered(pebble: Pebble, tmp_path: Path) -> None:
    """When port 80 leads elsewhere the authority's own words are shown, and a restart loop does not ask again at once."""
    wrong = at(pebble) | {"acme_port": free_port()}
    with pytest.raises(ConfigError) as refused:
        await Bridge(tmp_path, **wrong).certificate.ensure()
    assert f"could not verify {DOMAIN}" in refused.value.message
    assert "port 80" in refused.value.message
    with pytest.raises(ConfigError) as again:
        await Bridge(tmp_path, **at(pebble)).certificate.ensure()
    assert "the next attempt is due" in again.value.message
    later = Bridge(tmp_path, **at(pebble))
    later.shift = timedelta(seconds=61)
    await later.certificate.ensure()
    assert later.kinds == ["certificate_renewed"]
    assert read_validity(later.certificate.file.read_bytes()).domains == {DOMAIN}


async def test_a_failing_renewal_warns_and_keeps_what_is_there(tmp_path: Path) -> None:
    """While the authority is away the old certificate stays, every failure is told with the days left, and pauses grow."""
    bridge = Bridge(tmp_path, acme_directory=f"https://127.0.0.1:{free_port()}/dir", acme_port=free_port())
    with pytest.raises(ConfigError) as refused:
        await bridge.certificate.ensure()
    assert "cannot be used" in refused.value.message
    pauses = []
    for _ in range(4):
        due = bridge.certificate._next_attempt_at()
        pauses.append(due - (datetime.now(UTC) + bridge.shift))
        bridge.shift += pauses[-1] + timedelta(seconds=1)
        told = len(bridge.news)
        renewing = asyncio.create_task(bridge.certificate.run())
        try:
            await until(lambda told=told: len(bridge.news) > told)  # type: ignore[misc]
        finally:
            renewing.cancel()
    assert bridge.kinds == ["certificate_not_renewed"] * 4
    assert bridge.news[0][1]["days_left"] == "0.0"
    assert [round(pause / timedelta(minutes=1)) for pause in pauses] == [1, 2, 4, 8]


def test_renewal_is_due_with_a_third_left() -> None:
    """90 days are renewed after 60: what fails for weeks still leaves weeks."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    validity = Validity(frozenset({DOMAIN}), start, start + timedelta(days=90))
    assert validity.renew_at == start + timedelta(days=60)


async def test_the_challenge_server_serves_answers_and_nothing_else() -> None:
    """Only published paths, only to GET; everything else is 404 without a redirect; closed at the end."""
    async with ChallengeServer("127.0.0.1", 0) as server:
        server.publish("/.well-known/acme-challenge/token", "token.thumb")
        assert (await ask(server.port, "GET /.well-known/acme-challenge/token")).endswith(b"\r\n\r\ntoken.thumb")
        for request in (
            "GET /",
            "POST /api/webhooks/tradingview",
            "GET /.well-known/acme-challenge/other",
            "POST /.well-known/acme-challenge/token",
            "GET /.well-known/acme-challenge/%74oken",
        ):
            answer = await ask(server.port, request)
            assert answer.startswith(b"HTTP/1.1 404 "), request
            assert b"\r\nLocation:" not in answer
    with pytest.raises(OSError):
        await ask(server.port, "GET /")


async def ask(port: int, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{request} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_a_taken_port_is_one_line() -> None:
    """Port 80 of another server, or without the right to open it: the line names the ways out."""
    async with ChallengeServer("127.0.0.1", 0) as first:
        with pytest.raises(ConfigError) as refused:
            await ChallengeServer("127.0.0.1", first.port).__aenter__()
    assert "CAP_NET_BIND_SERVICE" in refused.value.message
    assert "tls.acme_port" in refused.value.message


@pytest.mark.parametrize(
    "name", ["", "localhost", "203.0.113.7", "*.example.com", "a..b", "-a.example.com", "x" * 64 + ".com"]
)
def test_names_that_no_authority_takes(name: str) -> None:
    """Refused here: an attempt at the authority would only be counted."""
    with pytest.raises(ConfigError) as refused:
        check_domain(name)
    assert refused.value.field == "tls.domain"


def test_names_are_normal() -> None:
    """Case and the root's dot do not matter."""
    assert check_domain(" Bridge.Example.COM. ") == "bridge.example.com"


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"cert": "a", "key": "b"}, "tls.domain"), ({"acme_directory": "http://plain/dir"}, "tls.acme_directory")],
)
def test_contradicting_settings(tmp_path: Path, settings: dict[str, object], field: str) -> None:
    """A certificate of one's own and a domain exclude each other; an authority is asked over HTTPS only."""
    with pytest.raises(ConfigError) as refused:
        Bridge(tmp_path, **settings)
    assert refused.value.field == field


def test_libraries_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    """A broken installation fails the attempt, with what mends it; a renewal that meets it must not end the daemon."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").write_text("import sys\nsys.no_such_thing\n")
    script = (
        "from pathlib import Path\n"
        "from kekbridge.errors import KekbridgeError\n"
        "from kekbridge.ingress.tls.acme_client import Authority\n"
        "try: Authority('https://127.0.0.1:9', '', '', Path('none')).issue('a.example.com', lambda *_: None)\n"
        "except KekbridgeError as error: print(error.message)"
    )
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install --upgrade" in done.stdout
    assert done.stdout.count("\n") == 1
