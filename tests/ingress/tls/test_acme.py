"""Automatic certificates are obtained from a real ACME authority, kept and renewed in time; failures are retried with growing pauses."""

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

# The older library that the development tools' pins allow still reads its request by pyOpenSSL, and warns each time.
pytestmark = [
    pytest.mark.filterwarnings("ignore:CSR support in pyOpenSSL is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The next major version of josepy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority whose certificates are valid for 12 seconds: they are due for renewal after 8."""
    with running_pebble(tmp_path_factory.mktemp("pebble"), validity_s=12) as authority:
        yield authority


class Domain:
    """An automatic certificate as the daemon builds it, with a clock that can be moved and its recorded reports."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        self.shift = timedelta(0)
        self.reports: list[tuple[str, dict[str, str]]] = []
        self.certificate = AutoCertificate(
            Tls.model_validate({"domain": DOMAIN} | settings),
            data_dir,
            host="127.0.0.1",
            clock=lambda: datetime.now(UTC) + self.shift,
            report=self.report,
        )

    async def report(self, kind: str, details: dict[str, str]) -> None:
        self.reports.append((kind, details))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.reports]


def at(pebble: Pebble) -> dict[str, object]:
    return {
        "acme_directory": pebble.directory,
        "acme_ca_file": str(pebble.ca_file),
        "acme_port": pebble.http_port,
        "acme_email": "trader@example.com",
    }


async def peer_certificate(tls: Tls, trust: ssl.SSLContext, name: str = DOMAIN) -> bytes:
    """The certificate that a server with these settings presents to a client that checks chain and name."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving_context(tls))
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
        presented = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return bytes(presented)


@needs_pebble
async def test_a_certificate_is_obtained_kept_and_renewed(pebble: Pebble, tmp_path: Path) -> None:
    """The authority really connects; the chain verifies for the name; a restart requests nothing; when it is due it is renewed."""
    domain = Domain(tmp_path, **at(pebble))
    await domain.certificate.ensure()
    trust = pebble.context(tmp_path)
    first = await peer_certificate(domain.certificate.tls, trust)
    assert domain.kinds == ["certificate_renewed"]
    again = Domain(tmp_path, **at(pebble) | {"acme_directory": pebble.directory, "acme_port": free_port()})
    await again.certificate.ensure()
    assert again.reports == []
    renewing = asyncio.create_task(domain.certificate.run())
    try:
        await until(lambda: len(domain.reports) > 1)
    finally:
        renewing.cancel()
    assert domain.kinds[:2] == ["certificate_renewed", "certificate_renewed"]
    assert await peer_certificate(domain.certificate.tls, trust) != first
    for file in (tmp_path / "acme").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600), file


@needs_pebble
async def test_the_account_is_reused(pebble: Pebble, tmp_path: Path) -> None:
    """A second certificate uses the account of the first: its key is kept."""
    domain = Domain(tmp_path, **at(pebble))
    await domain.certificate.ensure()
    (account,) = (tmp_path / "acme").rglob("account.pem")
    key = account.read_bytes()
    await domain.certificate.renew()
    assert account.read_bytes() == key
    assert domain.kinds == ["certificate_renewed", "certificate_renewed"]


@needs_pebble
async def test_a_failed_challenge_is_reported_and_not_retried_at_once(pebble: Pebble, tmp_path: Path) -> None:
    """If port 80 leads elsewhere the authority's own error is shown, and a restart loop does not try again at once."""
    wrong = at(pebble) | {"acme_port": free_port()}
    with pytest.raises(ConfigError) as refused:
        await Domain(tmp_path, **wrong).certificate.ensure()
    assert f"could not verify {DOMAIN}" in refused.value.message
    assert "port 80" in refused.value.message
    with pytest.raises(ConfigError) as again:
        await Domain(tmp_path, **at(pebble)).certificate.ensure()
    assert "the next attempt is due" in again.value.message
    later = Domain(tmp_path, **at(pebble))
    later.shift = timedelta(seconds=61)
    await later.certificate.ensure()
    assert later.kinds == ["certificate_renewed"]
    assert read_validity(later.certificate.file.read_bytes()).domains == {DOMAIN}


async def test_a_failed_renewal_warns_and_keeps_the_old_certificate(tmp_path: Path) -> None:
    """While the authority is unreachable the old certificate stays, every failure is reported with the days left, and pauses grow."""
    domain = Domain(tmp_path, acme_directory=f"https://127.0.0.1:{free_port()}/dir", acme_port=free_port())
    with pytest.raises(ConfigError) as refused:
        await domain.certificate.ensure()
    assert "cannot be used" in refused.value.message
    pauses = []
    for _ in range(4):
        due = domain.certificate._next_attempt_at()
        pauses.append(due - (datetime.now(UTC) + domain.shift))
        domain.shift += pauses[-1] + timedelta(seconds=1)
        known = len(domain.reports)
        renewing = asyncio.create_task(domain.certificate.run())
        try:
            await until(lambda known=known: len(domain.reports) > known)  # type: ignore[misc]
        finally:
            renewing.cancel()
    assert domain.kinds == ["certificate_not_renewed"] * 4
    assert domain.reports[0][1]["days_left"] == "0.0"
    assert [round(pause / timedelta(minutes=1)) for pause in pauses] == [1, 2, 4, 8]


def test_renewal_is_due_with_a_third_left() -> None:
    """90 days are renewed after 60: weeks of failures still leave weeks."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    validity = Validity(frozenset({DOMAIN}), start, start + timedelta(days=90))
    assert validity.renew_at == start + timedelta(days=60)


async def test_the_challenge_server_serves_published_paths_only() -> None:
    """To GET only; everything else is 404 without a redirect; it is closed at the end."""
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
    """Port 80 in use, or without the right to open it: the line names the fixes."""
    async with ChallengeServer("127.0.0.1", 0) as first:
        with pytest.raises(ConfigError) as refused:
            await ChallengeServer("127.0.0.1", first.port).__aenter__()
    assert "CAP_NET_BIND_SERVICE" in refused.value.message
    assert "tls.acme_port" in refused.value.message


@pytest.mark.parametrize(
    "name", ["", "localhost", "203.0.113.7", "*.example.com", "a..b", "-a.example.com", "x" * 64 + ".com"]
)
def test_names_that_no_authority_accepts(name: str) -> None:
    """Refused here: an attempt would only count against the authority's limits."""
    with pytest.raises(ConfigError) as refused:
        check_domain(name)
    assert refused.value.field == "tls.domain"


def test_names_are_normalised() -> None:
    """Case and the root's dot are removed."""
    assert check_domain(" Bridge.Example.COM. ") == "bridge.example.com"


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"cert": "a", "key": "b"}, "tls.domain"), ({"acme_directory": "http://plain/dir"}, "tls.acme_directory")],
)
def test_contradicting_settings(tmp_path: Path, settings: dict[str, object], field: str) -> None:
    """Certificate files and a domain exclude each other; an authority is used over HTTPS only."""
    with pytest.raises(ConfigError) as refused:
        Domain(tmp_path, **settings)
    assert refused.value.field == field


def test_incompatible_libraries_are_one_line(tmp_path: Path) -> None:
    """A broken installation fails the attempt, with the fix; a renewal that meets it must not end the daemon."""
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
