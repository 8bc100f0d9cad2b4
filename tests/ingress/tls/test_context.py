"""TLS: secrets never cross a network in the clear, and a renewed certificate is used without dropping a connection."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from kekbridge.config import Server, Tls
from kekbridge.errors import ConfigError
from kekbridge.ingress.tls.context import CertificateFiles, check_bind, serving_context
from tests.ingress.listening import PATH, Reply, listening
from tests.paths import DATA
from tests.waiting import until

CERTIFICATES = DATA / "tls"  # self-signed, for tests only
REQUEST = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()


class Disk:
    """A certificate and a key on disk, and the clock that decides when they are checked again."""

    def __init__(self, directory: Path, name: str = "first") -> None:
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.now = 0.0
        self.put("pem", name)
        self.put("key", name)

    def put(self, kind: str, name: str) -> None:
        """Replace one of the two files, as certbot does: a new file under the old name."""
        target = self.cert if kind == "pem" else self.key
        fresh = target.with_suffix(".new")
        shutil.copyfile(CERTIFICATES / f"{name}.{kind}", fresh)
        fresh.replace(target)

    def files(self) -> CertificateFiles:
        return CertificateFiles(self.cert, self.key, monotonic=lambda: self.now)


def trusting(name: str) -> ssl.SSLContext:
    """A client context that trusts this certificate only."""
    return ssl.create_default_context(cafile=str(CERTIFICATES / f"{name}.pem"))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write(REQUEST)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    await reader.readexactly(int(Reply(head).headers["content-length"]))
    return Reply(head).status


async def serves(port: int, name: str) -> bool:
    """True if a new connection is answered with that certificate."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(name))
    except ssl.SSLCertVerificationError:
        return False
    try:
        return await ask(reader, writer) == 202
    finally:
        writer.close()


def test_every_cipher_is_authenticated(tmp_path: Path) -> None:
    """No CBC suite is offered, and no key exchange without forward secrecy."""
    offered = [cipher["name"] for cipher in Disk(tmp_path).files().context.get_ciphers()]
    assert offered
    for name in offered:
        assert name.startswith(("ECDHE-", "TLS_")), name
        assert "GCM" in name or "CHACHA20" in name, name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_are_served(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Senders may know only the older one; it gets the same suites."""
    async with listening(Server(port=0), ssl_context=Disk(tmp_path).files().context) as server:
        trusted = trusting("first")
        trusted.maximum_version = trusted.minimum_version = version
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusted)
        assert await ask(reader, writer) == 202
        writer.close()


async def test_a_renewed_certificate_is_used_without_dropping_connections(tmp_path: Path) -> None:
    """New connections get the new certificate; the one that is open goes on."""
    disk = Disk(tmp_path)
    patient = Server(port=0, idle_timeout_s=30)
    async with listening(patient, ssl_context=disk.files().context) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting("first"))
        assert await ask(reader, writer) == 202
        disk.put("pem", "second")
        disk.put("key", "second")
        assert await serves(server.port, "first"), "files are checked once a second, not at every handshake"
        disk.now += 1
        assert await serves(server.port, "second")
        assert not await serves(server.port, "first")
        assert await ask(reader, writer) == 202
        writer.close()


async def test_a_half_written_pair_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    """A certificate whose key has not arrived yet, an empty file, a missing file: the old pair is served until both match."""
    disk = Disk(tmp_path)
    async with listening(ssl_context=disk.files().context) as server:
        disk.put("pem", "second")
        disk.now += 1
        assert await serves(server.port, "first")
        disk.key.unlink()
        disk.now += 1
        assert await serves(server.port, "first")
        disk.key.write_bytes(b"")
        disk.now += 1
        assert await serves(server.port, "first")
        disk.put("key", "second")
        disk.now += 1
        assert await serves(server.port, "second")


async def test_a_client_with_sni_gets_the_same_certificate(tmp_path: Path) -> None:
    """The certificate does not depend on the host name."""
    async with listening(ssl_context=Disk(tmp_path).files().context) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trusting("first"), server_hostname="first.kekbridge.test"
        )
        assert await ask(reader, writer) == 202
        writer.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused(tmp_path: Path) -> None:
    """TLS 1.2 is the minimum."""
    async with listening(ssl_context=Disk(tmp_path).files().context) as server:
        client = trusting("first")
        client.set_ciphers("ALL:@SECLEVEL=0")
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=client)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=client)
        assert await ask(reader, writer) == 202
        writer.close()


@pytest.mark.parametrize(
    "junk", [b"", REQUEST, b"\x16\x03\x01\xff\xff", b"\x00" * 500], ids=["silence", "plain HTTP", "half", "zeros"]
)
async def test_a_connection_without_a_handshake_is_cut(tmp_path: Path, junk: bytes) -> None:
    """Plain HTTP is not redirected, a silent peer is not waited for; the next sender is served."""
    async with listening(ssl_context=Disk(tmp_path).files().context) as server:
        assert b"HTTP" not in await server.send_raw(junk)
        assert await serves(server.port, "first")
        await until(lambda: server.connections == 0)


# -------------------------------------------------------------------------------------------------------------- settings


def test_no_certificate_means_plain_http() -> None:
    """Loopback and proxies need no certificate."""
    assert serving_context(Tls()) is None


def test_unusable_files_are_one_helpful_line(tmp_path: Path) -> None:
    """It names the file and what is wrong; an encrypted key never prompts."""
    disk = Disk(tmp_path)
    cases = [
        (Tls(cert=str(disk.cert)), "tls.key is not set"),
        (Tls(key=str(disk.key)), "tls.cert is not set"),
        (Tls(cert=str(tmp_path / "none.pem"), key=str(disk.key)), "none.pem cannot be read"),
        (Tls(cert=str(disk.cert), key=str(tmp_path)), "cannot be read"),
        (Tls(cert=str(disk.cert), key=str(CERTIFICATES / "second.key")), "does not belong"),
        (Tls(cert=str(disk.cert), key=str(CERTIFICATES / "encrypted.key")), "unencrypted private key"),
        (Tls(cert=str(disk.key), key=str(disk.key)), "not usable PEM"),
    ]
    for tls, expected in cases:
        with pytest.raises(ConfigError) as caught:
            serving_context(tls)
        assert expected in caught.value.message
        assert "\n" not in caught.value.message
    assert serving_context(Tls(cert=str(disk.cert), key=str(disk.key))) is not None


TLS = Tls(cert="cert.pem", key="key.pem")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_plain_http_is_allowed_on_loopback(host: str) -> None:
    """No other machine can listen in."""
    check_bind(Server(host=host), Tls())


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.5", "203.0.113.7", "2001:db8::1", "no.such.host.invalid"],  # noqa: S104 - refused ones
)
def test_a_public_address_needs_tls_or_a_proxy(host: str) -> None:
    """The error names three fixes; each of them works."""
    with pytest.raises(ConfigError) as caught:
        check_bind(Server(host=host), Tls())
    assert caught.value.exit_code == 2
    for fix in ("tls.cert", "server.behind_proxy", "127.0.0.1"):
        assert fix in caught.value.message
    check_bind(Server(host=host), TLS)
    check_bind(Server(host=host, behind_proxy=True), Tls())


async def test_a_handshake_under_way_is_finished_during_a_shutdown(tmp_path: Path) -> None:
    """A sender whose connection was accepted completes its handshake during the shutdown, and its alert is answered."""
    patient = Server(port=0, idle_timeout_s=30, shutdown_timeout_s=30)
    async with listening(patient, ssl_context=Disk(tmp_path).files().context) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await serves(
            server.port, "first"
        )  # connections are accepted in order, so the first one is accepted by now
        closing = asyncio.ensure_future(server.listener.close())
        await asyncio.sleep(0)
        await writer.start_tls(trusting("first"), server_hostname="127.0.0.1")
        assert not closing.done()
        assert await ask(reader, writer) == 202
        writer.close()
        await closing
