"""`serve --domain` as a process with a real ACME server: verified HTTPS, alerts over it, and a renewal meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import DEADLINE_S, bare_environment, starting
from tests.ingress.tls.pebble import DOMAIN, Pebble, needs_pebble, running_pebble
from tests.system.harness import WEBHOOK_PATH, timestamp, wait_until


@pytest.fixture
def pebble(tmp_path: Path) -> Iterator[Pebble]:
    """An ACME server whose certificates are due for renewal after 10 seconds."""
    with running_pebble(tmp_path / "pebble", validity_s=15) as authority:
        yield authority


class Sender:
    """A client that connects by domain name and verifies the certificate chain."""

    def __init__(self, port: int, trust: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self._connection = http.client.HTTPSConnection(DOMAIN, port, timeout=DEADLINE_S)
        self._connection.sock = self.socket = trust.wrap_socket(plain, server_hostname=DOMAIN)

    @property
    def certificate(self) -> bytes:
        return self.socket.getpeercert(binary_form=True) or b""

    def post(self, body: object) -> dict[str, object]:
        self._connection.request("POST", WEBHOOK_PATH, json.dumps(body))
        answer: dict[str, object] = json.loads(self._connection.getresponse().read())
        return answer

    def close(self) -> None:
        self._connection.close()


@needs_pebble
def test_a_domain_is_served_and_renewed(pebble: Pebble, tmp_path: Path) -> None:
    """The first certificate exists before the listener opens; the renewed one is served without dropping a connection; both are logged."""
    environment = bare_environment(tmp_path / "data") | {
        "KEKBRIDGE_SERVER_HOST": "127.0.0.1",
        "KEKBRIDGE_TLS_ACME_PORT": str(pebble.http_port),
    }
    arguments = ("--domain", DOMAIN, "--acme-directory", pebble.directory, "--acme-ca", str(pebble.ca_file))
    with starting(environment) as start:
        bridge = start("serve", *arguments, "--json")
        started = json.loads(bridge.line(lambda text: text.startswith("{")))
        port = int(started["url"].rpartition(":")[2])
        assert started["webhookUrl"] == f"https://{DOMAIN}:{port}{WEBHOOK_PATH}"
        name = started["webhook"]["name"]
        bridge.data("webhook", "edit", name, "--no-require-signature")
        trust = pebble.context(tmp_path)
        ping = {"apiKey": started["webhook"]["apiKey"], "action": "ping"}
        early = Sender(port, trust)
        assert early.post(ping | {"timestamp": timestamp()})["success"] is True

        def renewed() -> Sender | None:
            sender = Sender(port, trust)
            if sender.certificate != early.certificate:
                return sender
            sender.close()
            return None

        late = wait_until(renewed, deadline_s=90, what="the renewed certificate")
        answer = late.post(ping | {"alertId": "late", "timestamp": timestamp()})
        assert answer["success"] is True
        late.close()
        early.close()
        assert bridge.stop() == 0
        issued = [line for line in bridge.log if line and "certificate_issued" in line]
        assert len(issued) >= 2


def test_an_unreachable_acme_server_is_one_line(tmp_path: Path) -> None:
    """Without a certificate there is no listener: exit code 2, one line, and no plain HTTP instead."""
    environment = bare_environment(tmp_path / "data") | {"KEKBRIDGE_TLS_ACME_PORT": "0"}
    with starting(environment) as start:
        bridge = start("serve", "--domain", DOMAIN, "--acme-directory", "https://127.0.0.1:9/dir")
        assert bridge.process.wait(DEADLINE_S) == 2
        (line,) = [line for line in bridge.log if line and line.startswith("kekbridge: ")]
        assert f"no certificate for {DOMAIN}" in line
        assert not bridge.printed
