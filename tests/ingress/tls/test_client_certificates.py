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


HEADER = "X-Client-Certificate-SHA256"


@pytest.mark.parametrize("setting", [FINGERPRINT, COLONS, f"sha256 Fingerprint={COLONS}"])
def test_a_pinned_certificate_is_allowed_in_either_form(setting: str) -> None:
    """As openssl prints it, as Caddy passes it (fingerprint) or as nginx does (the certificate itself, escaped)."""
    pinned = PinnedCertificates((setting,), HEADER)
    for presented in (FINGERPRINT, COLONS, urllib.parse.quote(PEM)):
        assert pinned.refusal(presented, from_proxy=True) is None


@pytest.mark.parametrize(
    "presented",
    [
        None,
        "",
        "0" * 64,
        FINGERPRINT[:-1],
        FINGERPRINT + ", " + FINGERPRINT,
        "junk",
        urllib.parse.quote(OTHER_PEM),
        "-----BEGIN CERTIFICATE-----%0A!!!%0A-----END CERTIFICATE-----",
        "\udcff",
    ],
)
def test_any_other_certificate_is_refused(presented: str | None) -> None:
    """No certificate, another one, junk, or the header twice because the proxy did not overwrite a sender's."""
    assert PinnedCertificates((FINGERPRINT,), HEADER).refusal(presented, from_proxy=True)


def test_the_header_counts_from_a_trusted_proxy_only() -> None:
    """Any sender can write a header. Without pins no certificate is needed."""
    assert PinnedCertificates((FINGERPRINT,), HEADER).refusal(FINGERPRINT, from_proxy=False)
    assert PinnedCertificates(()).refusal(None, from_proxy=False) is None


def test_a_refusal_names_the_fingerprint_that_came() -> None:
    """It is how the trader learns TradingView's, and its next one. What is no certificate is not quoted."""
    pinned = PinnedCertificates(("0" * 64,), HEADER)
    for presented in (FINGERPRINT, urllib.parse.quote(PEM)):
        assert FINGERPRINT in str(pinned.refusal(presented, from_proxy=True))
    for other in (None, "{http.request.tls.client.fingerprint}"):  # the latter is Caddy's when none came
        assert "no client certificate was presented" in str(pinned.refusal(other, from_proxy=True))


@pytest.mark.parametrize("header", ["", "two words", "X:Y", "Ü"])
def test_a_header_that_no_proxy_can_send_is_an_error_at_start(header: str) -> None:
    """Nobody could send a certificate then."""
    with pytest.raises(ConfigError, match=r"auth\.client_certificate_header"):
        PinnedCertificates((FINGERPRINT,), header)


@pytest.mark.parametrize("text", ["", "abc", "0" * 63, "g" * 64, "0" * 40])
def test_a_wrong_pin_is_an_error_at_start(text: str) -> None:
    """A SHA-1 fingerprint or a typing error would silently lock TradingView out."""
    with pytest.raises(ConfigError, match=r"auth\.client_certificates"):
        PinnedCertificates((text,), HEADER)


async def test_the_listener_refuses_other_certificates() -> None:
    """403 before the body, for a missing certificate and for a header that did not come through the proxy."""
    pinned = PinnedCertificates((FINGERPRINT,), HEADER)
    proxied = QUICK.model_copy(update={"behind_proxy": True, "trusted_proxies": ("127.0.0.1",)})
    async with listening(proxied, certificates=pinned) as server:
        assert (await server.send(X_Client_Certificate_SHA256=FINGERPRINT)).status == 202
        reply = await server.send()
        assert (reply.status, reply.json["code"]) == (403, "certificate_not_allowed")
    async with listening(certificates=pinned) as server:
        assert (await server.send(X_Client_Certificate_SHA256=FINGERPRINT)).status == 403
        assert server.requests == []


async def test_only_the_configured_header_is_read() -> None:
    """A proxy overwrites the header that it sets; any other one passes through it as the sender wrote it."""
    proxied = QUICK.model_copy(update={"behind_proxy": True, "trusted_proxies": ("127.0.0.1",)})
    async with listening(proxied, certificates=PinnedCertificates((FINGERPRINT,), "X-Cert")) as server:
        assert (await server.send(X_Cert=urllib.parse.quote(PEM))).status == 202
        assert (await server.send(X_Client_Certificate_SHA256=FINGERPRINT)).status == 403
        assert (await server.send(X_Client_Certificate=urllib.parse.quote(PEM))).status == 403
        other = urllib.parse.quote(OTHER_PEM)
        assert (await server.send(X_Cert=other, X_Client_Certificate_SHA256=FINGERPRINT)).status == 403
