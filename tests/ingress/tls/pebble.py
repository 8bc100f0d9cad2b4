"""Run pebble, Let's Encrypt's test authority, and its test DNS server as processes; they really connect to the challenge server."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.system.harness import free_port, wait_until

DOMAIN = "bridge.example.com"
# In CI pebble must be installed; elsewhere the tests that need it are skipped.
needs_pebble = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("pebble") and shutil.which("pebble-challtestsrv")),
    reason="needs Debian's package pebble",
)


@dataclass(frozen=True)
class Pebble:
    """A running authority."""

    #: URL of its ACME directory.
    directory: str
    #: PEM file to trust its HTTPS by.
    ca_file: Path
    #: Port at which it looks for challenge responses.
    http_port: int
    #: PEM of the root that signs what it issues.
    root: str

    def context(self, place: Path) -> ssl.SSLContext:
        """A client context that trusts what this authority issues, and checks the name."""
        file = place / "root.pem"
        file.write_text(self.root)
        return ssl.create_default_context(cafile=str(file))


@contextmanager
def running_pebble(place: Path, *, validity_s: int = 90 * 86_400) -> Iterator[Pebble]:
    """Run an authority whose certificates are valid for `validity_s` seconds; every name resolves to 127.0.0.1."""
    place.mkdir(parents=True, exist_ok=True)
    cert, key = _own_certificate(place)
    api, management, http, dns, dns_management = (free_port() for _ in range(5))
    config = place / "pebble.json"
    config.write_text(
        json.dumps(
            {
                "pebble": {
                    "listenAddress": f"127.0.0.1:{api}",
                    "managementListenAddress": f"127.0.0.1:{management}",
                    "certificate": str(cert),
                    "privateKey": str(key),
                    "httpPort": http,
                    "tlsPort": free_port(),
                    "certificateValidityPeriod": validity_s,
                }
            }
        )
    )
    servers = [
        [
            *("pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"),
            *("-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{dns_management}"),
        ],
        ["pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{dns}"],
    ]
    # Its random pauses and refused nonces test clients; they would only make this test slow and its failures rare.
    environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
    with (place / "pebble.log").open("wb") as log:
        processes = [subprocess.Popen(one, env=environment, stdout=log, stderr=log) for one in servers]
    try:
        wait_until(lambda: _listens(api) and _listens(management), what="pebble")
        root = _fetch_root(management, cert)
        yield Pebble(f"https://127.0.0.1:{api}/dir", cert, http, root)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _fetch_root(port: int, ca_file: Path) -> str:
    """The root certificate that pebble created at this start."""
    context = ssl.create_default_context(cafile=str(ca_file))
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /roots/0 HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2].decode()


def _own_certificate(place: Path) -> tuple[Path, Path]:
    """Create a certificate for 127.0.0.1 for pebble's own HTTPS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pebble test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = place / "own.pem", place / "own.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return cert_file, key_file
