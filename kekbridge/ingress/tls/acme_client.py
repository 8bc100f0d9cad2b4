"""Obtain one certificate from a certificate authority by ACME (RFC 8555) with an HTTP-01 challenge.

`Authority` is blocking, for a thread; it keeps the account key and nothing else. When to obtain a certificate, and what to do with it, is
decided in acme.py. The protocol is implemented by certbot's `acme` library, the extra `acme`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from kekbridge.connections.server import SERVER_NAME, BoundedServer, bind
from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.formatting import clip_words, sanitize
from kekbridge.vault.files import read_private, write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_IDLE_S = 10.0
_STOP_S = 1.0
_MOST_CONNECTIONS = 64
_HEADERS = {"Server": SERVER_NAME}
_NETWORK_TIMEOUT_S = 30
_ISSUE_WITHIN = timedelta(seconds=120)
_WELL_KNOWN = "/.well-known/acme-challenge/"
_USER_AGENT = "kekbridge"

# Serves a text at a path over plain HTTP from now on.
Publish = Callable[[str, str], None]


class IssuanceFailed(KekbridgeError):
    """No certificate was issued; the message has the reason, and never a key."""

    def __init__(self, message: str) -> None:
        super().__init__("certificate_not_issued", message)


@dataclass(frozen=True, slots=True)
class Validity:
    """Names and validity period of a stored certificate."""

    #: DNS names that it is valid for.
    domains: frozenset[str]
    #: Start and end of its validity.
    not_before: datetime
    not_after: datetime

    @property
    def renew_at(self) -> datetime:
        """When a third of its lifetime is left, as authorities recommend: two weeks of failures still leave two."""
        return self.not_after - (self.not_after - self.not_before) / 3


class ChallengeServer:
    """Serves HTTP-01 challenge responses inside `async with`. `publish` may be called from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._texts: dict[str, str] = {}  # by path
        self._server: BoundedServer | None = None
        self.port = port

    def publish(self, path: str, text: str) -> None:
        """Serve `text` at `path` until the end of the block."""
        self._texts[path] = text

    async def __aenter__(self) -> Self:
        """Raises ConfigError if the port cannot be opened."""
        try:
            listening = await bind(self._host, self._port)
        except OSError as error:
            raise ConfigError(
                f"port {self._port} cannot be opened for the certificate authority: {error.strerror}; give the service"
                " CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), stop the program that uses it, or set tls.acme_port"
                " and forward port 80 to it",
                field="tls.acme_port",
            ) from None
        self.port = int(listening[0].getsockname()[1])
        self._server = BoundedServer(
            self._handle,
            most_connections=_MOST_CONNECTIONS,
            keepalive_timeout=_IDLE_S,
            lingering_time=_STOP_S,
            name="certificate challenges",
        )
        self._server.listen(listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._texts.clear()
        if self._server is not None:
            self._server.stop_accepting()
            await self._server.finish(longest_s=_STOP_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        text = self._texts.get(request.rel_url.raw_path) if request.method in ("GET", "HEAD") else None
        if text is None:
            return web.Response(status=404, text="nothing here\n", headers={**_HEADERS, "Connection": "close"})
        return web.Response(body=text.encode("ascii"), content_type="application/octet-stream", headers=_HEADERS)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, and our account with it."""

    #: URL of the ACME directory.
    directory: str
    #: Contact of the account; may be empty.
    email: str
    #: PEM file of the authorities to trust for its HTTPS; empty: the usual ones.
    ca_file: str
    #: File of the account's private key; created if missing.
    account_key: Path

    def issue(self, domain: str, publish: Publish) -> bytes:
        """Return a new private key and its certificate chain as one PEM. Raises IssuanceFailed, and ConfigError without the extra."""
        need_acme()
        try:
            import requests
            from acme import errors, messages
            from josepy import errors as jose_errors
        except (ImportError, AttributeError) as error:
            # Incompatible versions fail on import; during a renewal that must not end the daemon.
            raise IssuanceFailed(
                f"the libraries of the extra `acme` cannot be loaded ({_one_line(error)});"
                " run `pip install --upgrade 'kekbridge[acme]'` to get compatible versions"
            ) from None
        try:
            return self._issue(domain, publish)
        except errors.ValidationError as error:
            raise IssuanceFailed(_validation_failure(error, domain)) from None
        except (errors.Error, messages.Error, jose_errors.Error) as error:
            raise IssuanceFailed(f"{self.directory} rejected the request: {_one_line(error)}") from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise IssuanceFailed(f"{self.directory} cannot be used: {_one_line(error)}") from None

    def _issue(self, domain: str, publish: Publish) -> bytes:
        from acme import client

        network: Any = client.ClientNetwork(
            self._load_account_key(),
            user_agent=_USER_AGENT,
            timeout=_NETWORK_TIMEOUT_S,
        )
        if self.ca_file:
            network.verify_ssl = self.ca_file  # passed on to requests, which accepts a CA file as well
        authority = client.ClientV2(client.ClientV2.get_directory(self.directory, network), network)
        self._sign_in(authority, network)
        key = _new_key()
        order = authority.new_order(_request(key, domain))
        for authorization in order.authorizations:
            _answer_challenge(authority, network, authorization, publish)
        # The library compares it with local time without a zone.
        finished = authority.poll_and_finalize(order, deadline=datetime.now() + _ISSUE_WITHIN)  # noqa: DTZ005
        return _pem(key) + str(finished.fullchain_pem).encode()

    def _sign_in(self, authority: Any, network: Any) -> None:
        """Create the account, or find the one that this key belongs to."""
        from acme import errors, messages

        registration = messages.NewRegistration.from_data(email=self.email or None, terms_of_service_agreed=True)
        try:
            authority.new_account(registration)
        except errors.ConflictError as known:
            network.account = messages.RegistrationResource(uri=known.location, body=messages.Registration())

    def _load_account_key(self) -> Any:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa
        from josepy.jwk import JWKRSA

        stored = read_private(self.account_key)
        if stored is None:
            created = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            stored = created.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(self.account_key, stored)
        return JWKRSA(key=serialization.load_pem_private_key(stored, password=None))


def need_acme() -> None:
    """Raise ConfigError unless the extra is installed."""
    if find_spec("acme") is None:
        raise ConfigError(
            "tls.domain needs the extra `acme`; install it with `pip install 'kekbridge[acme]'`, or set tls.cert and tls.key",
            field="tls.domain",
        )


def read_validity(pem: bytes) -> Validity:
    """Read the names and the validity period of a PEM's first certificate. Raises ValueError."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE-----") :])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Validity(
        frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        certificate.not_valid_before_utc.astimezone(UTC),
        certificate.not_valid_after_utc.astimezone(UTC),
    )


def _answer_challenge(authority: Any, network: Any, authorization: Any, publish: Publish) -> None:
    """Publish the response to the HTTP-01 challenge and notify the authority; a name that is already validated needs none."""
    from acme import challenges, messages

    if authorization.body.status == messages.STATUS_VALID:
        return
    for offered in authorization.body.challenges:
        if isinstance(offered.chall, challenges.HTTP01):
            response, text = offered.response_and_validation(network.key)
            publish(_WELL_KNOWN + offered.chall.encode("token"), text)
            authority.answer_challenge(offered, response)
            return
    raise IssuanceFailed("the authority offers no HTTP-01 challenge for this name")


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _request(key: EllipticCurvePrivateKey, domain: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _validation_failure(error: Any, domain: str) -> str:
    """The authority's own report of the failed validation, which is what the operator must fix."""
    for authorization in error.failed_authzrs:
        for challenge in authorization.body.challenges:
            if challenge.error is not None:
                return (
                    f"the authority could not verify {domain}: {_one_line(challenge.error.detail or challenge.error)}"
                )
    return f"the authority could not verify {domain}"


def _one_line(error: object) -> str:
    return clip_words(" ".join(sanitize(str(error)).split()), 300) or type(error).__name__
