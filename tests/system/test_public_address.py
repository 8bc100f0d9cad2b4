"""The recipes of public-address.md work: real servers with the document's files, in front of a real bridge with the document's settings.

Only addresses, ports and the place of certificates are replaced. The sender connects from 127.0.0.2, so that it is not the proxy.
"""

from __future__ import annotations

import datetime
import hashlib
import http.client
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kekbridge.config import Server, load_settings
from tests.cli.processes import DEADLINE_S, Served, bare_environment, starting
from tests.paths import DATA, ROOT
from tests.system.harness import WEBHOOK_PATH, free_port, wait_until

DOCUMENT = (ROOT / "kekbridge" / "docs" / "public-address.md").read_text(encoding="utf-8")
RECIPES: dict[str, str] = dict(re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL))
HOST = "localhost"
#: Where the sender is, as a proxy sees it.
SENDER = "127.0.0.2"
FORGED = {"X-Forwarded-For": "52.89.214.238", "X-Client-Certificate-SHA256": "0" * 64}
LARGEST = 64 * 1024


def find(program: str) -> str | None:
    """The path of a program; those of the system's administrator are not on everyone's path."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")


def need(*programs: str) -> None:
    """Skip without these programs; in CI they must be installed."""
    missing = [program for program in programs if find(program) is None]
    assert not (missing and os.environ.get("CI")), f"not installed: {missing}"
    if missing:
        pytest.skip(f"needs Debian's package {missing[0]}")


@dataclass(frozen=True)
class Place:
    """A directory with a certificate for the name of all recipes and its authority, and a client's certificate."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    def recipe(self, name: str, **ports: int) -> str:
        """A block of the document, with this machine's name, ports and files."""
        text = RECIPES[name].replace("bridge.example.com", HOST)
        for pattern in (r"/etc/letsencrypt/live/localhost/", r"/etc/kekbridge/"):
            text = text.replace(pattern, f"{self.directory}/")
        for found, port in ports.items():
            text = text.replace(found.removeprefix("_"), str(port))
        return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A new authority has signed the server's certificate."""
    directory = tmp_path_factory.mktemp("place")
    directory.chmod(0o755)  # nginx's workers are another user
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def signed(text: str, key: Any, signer: Any, extension: Any) -> bytes:
        builder = x509.CertificateBuilder(name("authority"), name(text), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=60)).add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = signed("authority", authority, authority, x509.BasicConstraints(ca=True, path_length=None))
    (directory / "authority.pem").write_bytes(root)
    addresses = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    (directory / "fullchain.pem").write_bytes(
        signed(HOST, key, authority, x509.SubjectAlternativeName(addresses)) + root
    )
    form = serialization.PrivateFormat.PKCS8
    (directory / "privkey.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )
    return Place(directory)


@dataclass(frozen=True)
class Proxy:
    """A server that listens with TLS, and how a sender talks to it."""

    port: int
    #: PEM file of the authority that signed its certificate.
    authority: Path
    #: Name of the client certificate of the test data that the sender presents.
    client: str | None = None

    def showing(self, client: str | None) -> Proxy:
        """The same server for a sender with this client certificate."""
        return Proxy(self.port, self.authority, client)

    @property
    def trust(self) -> ssl.SSLContext:
        """A client that verifies name and chain."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.client:
            context.load_cert_chain(DATA / "tls" / f"{self.client}.pem", DATA / "tls" / f"{self.client}.key")
        return context

    def post(self, body: bytes, path: str = WEBHOOK_PATH, **headers: str) -> tuple[int, dict[str, Any]]:
        """POST as a sender that forges what a proxy would report; returns status and JSON (none: not the bridge's own)."""
        connection = http.client.HTTPSConnection(
            HOST, self.port, timeout=DEADLINE_S, context=self.trust, source_address=(SENDER, 0)
        )
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **FORGED, **headers})
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(text) if is_json else {}
        finally:
            connection.close()

    def dribble(self) -> bytes:
        """Send the head of a message and a part of its body, then wait; returns what the server says before it closes."""
        with (
            socket.create_connection((HOST, self.port), DEADLINE_S, source_address=(SENDER, 0)) as plain,
            self.trust.wrap_socket(plain, server_hostname=HOST) as connection,
        ):
            head = f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{{"
            connection.sendall(head.encode())
            answer = b""
            while more := connection.recv(65536):
                answer += more
            return answer


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    """Run a server in the foreground."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def ready(proxy: Proxy, log: Path) -> Proxy:
    """Wait until a server has a certificate: Caddy listens before it has obtained one."""

    def shakes_hands() -> bool:
        try:
            with (
                socket.create_connection((HOST, proxy.port), DEADLINE_S) as plain,
                proxy.trust.wrap_socket(plain, server_hostname=HOST),
            ):
                return True
        except OSError:  # ssl.SSLError, and the authority's file that is not there yet, too
            return False

    wait_until(shakes_hands, what=f"TLS on port {proxy.port}: {log.read_text()[-2000:]}")
    return proxy


@contextmanager
def caddy(place: Place, recipe: str, bridge_port: int, port: int) -> Iterator[Proxy]:
    """Caddy with a recipe's Caddyfile; its certificates come from an authority of its own instead of Let's Encrypt."""
    home = place.directory / recipe
    home.mkdir()
    options = f"admin off\nhttp_port {free_port()}\nhttps_port {port}\nlocal_certs\nskip_install_trust\n"
    file = home / "Caddyfile"
    file.write_text(f"{{\n{options}}}\n{place.recipe(recipe, _8080=bridge_port)}")
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]
    with running(command, home / "log", HOME=str(home), XDG_DATA_HOME=str(home), XDG_CONFIG_HOME=str(home)):
        root = home / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        yield ready(Proxy(port, root), home / "log")


@contextmanager
def nginx(place: Place, recipe: str, bridge_port: int, port: int) -> Iterator[Proxy]:
    """nginx with a recipe's server block inside the frame that Debian's nginx.conf gives it."""
    home = place.directory / recipe
    home.mkdir()
    paths = "".join(
        f"{kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    server = place.recipe(recipe, _8080=bridge_port, _443=port)
    file = home / "nginx.conf"
    file.write_text(
        f"daemon off;\nmaster_process off;\npid {home}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log {home}/access;\n{paths}{server}}}\n"
    )
    with running([str(find("nginx")), "-e", "stderr", "-p", str(home), "-c", str(file)], home / "log"):
        yield ready(Proxy(port, place.authority), home / "log")


SERVERS = {"caddy": caddy, "nginx": nginx}


@contextmanager
def serving_with(place: Place, *settings: str, **environment: str) -> Iterator[tuple[Served, int]]:
    """A paper bridge with these settings, and the port that it listens on."""
    data = place.directory / f"data-{free_port()}"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text("\n".join(settings))
    with starting(bare_environment(data) | environment) as start:
        bridge = start("serve", "--json")
        started = json.loads(bridge.line(lambda text: text.startswith("{")))
        yield bridge, int(started["url"].rpartition(":")[2])


class Alerts:
    """Signed messages as `template` writes them for TradingView, with their placeholders filled; each has another price."""

    def __init__(self, bridge: Served) -> None:
        options = ("--kind", "indicator", "--action", "buy", "--quantity", "0.001", "--symbol", "BTCUSDT.P")
        self._text = bridge.run("template", "default", *options).stdout
        self._prices = itertools.count(65_000)

    def next(self) -> bytes:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._text.replace("{{timenow}}", now).replace("{{close}}", str(next(self._prices))).encode()


def senders(bridge: Served) -> list[str]:
    """The addresses from which alerts came, as the bridge shows them."""
    return [one["remote"] for one in entries(bridge) if one["kind"] == "alert"]


def entries(bridge: Served) -> list[dict[str, Any]]:
    """What `kekbridge logs` shows."""
    return [json.loads(line) for line in bridge.run("logs", "--json").stdout.splitlines()]


def refused(bridge: Served, *expected: tuple[str, str]) -> None:
    """Wait until exactly these codes and senders of refused requests are in the log, which is written in the background."""

    def found() -> set[tuple[str, str]]:
        return {(one["code"], one["remote"]) for one in entries(bridge) if one["kind"] == "refusal"}

    wait_until(lambda: found() == set(expected), what=f"{found()} = {expected}")


def run_check(authority: Path, port: int) -> list[str]:
    """Run the document's curl lines, as they are; returns their outputs."""
    lines = RECIPES["public"].replace("https://bridge.example.com", f"https://{HOST}:{port}").splitlines()
    environment = os.environ | {"CURL_CA_BUNDLE": str(authority)}
    return [
        subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=True).stdout
        for line in lines
    ]


def assert_reached(bridge: Served, authority: Path, port: int) -> None:
    """The document's checks say what it says of them; `doctor` finds nothing broken on the way from the public address."""
    healthy, refused = run_check(authority, port)
    assert " 200" in healthy.splitlines()[0]
    assert healthy.endswith('{"status":"ok"}')
    assert " 401" in refused.splitlines()[0]
    assert '"code":"unauthorized"' in refused
    sent = bridge.run("webhook", "test", "default", "--url", f"https://{HOST}:{port}{WEBHOOK_PATH}")
    assert sent.returncode == 0, sent.stderr
    levels = {one["name"]: one["level"] for one in bridge.data("doctor")["checks"]}
    assert (levels["public certificate"], levels["loop"]) == ("ok", "ok")
    assert "proxy" not in levels


def test_the_recipes_of_proxies(place: Place) -> None:
    """A signed alert is filled and comes from its sender, a forged header is not believed, the bounds of size and time hold."""
    need("caddy", "nginx", "curl")
    ports = {name: free_port() for name in SERVERS}
    environment = {
        "KEKBRIDGE_SERVER_PUBLIC_URL": f"https://{HOST}:{ports['nginx']}",
        "SSL_CERT_FILE": str(place.authority),
    }
    with serving_with(place, RECIPES["proxy"], **environment) as (bridge, port), ExitStack() as stack:
        proxies = {name: stack.enter_context(run(place, name, port, ports[name])) for name, run in SERVERS.items()}
        pool = stack.enter_context(ThreadPoolExecutor())
        slow = {name: pool.submit(proxy.dribble) for name, proxy in proxies.items()}
        alerts = Alerts(bridge)
        for name, proxy in proxies.items():
            status, answer = proxy.post(alerts.next())
            assert (status, answer["status"]) == (200, "filled"), name
            assert proxy.post(b"{}")[0] == 401, name
            assert proxy.post(b" " * (LARGEST + 1))[0] == 413, name
        # Caddy passes on what the bridge says of a slow sender; nginx closes its connection.
        assert b" 408 " in slow["caddy"].result().splitlines()[0]
        assert slow["nginx"].result() == b""
        assert senders(bridge) == [SENDER, SENDER]
        refused(bridge, ("api_key_missing", SENDER), ("body_too_large", SENDER), ("body_timeout", SENDER))
        assert_reached(bridge, place.authority, ports["nginx"])


def test_the_recipes_for_client_certificates(place: Place) -> None:
    """The pinned certificate passes; none, another one and a forged header are refused, and the answer names the one that came."""
    need("caddy", "nginx")
    pinned, other = (
        hashlib.sha256(ssl.PEM_cert_to_DER_cert((DATA / "tls" / f"{name}.pem").read_text())).hexdigest()
        for name in ("first", "second")
    )
    (zeros,) = re.findall(r"\b0{64}\b", RECIPES["client_certificate"])
    settings = RECIPES["client_certificate"].replace(zeros, pinned)
    forged = {"X-Client-Certificate-SHA256": pinned}
    with serving_with(place, RECIPES["proxy"], settings) as (bridge, port), ExitStack() as stack:
        alerts = Alerts(bridge)
        for name, run in SERVERS.items():
            proxy = stack.enter_context(run(place, f"{name}_client_certificate", port, free_port()))
            status, answer = proxy.showing("first").post(alerts.next())
            assert (status, answer["status"]) == (200, "filled"), name
            for client, reason in ((None, "no client certificate was presented"), ("second", other)):
                status, answer = proxy.showing(client).post(alerts.next(), **forged)
                assert (status, answer["code"]) == (403, "certificate_not_allowed"), name
                assert reason in answer["error"], name
        refused(bridge, ("certificate_not_allowed", SENDER))
        assert senders(bridge) == [SENDER, SENDER]


def test_the_recipe_for_an_own_certificate(place: Place) -> None:
    """The bridge serves TLS itself; nobody's X-Forwarded-For is believed."""
    need("curl")
    port = free_port()
    environment = {
        "KEKBRIDGE_SERVER_PORT": str(port),
        "KEKBRIDGE_SERVER_PUBLIC_URL": f"https://{HOST}:{port}",
        "SSL_CERT_FILE": str(place.authority),
    }
    with serving_with(place, place.recipe("certificate", _443=port), **environment) as (bridge, listening_on):
        assert listening_on == port
        sender = Proxy(port, place.authority)
        status, answer = sender.post(Alerts(bridge).next())
        assert (status, answer["status"]) == (200, "filled")
        assert senders(bridge) == [SENDER]
        assert sender.post(b" " * (LARGEST + 1))[0] == 413
        assert_reached(bridge, place.authority, port)


def test_the_recipes_that_are_not_run_are_well_formed() -> None:
    """The settings of a domain are those of `serve --domain`, which test_domain.py runs; a tunnel leads to the bridge's default port."""
    settings = load_settings(environment={}, overrides=tomllib.loads(RECIPES["domain_settings"]))
    tunnel = yaml.safe_load(RECIPES["cloudflared"])
    assert RECIPES["domain"].split() == ["kekbridge", "serve", "--domain", settings.tls.domain]
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 443)  # noqa: S104 - only read
    ours, others = tunnel["ingress"]
    assert ours == {"hostname": settings.tls.domain, "service": f"http://127.0.0.1:{Server().port}"}
    assert list(others) == ["service"]
