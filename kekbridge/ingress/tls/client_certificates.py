"""Check the client certificate that a TLS proxy reports: TradingView presents one, which is pinned by its fingerprint.

The proxy reports it in one header, which auth.client_certificate_header names: a second one would be a sender's to write.
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

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


class PinnedCertificates:
    """SHA-256 fingerprints of the certificates that are allowed. Without any, no certificate is required."""

    def __init__(self, fingerprints: Iterable[str], header: str = "") -> None:
        """Fingerprints in hex, colons allowed, as `openssl x509 -fingerprint -sha256` prints them; `header`: the one that is read.

        Raises ConfigError for anything else.
        """
        self._pinned = tuple(_parse_setting(text) for text in fingerprints)
        self.header = header
        if self._pinned and not _HEADER_NAME.fullmatch(header):
            raise ConfigError(
                f"auth.client_certificate_header: found {header[:80]!r}, expected the name of the header in which the proxy reports the"
                " client certificate, such as X-Client-Certificate-SHA256",
                field="auth.client_certificate_header",
            )

    def __bool__(self) -> bool:
        return bool(self._pinned)

    def refusal(self, presented: str | None, *, from_proxy: bool) -> str | None:
        """Why a request is refused; None if it came with a pinned certificate, or none is required. The fingerprint is named, to be pinned.

        `presented`: the header, which the proxy must overwrite if a sender put it there: a fingerprint in hex (Caddy:
        {http.request.tls.client.fingerprint}) or the certificate as URL-escaped PEM (nginx: $ssl_client_escaped_cert). It counts only with
        `from_proxy`, if the connection's peer is a trusted proxy.
        """
        if not self._pinned:
            return None
        if not from_proxy:
            return "client certificates are required, and only a proxy of server.trusted_proxies can report one"
        found = (_parse_fingerprint(presented) or _fingerprint_of(presented)) if presented else b""
        if not found:
            return "no client certificate was presented, or the proxy did not report it"
        if any(hmac.compare_digest(pinned, found) for pinned in self._pinned):
            return None
        return f"found the client certificate {found.hex()}, expected one of auth.client_certificates"


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


def _fingerprint_of(certificate: str) -> bytes:
    try:
        der = ssl.PEM_cert_to_DER_cert(urllib.parse.unquote(certificate))
    except ValueError:
        return b""
    return hashlib.sha256(der).digest()
