"""Check the client certificate that a TLS proxy reports: TradingView presents one, which is pinned by its fingerprint.

An additional check: it proves "TradingView", never "this trader". The subject proves nothing, since anyone can sign such a certificate; so
the fingerprint is compared, and it counts only if a trusted proxy reports it (docs/internals/tradingview.md section 5).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
import urllib.parse
from collections.abc import Iterable

from kekbridge.errors import ConfigError

FINGERPRINT_HEADER = "X-Client-Certificate-SHA256"  # Caddy: {http.request.tls.client.fingerprint}
CERTIFICATE_HEADER = "X-Client-Certificate"  # nginx: $ssl_client_escaped_cert

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class PinnedCertificates:
    """SHA-256 fingerprints of the certificates that are allowed. Without any, no certificate is required."""

    def __init__(self, fingerprints: Iterable[str]) -> None:
        """Fingerprints in hex, colons allowed, as `openssl x509 -fingerprint -sha256` prints them. Raises ConfigError for anything else."""
        self._pinned = tuple(_parse_setting(text) for text in fingerprints)

    def __bool__(self) -> bool:
        return bool(self._pinned)

    def allows(self, fingerprint: str | None, certificate: str | None, *, from_proxy: bool) -> bool:
        """True if the request came with a pinned certificate, or none is required.

        `fingerprint`, `certificate`: the two headers, of which the proxy sets one and must overwrite what a sender put there; they count
        only with `from_proxy`, if the connection's peer is a trusted proxy.
        """
        if not self._pinned:
            return True
        if not from_proxy:
            return False
        presented = _parse_fingerprint(fingerprint) if fingerprint else _fingerprint_of(certificate)
        return any(hmac.compare_digest(pinned, presented) for pinned in self._pinned)


def _parse_setting(text: str) -> bytes:
    found = _parse_fingerprint(text)
    if not found:
        raise ConfigError(
            f"auth.client_certificates: {text[:80]!r} is not a SHA-256 fingerprint;"
            " expected 64 hex digits as `openssl x509 -noout -fingerprint -sha256` prints them",
            field="auth.client_certificates",
        )
    return found


def _parse_fingerprint(text: str) -> bytes:
    """The fingerprint's bytes; empty if the text is not a SHA-256 fingerprint."""
    digits = text.strip().rpartition("=")[2].replace(":", "").lower()
    return bytes.fromhex(digits) if _SHA256.fullmatch(digits) else b""


def _fingerprint_of(certificate: str | None) -> bytes:
    if not certificate:
        return b""
    try:
        der = ssl.PEM_cert_to_DER_cert(urllib.parse.unquote(certificate))
    except ValueError:
        return b""
    return hashlib.sha256(der).digest()
