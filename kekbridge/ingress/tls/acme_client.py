"""Gets one certificate from a certificate authority by ACME (RFC 8555), HTTP-01: account, order, challenge, certificate.

Blocking, for a thread; keeps the account key and nothing else. When to ask, and what to do with the answer, is autocert.py's.
The protocol is certbot's `acme` library, the extra `acme`.
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

from kekbridge.errors import ConfigError, KekbridgeError
from kekbridge.formatting import sanitize
from kekbridge.vault.files import read_private, write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


_IDLE_S = 10.0


class ChallengeServer:
    """Listens inside `async with`. `publish` may be called from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._answers: dict[str, str] = {}
        self._runner: web.ServerRunner | None = None
        self.port = port

    def publish(self, path: str, text: str) -> None:
        """Serve this text at this path until the end of the block."""
        self._answers[path] = text

    async def __aenter__(self) -> Self:
        """Raises ConfigError when the port cannot be had."""
        server = web.Server(self._handle, access_log=None, keepalive_timeout=_IDLE_S)
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host or None, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"port {self._port} cannot be opened for the certificate authority: {error.strerror}; give the service"
                " CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), stop what listens there, or set tls.acme_port"
                " and forward port 80 to it",
                field="tls.acme_port",
            ) from None
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.clear()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = self._answers.get(request.rel_url.raw_path) if request.method in ("GET", "HEAD") else None
        if answer is None:
            return web.Response(status=404, text="nothing here\n", headers={"Connection": "close"})
        return web.Response(body=answer.encode("ascii"), content_type="application/octet-stream")


_NETWORK_TIMEOUT_S = 30
_ISSUE_WITHIN = timedelta(seconds=120)
_WELL_KNOWN = "/.well-known/acme-challenge/"
_USER_AGENT = "kekbridge"

Publish = Callable[[str, str], None]
"""Takes a path and the text that must be served there over plain HTTP from now on."""


class IssuanceFailed(KekbridgeError):
    """No certificate this time; the message says why and never holds a key."""

    def __init__(self, message: str) -> None:
        super().__init__("certificate_not_issued", message)


@dataclass(frozen=True, slots=True)
class Validity:
    """What a stored certificate says about itself."""

    domains: frozenset[str]
    not_before: datetime
    not_after: datetime

    @property
    def renew_at(self) -> datetime:
        """When a third of its life is left, as authorities advise: two failed weeks still leave two."""
        return self.not_after - (self.not_after - self.not_before) / 3


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority and our account there."""

    directory: str
    email: str
    ca_file: str
    account_key: Path

    def issue(self, domain: str, publish: Publish) -> bytes:
        """A new private key and the certificate chain for it, as one PEM. Raises IssuanceFailed, ConfigError without the extra."""
        need_acme()
        try:
            import requests
            from acme import errors, messages
            from josepy import errors as jose_errors
        except (ImportError, AttributeError) as error:
            # Versions that do not fit together fail while they are loaded; at a renewal that must not end the daemon.
            raise IssuanceFailed(
                f"the libraries of the extra `acme` cannot be loaded ({_one_line(error)});"
                " `pip install --upgrade 'kekbridge[acme]'` brings fitting ones"
            ) from None
        try:
            return self._issue(domain, publish)
        except errors.ValidationError as error:
            raise IssuanceFailed(_why_not_valid(error, domain)) from None
        except (errors.Error, messages.Error, jose_errors.Error) as error:
            raise IssuanceFailed(f"{self.directory} refused: {_one_line(error)}") from None
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
            network.verify_ssl = self.ca_file  # passed on to requests, which takes a file of authorities as well
        authority = client.ClientV2(client.ClientV2.get_directory(self.directory, network), network)
        self._sign_in(authority, network)
        key = _new_key()
        order = authority.new_order(_request(key, domain))
        for authorization in order.authorizations:
            _answer(authority, network, authorization, publish)
        # The library compares with the local clock, without a zone.
        finished = authority.poll_and_finalize(order, deadline=datetime.now() + _ISSUE_WITHIN)  # noqa: DTZ005
        return _pem(key) + str(finished.fullchain_pem).encode()

    def _sign_in(self, authority: Any, network: Any) -> None:
        """Open the account, or find the one that this key has."""
        from acme import errors, messages

        wanted = messages.NewRegistration.from_data(email=self.email or None, terms_of_service_agreed=True)
        try:
            authority.new_account(wanted)
        except errors.ConflictError as known:
            network.account = messages.RegistrationResource(uri=known.location, body=messages.Registration())

    def _load_account_key(self) -> Any:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa
        from josepy.jwk import JWKRSA

        stored = read_private(self.account_key)
        if stored is None:
            made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            stored = made.private_bytes(
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
    """Names and times of the first certificate of a PEM. Raises ValueError."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE-----") :])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Validity(
        frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        certificate.not_valid_before_utc.astimezone(UTC),
        certificate.not_valid_after_utc.astimezone(UTC),
    )


def _answer(authority: Any, network: Any, authorization: Any, publish: Publish) -> None:
    """Publish the answer to the HTTP-01 challenge and say that it is there; one that is valid already needs none."""
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


def _why_not_valid(error: Any, domain: str) -> str:
    """What the authority saw when it came to look: the one thing that whoever set up the name can fix."""
    for authorization in error.failed_authzrs:
        for challenge in authorization.body.challenges:
            if challenge.error is not None:
                return (
                    f"the authority could not verify {domain}: {_one_line(challenge.error.detail or challenge.error)}"
                )
    return f"the authority could not verify {domain}"


def _one_line(error: object) -> str:
    return " ".join(sanitize(str(error)).split())[:300] or type(error).__name__
