"""Checks of reachability from TradingView: DNS name, IPv4, port, certificate, and a request through the public URL back to us.

TradingView posts to ports 80 and 443 of IPv4 addresses and waits 3 s (docs/internals/tradingview.md section 1). The request carries no key.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import SplitResult, urlsplit

from kekbridge.config import Settings
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.ops.doctor.machine import expiry_check

_TRADINGVIEW_PORTS: Final = (80, 443)
_TRADINGVIEW_WAITS_S: Final = 3.0
_TIMEOUT_S: Final = 5.0


def public_url_checks(settings: Settings, now: datetime) -> Iterable[Check]:
    """Check each step in order; a broken one ends the list."""
    # With tls.domain the bridge is reached by that name; whichever port it listens on, TradingView uses 443.
    text = settings.server.public_url or (f"https://{settings.tls.domain}" if settings.tls.domain else "")
    if not text:
        fix = "set server.public_url once a tunnel or proxy forwards to this machine"
        yield Check(
            "public url",
            "ok" if settings.mode is Mode.PAPER else "warning",
            "server.public_url is not set: only this machine was checked",
            fix,
        )
        return
    url = urlsplit(text)
    malformed = _check_form(url)
    if malformed is not None:
        yield malformed
        return
    if url.scheme == "http":
        yield Check(
            "public url",
            "warning",
            f"{text} is plain HTTP: the key in each message can be intercepted",
            "use https",
        )
    addresses = _dns(url)
    yield addresses
    if addresses.level == "broken":
        return
    if url.scheme == "https":
        certificate = _certificate(url, now)
        yield certificate
        if certificate.level == "broken":
            return
    yield _loop(url)


def _check_form(url: SplitResult) -> Check | None:
    fix = 'write it as "https://bridge.example.com"'
    try:
        port = _port(url)
    except ValueError:
        return Check("public url", "broken", "server.public_url has no usable port", fix)
    if url.scheme not in ("http", "https") or not url.hostname:
        return Check("public url", "broken", "server.public_url is not an http or https URL", fix)
    if port not in _TRADINGVIEW_PORTS and not _is_local(url.hostname):
        text = f"port {port}: TradingView posts to ports 80 and 443 only"
        return Check("public url", "broken", text, "use a proxy or tunnel that listens on port 443")
    return None


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _dns(url: SplitResult) -> Check:
    host = str(url.hostname)
    try:
        found = socket.getaddrinfo(host, _port(url), type=socket.SOCK_STREAM)
    except OSError as error:
        return Check("dns", "broken", f"{host} has no address: {error.strerror or error}", "add an A record for it")
    v4 = sorted({str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET})
    if not v4:
        return Check(
            "dns", "broken", f"{host} has no IPv4 address; TradingView uses IPv4 only", "add an A record for it"
        )
    private = [address for address in v4 if not ipaddress.ip_address(address).is_global]
    if private:
        text = f"{host} is {private[0]}, an address that TradingView cannot reach"
        return Check("dns", "warning", text, "point it at the public address of the machine, tunnel or proxy")
    return Check("dns", "ok", f"{host} is {', '.join(v4)}")


def _certificate(url: SplitResult, now: datetime) -> Check:
    host, context = str(url.hostname), ssl.create_default_context()
    try:
        with (
            socket.create_connection((host, _port(url)), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            seen = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        fix = "serve a certificate of a public authority for this name, with its chain"
        return Check("public certificate", "broken", f"{host}: {error.verify_message}", fix)
    except OSError as error:
        text = f"no TLS connection to {host}:{_port(url)}: {error.strerror or error}"
        return Check("public certificate", "broken", text, "check firewall, tunnel and proxy")
    ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(seen["notAfter"])), UTC)
    return expiry_check("public certificate", f"the certificate of {host}", ends_at, now)


def _loop(url: SplitResult) -> Check:
    """Send a message without a key to the public URL: our own error must come back before TradingView would time out."""
    host, path = str(url.hostname), url.path.rstrip("/") + WEBHOOK_PATH
    began = time.monotonic()
    try:
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, _port(url), timeout=_TIMEOUT_S)
        try:
            connection.request("POST", path, body=b"{}", headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, body = answer.status, answer.read(65_536)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        text = f"{url.geturl()} does not answer: {error or type(error).__name__}"
        return Check("loop", "broken", text, "start the daemon; check firewall, tunnel and proxy")
    took = time.monotonic() - began
    if not _is_ours(body):
        text = f"{url.geturl()}{WEBHOOK_PATH} answered {status}, but not from kekbridge"
        return Check(
            "loop", "broken", text, "make the proxy forward POST requests to this path, unchanged and without redirect"
        )
    if took > _TRADINGVIEW_WAITS_S:
        text = f"it took {took:.1f} s; TradingView times out after {_TRADINGVIEW_WAITS_S:.0f} s"
        return Check("loop", "broken", text, "use a faster tunnel or proxy")
    return Check("loop", "ok", f"a message through {url.geturl()} came back in {took * 1000:.0f} ms")


def _is_ours(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    # The exchange's errors have `success` too, but a number as `code`.
    return isinstance(answer, dict) and answer.get("success") is False and isinstance(answer.get("code"), str)
