"""Authenticate the sender of a message: a known apiKey, and the proofs that come with it.

The sender gets the same neutral sentence for every failure (responses.py); the reasons raised here are for the log. An unknown apiKey costs
the same work as a known one, so the time of a response reveals nothing (docs/internals/architecture.md section 4).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from kekbridge.alerts import signature
from kekbridge.alerts.field_names import KEY_PREFIXES
from kekbridge.alerts.message import Message
from kekbridge.errors import Forbidden, RequestRefused, Unauthenticated, VaultError
from kekbridge.ingress.addresses import parse_address
from kekbridge.ingress.http import DRY_RUN_HEADER, Sender, WebhookRequest, proven_bytes, read_flag
from kekbridge.log import get_logger
from kekbridge.model import Webhook
from kekbridge.model.networks import AllowList
from kekbridge.vault import Sealer

log = get_logger("kekbridge.ingress.auth")

API_KEY_HEADER = "x-api-key"
SIGNATURE_HEADER = "x-webhook-signature"
STANDARD_ID, STANDARD_TIMESTAMP, STANDARD_SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
# The only headers that the receiver gets: those that can carry a proof, and the alert's identity.
PROOF_HEADERS = (
    API_KEY_HEADER,
    SIGNATURE_HEADER,
    DRY_RUN_HEADER,
    STANDARD_ID,
    STANDARD_TIMESTAMP,
    STANDARD_SIGNATURE,
    "idempotency-key",
)

STANDARD_TOLERANCE_S = 300  # Standard Webhooks: timestamps more than five minutes off are rejected, in both directions
_MOST_SIGNATURES = 16
_HEX_SHA256 = re.compile(r"(?:sha256=)?([0-9a-f]{64})", re.IGNORECASE | re.ASCII)
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


class StoredKey(Protocol):
    """What authentication needs of a webhook key's row."""

    @property
    def id(self) -> str: ...

    @property
    def sealed_secret(self) -> bytes: ...


# Webhook and key for the keyed hash of an apiKey; None for unknown, expired and revoked keys alike.
FindKey = Callable[[bytes], tuple[Webhook, StoredKey] | None]


@dataclass(frozen=True, slots=True)
class _DummyKey:
    """The key that messages with an unknown apiKey are checked against."""

    id: str
    sealed_secret: bytes


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """A proof that a request carries, and whether it is valid."""

    #: One of header, standard_webhooks, template.
    name: str
    is_valid: bool
    #: Why it is not valid.
    reason: str = "it does not match the body"


def _ignore(_key_id: str, _at: datetime) -> None:
    pass


class Authenticator:
    """Authenticates requests by the webhook keys of the store. Each key's secret is unsealed once and kept in memory."""

    def __init__(
        self, find_key: FindKey, sealer: Sealer, *, on_key_used: Callable[[str, datetime], None] = _ignore
    ) -> None:
        """`on_key_used` is called with the id of every key that authenticated a request; it must not block."""
        self._find_key = find_key
        self._sealer = sealer
        self._on_key_used = on_key_used
        self._unsealed: dict[str, tuple[bytes, str]] = {}  # by key id: the sealed secret, and the secret
        # Messages with an unknown apiKey are checked against this secret, as long as a real one, so that they cost the same work.
        self.dummy_secret = "whs_" + secrets.token_hex(22)[:43]
        dummy_webhook = Webhook(id="", name="", enabled=False, created_at=datetime.fromtimestamp(0, UTC))
        self._dummy = dummy_webhook, _DummyKey("", sealer.seal(self.dummy_secret.encode()))

    def __repr__(self) -> str:
        return "Authenticator()"

    def authenticate(self, request: WebhookRequest, message: Message) -> Sender:
        """Authenticate a message; touches no network and never waits.

        A webhook that requires a signature needs at least one proof, and every proof that is present must be valid. One that requires
        none accepts the random apiKey alone, and the other proofs do not matter.
        Raises Unauthenticated (no valid proof) or Forbidden (valid, but the webhook is disabled or the address is not allowed).
        """
        api_key, is_from_path = _find_api_key(request, message)
        if not api_key:
            raise Unauthenticated("api_key_missing", "the message has no apiKey", field="apiKey")
        found = self._find_key(self._sealer.lookup(api_key))
        webhook, key = found or self._dummy
        secret = self._open(key)
        proofs = check_proofs(secret or self.dummy_secret, request, message, profile=webhook.settings.profile)
        try:
            proof = _decide(webhook, proofs, can_check=secret is not None)
            _check_dry_run(webhook, request, proofs)
            if is_from_path and not webhook.settings.key_in_path:
                raise Unauthenticated(
                    "key_in_path_off",
                    f"webhook {webhook.name} does not take its key from the URL; use `kekbridge webhook edit "
                    f"{webhook.name} --key-in-path`, or put the key into the message",
                )
        except Unauthenticated as refusal:
            unknown = _unknown(api_key)  # created in both cases, so that both take as long
            raise (refusal if found else unknown) from None
        if found is None:
            raise _unknown(api_key)
        self._on_key_used(key.id, request.received_at)
        try:
            _check_may_send(webhook, request)
            flag = request.headers.get(DRY_RUN_HEADER)
            dry_run = None if flag is None else read_flag(flag)
        except RequestRefused as refusal:
            refusal.is_proven = True
            raise
        return Sender(webhook=webhook, key_id=key.id, proof=proof, dry_run=dry_run)

    def _open(self, key: StoredKey) -> str | None:
        """The apiSecret of a key; None if it cannot be unsealed (another master key), which the log reports to the operator."""
        cached = self._unsealed.get(key.id)
        if cached is not None and cached[0] == key.sealed_secret:
            return cached[1]
        try:
            unsealed = self._sealer.open(key.sealed_secret).decode()
        except (VaultError, UnicodeDecodeError) as error:
            log.error("webhook_secret_unreadable", key_id=key.id, error=str(error))
            return None
        self._unsealed[key.id] = (key.sealed_secret, unsealed)
        return unsealed


def _find_api_key(request: WebhookRequest, message: Message) -> tuple[str, bool]:
    """The key of a request, and whether it is the URL's: the message's, else the header's, else the URL's.

    A text that cannot be edited may have another service's `apiKey`, so beside a key in the URL only a kekbridge key counts.
    """
    given = message.api_key or request.headers.get(API_KEY_HEADER, "").strip()
    if request.path_key is None or given.startswith(KEY_PREFIXES):
        return given, False
    return request.path_key, True


def check_proofs(secret: str, request: WebhookRequest, message: Message, *, profile: str) -> tuple[VerifiedProof, ...]:
    """Check every proof that the request carries in constant time. Order: header, standard_webhooks, template.

    `profile`: that of the webhook, which defines the fields under a template signature.
    """
    headers = request.headers
    proofs: list[VerifiedProof] = []
    if headers.get(SIGNATURE_HEADER):
        signed = proven_bytes(request.body, headers.get(DRY_RUN_HEADER))
        proofs.append(VerifiedProof("header", verify_header(secret, headers[SIGNATURE_HEADER], signed)))
    if headers.get(STANDARD_SIGNATURE):
        is_valid = verify_standard(secret.encode(), headers, request.body, request.received_at)
        proofs.append(VerifiedProof("standard_webhooks", is_valid))
    if message.signature:
        checked = signature.check(secret, message.signature, message.texts, profile)
        proofs.append(VerifiedProof("template", checked.is_valid, checked.reason))
    return tuple(proofs)


def verify_header(secret: str, header: str, body: bytes) -> bool:
    """True if the header is the hex HMAC-SHA256 of the raw body, in any case, with or without `sha256=`."""
    given = _HEX_SHA256.fullmatch(header.strip())
    # The HMAC is computed for a malformed header too: the time must not reveal how far a guess got.
    expected = hmac.digest(secret.encode(), body, "sha256")
    return hmac.compare_digest(expected, bytes.fromhex(given[1]) if given else b"")


def verify_standard(key: bytes, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
    """True if one of the Standard Webhooks signatures is valid and the timestamp is within five minutes of `now`.

    `key`: the bytes behind `whsec_…`. Senders that rotate their secret send several signatures, separated by spaces; versions other than v1
    are ignored. Source: the Standard Webhooks specification. Its library reads the wall clock, which is an argument here.
    """
    identifier, sent_at = headers.get(STANDARD_ID, ""), headers.get(STANDARD_TIMESTAMP, "")
    signed = b".".join(
        (identifier.encode("utf-8", "surrogateescape"), sent_at.encode("utf-8", "surrogateescape"), body)
    )
    expected = hmac.digest(key, signed, "sha256")
    is_equal = False
    for text in headers.get(STANDARD_SIGNATURE, "").split()[:_MOST_SIGNATURES]:
        version, _, encoded = text.partition(",")
        is_equal |= hmac.compare_digest(expected, _from_base64(encoded)) and version == "v1"
    is_recent = bool(_UNIX_SECONDS.fullmatch(sent_at)) and abs(now.timestamp() - int(sent_at)) <= STANDARD_TOLERANCE_S
    return is_equal and is_recent and bool(identifier)


def _decide(webhook: Webhook, proofs: tuple[VerifiedProof, ...], *, can_check: bool) -> str:
    """The name of the proof that counts; `none` if none is required or valid. Raises Unauthenticated."""
    valid = [proof.name for proof in proofs if proof.is_valid and can_check]
    if not webhook.settings.require_signature:
        return valid[0] if valid else "none"
    if not proofs:
        raise Unauthenticated(
            "signature_missing", f"webhook {webhook.name} requires a signature and the request has none"
        )
    invalid = next((proof for proof in proofs if proof.name not in valid), None)
    if invalid is not None:
        reason = invalid.reason if can_check else "the webhook's secret cannot be decrypted"
        raise Unauthenticated("signature_invalid", f"webhook {webhook.name}: {invalid.name} signature: {reason}")
    return valid[0]


def _check_dry_run(webhook: Webhook, request: WebhookRequest, proofs: tuple[VerifiedProof, ...]) -> None:
    """Raise Unauthenticated unless a dry run's flag is signed: its verdicts reveal the account, so only the owner may request one.

    A template signature covers a message that others may have seen; only the holder of the apiSecret can sign the flag with it.
    """
    if DRY_RUN_HEADER not in request.headers:
        return
    if not any(proof.name == "header" and proof.is_valid for proof in proofs):
        raise Unauthenticated(
            "signature_invalid",
            f"webhook {webhook.name}: a dry run needs X-Webhook-Signature over its flag and the body; "
            "use `kekbridge webhook test NAME --dry-run`",
        )


def _check_may_send(webhook: Webhook, request: WebhookRequest) -> None:
    """Raise Forbidden for an authenticated sender that may not send now. Only a holder of the secret gets this answer."""
    if not webhook.enabled:
        raise Forbidden(
            "webhook_disabled",
            f"webhook {webhook.name} is disabled; enable it with `kekbridge webhook enable {webhook.name}`",
        )
    allowed = webhook.settings.allowed_addresses
    if allowed and not _allow_list(allowed).allows(parse_address(request.remote)):
        raise Forbidden("address_not_allowed", f"webhook {webhook.name} may not be used from {request.remote}")


@lru_cache(maxsize=256)
def _allow_list(networks: tuple[str, ...]) -> AllowList:
    return AllowList.parse(networks, "allowed_addresses")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _unknown(api_key: str) -> Unauthenticated:
    return Unauthenticated(
        "api_key_unknown", f"no valid webhook key equals the apiKey {_hint(api_key)}", field="apiKey"
    )


def _hint(api_key: str) -> str:
    """Enough of an unknown apiKey to recognise it, never enough to use it."""
    return f"{api_key[:12]!r}…" if len(api_key) > 24 else "given"
