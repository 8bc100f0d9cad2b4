"""TradingView's client certificate is pinned by fingerprint, and counts only if a trusted proxy reports it."""

from __future__ import annotations

import hashlib
import ssl
import urllib.parse

import pytest

from kekbridge.errors import ConfigError
from kekbridge.ingress.tls.client_certificates import PinnedCertificates
from tests.ingress.listening import QUICK, listening
from tests.paths import DATA

PEM = (DATA / "tls" / "first.pem").read_text()
OTHER_PEM = (DATA / "tls" / "second.pem").read_text()
FINGERPRINT = hashlib.sha256(ssl.PEM_cert_to_DER_cert(PEM)).hexdigest()
COLONS = ":".join(FINGERPRINT[i : i + 2] for i in range(0, 64, 2)).upper()


@pytest.mark.parametrize("setting", [FINGERPRINT, COLONS, f"sha256 Fingerprint={COLONS}"])
def test_a_pinned_certificate_is_allowed_in_either_header_form(setting: str) -> None:
    """As openssl prints it, as Caddy passes it (fingerprint) or as nginx does (the certificate itself, escaped)."""
    pinned = PinnedCertificates((setting,))
    assert pinned.allows(FINGERPRINT, None, from_proxy=True)
    assert pinned.allows(COLONS, None, from_proxy=True)
    assert pinned.allows(None, urllib.parse.quote(PEM), from_proxy=True)


@pytest.mark.parametrize(
    ("fingerprint", "certificate"),
    [
        (None, None),
        ("", ""),
        ("0" * 64, None),
        (FINGERPRINT[:-1], None),
        (FINGERPRINT + ", " + FINGERPRINT, None),
        (None, "junk"),
        (None, urllib.parse.quote(OTHER_PEM)),
        (None, "-----BEGIN CERTIFICATE-----%0A!!!%0A-----END CERTIFICATE-----"),
        ("\udcff", "\udcff"),
        ("0" * 64, urllib.parse.quote(PEM)),
    ],
)
def test_any_other_certificate_is_refused(fingerprint: str | None, certificate: str | None) -> None:
    """No certificate, another one, junk, or the header twice because the proxy did not overwrite a sender's."""
    assert not PinnedCertificates((FINGERPRINT,)).allows(fingerprint, certificate, from_proxy=True)


def test_the_header_counts_from_a_trusted_proxy_only() -> None:
    """Any sender can write a header. Without pins no certificate is needed."""
    assert not PinnedCertificates((FINGERPRINT,)).allows(FINGERPRINT, None, from_proxy=False)
    assert PinnedCertificates(()).allows(None, None, from_proxy=False)


@pytest.mark.parametrize("text", ["", "abc", "0" * 63, "g" * 64, "0" * 40])
def test_a_wrong_pin_is_an_error_at_start(text: str) -> None:
    """A SHA-1 fingerprint or a typing error would silently lock TradingView out."""
    with pytest.raises(ConfigError, match=r"auth\.client_certificates"):
        PinnedCertificates((text,))


async def test_the_listener_refuses_other_certificates() -> None:
    """403 before the body, for a missing certificate and for a header that did not come through the proxy."""
    pinned = PinnedCertificates((FINGERPRINT,))
    proxied = QUICK.model_copy(update={"behind_proxy": True, "trusted_proxies": ("127.0.0.1",)})
    async with listening(proxied, certificates=pinned) as server:
        assert (await server.send(X_Client_Certificate_SHA256=FINGERPRINT)).status == 202
        reply = await server.send()
        assert (reply.status, reply.json["code"]) == (403, "certificate_not_allowed")
    async with listening(certificates=pinned) as server:
        assert (await server.send(X_Client_Certificate_SHA256=FINGERPRINT)).status == 403
        assert server.requests == []
