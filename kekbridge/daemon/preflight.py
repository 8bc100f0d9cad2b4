"""Check settings that are well-formed but unusable, before anything is opened, created or started.

For `serve`, which then fails with one line and no side effect, and for `config check`, which promises to find what `serve` would.
"""

from __future__ import annotations

from collections.abc import Iterable

from kekbridge.admin.auth import check_loopback
from kekbridge.config import Server, Settings
from kekbridge.errors import ConfigError
from kekbridge.exchange.orderly.endpoints import resolve_urls
from kekbridge.ingress.addresses import ClientAddresses
from kekbridge.ingress.tls.client_certificates import PinnedCertificates
from kekbridge.ingress.tls.context import check_bind, serving_context
from kekbridge.model import Mode
from kekbridge.model.networks import AllowList


def check_settings(settings: Settings, addresses: Iterable[Server] = ()) -> None:
    """Check everything that needs no network and no secret. Raises ConfigError with the setting and the fix.

    `addresses`: where the daemon will listen if it inherited sockets; otherwise server.host counts.
    """
    for server in addresses or (settings.server,):
        check_bind(server, settings.tls)
    _check_certificate(settings)
    AllowList.parse(settings.auth.allowed_addresses, "auth.allowed_addresses")
    PinnedCertificates(settings.auth.client_certificates, settings.auth.client_certificate_header)
    ClientAddresses(settings.server.trusted_proxies, behind_proxy=settings.server.behind_proxy)
    if settings.admin.enabled:
        check_loopback(settings.admin.host, in_container=settings.admin.in_container)
    exchange = settings.exchange
    if settings.mode is not Mode.PAPER or exchange.base_url:
        resolve_urls(settings.mode.value, exchange.base_url, exchange.ws_public_url, exchange.ws_private_url)


def settings_changed_since_0_1(settings: Settings) -> list[str]:
    """A line for each setting that version 0.1 accepted with a wider meaning, if it is used without saying which one is meant."""
    lines = []
    if settings.auth.client_certificates and "client_certificate_header" not in settings.auth.model_fields_set:
        lines.append(
            f"auth.client_certificates: only the header {settings.auth.client_certificate_header} is read, while version 0.1 also read"
            " X-Client-Certificate; set auth.client_certificate_header to the one that your proxy overwrites"
        )
    return lines


def _check_certificate(settings: Settings) -> None:
    tls = settings.tls
    if not tls.domain:
        serving_context(tls)
        return
    if tls.cert or tls.key:
        raise ConfigError(
            "tls.domain and tls.cert are both set: let kekbridge obtain the certificate, or set the files, not both",
            field="tls.domain",
        )
    from kekbridge.ingress.tls.acme import (
        check_domain,  # imported here: few bridges obtain their certificate themselves
    )
    from kekbridge.ingress.tls.acme_client import need_acme

    check_domain(tls.domain)
    need_acme()
