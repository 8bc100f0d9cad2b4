"""TLS contexts from certificate files, reloaded when the files change; and which addresses may be served without TLS.

A webhook's secret crosses the network in every message, so plain HTTP on a public address is refused at start
(docs/internals/architecture.md section 4). Certificates are obtained in acme.py.
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
# Forward secrecy and authenticated encryption; no CBC suites. The suites of TLS 1.3 are all of that kind.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def check_bind(server: Server, tls: Tls) -> None:
    """Raise ConfigError, with three fixes, for plain HTTP on an address that others can reach."""
    if tls.cert or tls.key or tls.domain or server.behind_proxy or _is_loopback(server.host):
        return
    raise ConfigError(
        f"server.host {server.host} would receive secrets over plain HTTP from the network; either set tls.cert and tls.key"
        " (or --domain NAME, which gets a certificate),"
        " or put a TLS proxy in front and set server.behind_proxy = true, or listen on 127.0.0.1 (for a tunnel or a local proxy)",
        field="server.host",
    )


def serving_context(tls: Tls) -> ssl.SSLContext | None:
    """The context to serve with; None if no certificate is configured. Raises ConfigError if it cannot be used.

    The files are checked again at handshakes: a renewed certificate is used from then on, while a broken or half-written one leaves the old
    one in use.
    """
    if not (tls.cert or tls.key):
        return None
    if not (tls.cert and tls.key):
        missing = "tls.key" if tls.cert else "tls.cert"
        raise ConfigError(f"{missing} is not set: a certificate and its private key belong together", field=missing)
    return CertificateFiles(Path(tls.cert).expanduser(), Path(tls.key).expanduser()).context


class CertificateFiles:
    """A certificate chain and its key on disk, loaded into a new context when they change."""

    def __init__(self, cert: Path, key: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError if the files cannot be used now."""
        self._cert = cert
        self._key = key
        self._monotonic = monotonic
        self._loaded = self._file_versions()
        self._checked_at = monotonic()
        self._current = _load(cert, key)
        # The listener keeps this one for good; the callback switches each handshake to the current one.
        self.context = _load(cert, key)
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Load the files if they changed. True if new ones are in use; a failure is logged and the old ones stay."""
        versions = self._file_versions()
        if versions == self._loaded:
            return False
        try:
            self._current = _load(self._cert, self._key)
        except ConfigError as error:
            # `_loaded` stays: a half-written pair is tried again at the next check.
            log.error("certificate_not_loaded", error=error.message)
            return False
        self._loaded = versions
        log.info("certificate_loaded", file=str(self._cert))
        return True

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        now = self._monotonic()
        if now - self._checked_at >= _CHECK_EVERY_S:
            self._checked_at = now
            self.refresh()
        connection.context = self._current

    def _file_versions(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_file_version(path) for path in (self._cert, self._key))


def _file_version(path: Path) -> tuple[int, int, int] | None:
    """A value that changes when the file is rewritten or replaced, through a symbolic link too; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _load(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    for setting, path in (("tls.cert", cert), ("tls.key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{setting} {path} cannot be read: {error.strerror}", field=setting) from None
    try:
        # An encrypted key would prompt on the daemon's terminal; an empty password makes it fail instead.
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
    """True if every address of the host name is a loopback address. An empty host means every interface."""
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
