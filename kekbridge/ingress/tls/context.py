"""Serves HTTPS from certificate files and takes up renewed ones without dropping a connection; decides which addresses may do without.

A webhook's secret crosses the network in every message, so plain HTTP on a public address is refused at start
(docs/internals/architecture.md section 4).
Getting certificates is not done here.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from kekbridge.config import Server, Tls
from kekbridge.errors import ConfigError
from kekbridge.log import get_logger

log = get_logger("kekbridge.ingress.tls.context")

_CHECK_EVERY_S = 1.0


def check_bind(server: Server, tls: Tls) -> None:
    """Refuse to serve plain HTTP where strangers can listen. Raises ConfigError with the three ways out."""
    if tls.cert or tls.key or tls.domain or server.behind_proxy or _is_loopback(server.host):
        return
    raise ConfigError(
        f"server.host {server.host} would take secrets over plain HTTP from the network; either set tls.cert and tls.key"
        " (or --domain NAME, which gets a certificate),"
        " or put a TLS proxy in front and set server.behind_proxy = true, or listen on 127.0.0.1 (for a tunnel or a local proxy)",
        field="server.host",
    )


def serving_context(tls: Tls) -> ssl.SSLContext | None:
    """The context to serve with, None when no certificate is configured. Raises ConfigError when it cannot be used.

    It looks at the files again when somebody connects: a renewed certificate is in use from the next handshake on, while a broken or
    half-written one leaves the old in place.
    """
    if not (tls.cert or tls.key):
        return None
    if not (tls.cert and tls.key):
        missing = "tls.key" if tls.cert else "tls.cert"
        raise ConfigError(f"{missing} is not set: a certificate and its private key belong together", field=missing)
    return CertificateFiles(Path(tls.cert).expanduser(), Path(tls.key).expanduser()).context


class CertificateFiles:
    """A certificate chain and its key on disk, as contexts that are replaced whole."""

    def __init__(self, cert: Path, key: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError when the files cannot be used now."""
        self._cert = cert
        self._key = key
        self._monotonic = monotonic
        self._seen = self._signs()
        self._checked_at = monotonic()
        self._current = _load(cert, key)
        # The listener keeps this one for good; the callback hands each handshake to the newest.
        self.context = _load(cert, key)
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Load the files if they changed. True when new ones are in use; a failure is logged and the old ones stay."""
        signs = self._signs()
        if signs == self._seen:
            return False
        try:
            self._current = _load(self._cert, self._key)
        except ConfigError as error:
            # Not remembered as seen: a half-written pair is tried again at the next look.
            log.error("certificate_not_loaded", error=error.message)
            return False
        self._seen = signs
        log.info("certificate_loaded", file=str(self._cert))
        return True

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        now = self._monotonic()
        if now - self._checked_at >= _CHECK_EVERY_S:
            self._checked_at = now
            self.refresh()
        connection.context = self._current

    def _signs(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_sign(path) for path in (self._cert, self._key))


def _sign(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is rewritten or replaced, also through a symbolic link."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _load(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for setting, path in (("tls.cert", cert), ("tls.key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{setting} {path} cannot be read: {error.strerror}", field=setting) from None
    try:
        # An encrypted key would prompt on the terminal of a daemon; an empty password makes it fail instead.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        reason = (
            "the key does not belong to the certificate" if "MISMATCH" in str(error.reason) else "not usable PEM files"
        )
        raise ConfigError(
            f"tls.cert {cert} and tls.key {key}: {reason}; expected a certificate with its chain and an unencrypted private key",
            field="tls.cert",
        ) from None
    return context


def _is_loopback(host: str) -> bool:
    """True when every address the name stands for is this machine's own. No host at all means every interface."""
    if not host:
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
