"""Authentication: only a holder of the secret is accepted, and a stranger learns nothing from trying."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from kekbridge.alerts import signature
from kekbridge.alerts.message import read_message
from kekbridge.errors import Forbidden, RequestRefused, Unauthenticated
from kekbridge.ingress.auth import Authenticator, verify_header, verify_standard
from kekbridge.ingress.http import DryRun, Sender, WebhookRequest, proven_bytes, read_flag
from kekbridge.model import Mode, Webhook, WebhookSettings
from kekbridge.vault import Sealer
from kekbridge.webhooks.registry import new_credentials
from tests.standard_webhooks import standard_webhooks_secret

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)
ORDER = {"action": "buy", "symbol": "BTCUSDT", "quantity": "0.5"}


@dataclass(frozen=True)
class Key:
    """The fields of a stored webhook key that authentication needs."""

    id: str
    sealed_secret: bytes


class World:
    """One webhook with one key, its owner's credentials, and the lookups that authentication made."""

    def __init__(self, **settings: Any) -> None:
        self.sealer = Sealer(b"m" * 32)
        self.api_key, self.api_secret = new_credentials(Mode.PAPER)
        self.webhook = Webhook(id="w1", name="btc", enabled=True, created_at=NOW, settings=WebhookSettings(**settings))
        self.keys = {self.sealer.lookup(self.api_key): Key("k1", self.sealer.seal(self.api_secret.encode()))}
        self.lookups: list[bytes] = []
        self.reasons: list[str] = []
        self.authenticator = Authenticator(self.find, self.sealer)

    def find(self, lookup: bytes) -> tuple[Webhook, Key] | None:
        self.lookups.append(lookup)
        key = self.keys.get(lookup)
        return (self.webhook, key) if key else None

    def body(self, **fields: Any) -> bytes:
        return json.dumps({"apiKey": self.api_key, **ORDER, **fields}).encode()

    def signed(self, **fields: Any) -> dict[str, Any]:
        """A message under the template signature."""
        message = {"apiKey": self.api_key, **ORDER, **fields}
        return message | {"signature": signature.sign(self.api_secret, message)}

    def hmac(self, body: bytes) -> str:
        return hmac.new(self.api_secret.encode(), body, hashlib.sha256).hexdigest()

    def standard(self, body: bytes, *, at: datetime = NOW, secret: str | None = None) -> dict[str, str]:
        """Standard Webhooks headers."""
        stamp = str(int(at.timestamp()))
        signed = f"msg_1.{stamp}.".encode() + body
        digest = hmac.new((secret or self.api_secret).encode(), signed, hashlib.sha256).digest()
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": stamp,
            "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        }

    def send(self, body: bytes, headers: dict[str, str] | None = None, remote: str = "203.0.113.7") -> Sender:
        request = WebhookRequest(body=body, headers=headers or {}, remote=remote, received_at=NOW)
        return self.authenticator.authenticate(request, read_message(body))

    def code(self, body: bytes, headers: dict[str, str] | None = None, remote: str = "203.0.113.7") -> str:
        """The code of the refusal, or the name of the accepted proof."""
        try:
            return self.send(body, headers, remote).proof
        except RequestRefused as error:
            self.reasons.append(error.message)
            return error.code


@pytest.fixture
def world() -> World:
    return World()


# ---------------------------------------------------------------------------------------------------------- valid proofs


@pytest.mark.parametrize("form", ["{}", "sha256={}", "SHA256={}", "  {}  "])
def test_the_header_signs_the_raw_body(world: World, form: str) -> None:
    """Hex in either case, with or without the usual prefix."""
    body = world.body()
    for digest in (world.hmac(body), world.hmac(body).upper()):
        caller = world.send(body, {"x-webhook-signature": form.format(digest)})
        assert (caller.proof, caller.webhook.id, caller.key_id) == ("header", "w1", "k1")


def test_the_template_signature_proves_a_message(world: World) -> None:
    """TradingView cannot send headers: the message carries its own proof."""
    assert world.code(json.dumps(world.signed()).encode()) == "template"


def test_standard_webhooks_headers_prove_a_body(world: World) -> None:
    """Relays that speak Standard Webhooks need nothing specific to kekbridge."""
    body = world.body()
    assert world.code(body, world.standard(body)) == "standard_webhooks"


def test_the_api_key_may_come_as_a_header(world: World) -> None:
    """A script may keep its key out of the body."""
    body = json.dumps(ORDER).encode()
    assert world.code(body, {"x-api-key": world.api_key, "x-webhook-signature": world.hmac(body)}) == "header"


def test_the_key_in_the_url_is_off_by_default() -> None:
    """A URL is seen by proxies and on screenshots: its key counts only for a webhook whose owner allows it."""
    body = json.dumps(ORDER).encode()

    def code(world: World, body: bytes, path_key: str) -> str:
        request = WebhookRequest(body=body, headers={}, remote="203.0.113.7", received_at=NOW, path_key=path_key)
        try:
            return world.authenticator.authenticate(request, read_message(body)).proof
        except RequestRefused as error:
            return error.code

    closed, opened = World(require_signature=False), World(require_signature=False, key_in_path=True)
    assert code(closed, body, closed.api_key) == "key_in_path_off"
    assert code(closed, closed.body(), closed.api_key) == "none"
    assert code(opened, body, opened.api_key) == "none"
    assert code(opened, body, closed.api_key) == "api_key_unknown"
    other_services = json.dumps({**ORDER, "apiKey": "another service's"}).encode()
    assert code(opened, other_services, opened.api_key) == "none"
    assert code(opened, closed.body(), opened.api_key) == "api_key_unknown"
    assert code(World(key_in_path=True), body, opened.api_key) == "api_key_unknown"
    signed = World(key_in_path=True)
    assert code(signed, body, signed.api_key) == "signature_missing"


def test_without_required_signature_the_key_alone_is_proof(world: World) -> None:
    """The owner chose it; an invalid signature field is then just a field."""
    open_world = World(require_signature=False)
    assert open_world.code(open_world.body()) == "none"
    assert open_world.code(open_world.body(signature="junk"), {"x-webhook-signature": "junk"}) == "none"
    assert open_world.code(json.dumps(open_world.signed()).encode()) == "template"
    assert open_world.code(json.dumps({**ORDER, "apiKey": world.api_key}).encode()) == "api_key_unknown"


# -------------------------------------------------------------------------------------------------------------- attacks


def test_every_request_without_the_secret_is_refused(world: World) -> None:
    """Unknown key, no key, no proof, wrong secret, altered body: each refused, with the real reason for the log only."""
    body = world.body()
    _, other_secret = new_credentials(Mode.PAPER)
    wrong = hmac.new(other_secret.encode(), body, hashlib.sha256).hexdigest()
    unknown = json.dumps({**ORDER, "apiKey": "wh_test_" + "x" * 32}).encode()
    assert world.code(json.dumps(ORDER).encode()) == "api_key_missing"
    assert world.code(world.body(apiKey="")) == "api_key_missing"
    assert world.code(unknown, {"x-webhook-signature": world.hmac(unknown)}) == "api_key_unknown"
    assert world.code(body) == "signature_missing"
    assert world.code(body, {"x-webhook-signature": wrong}) == "signature_invalid"
    assert world.code(world.body(quantity="50"), {"x-webhook-signature": world.hmac(body)}) == "signature_invalid"
    assert world.code(body + b" ", {"x-webhook-signature": world.hmac(body)}) == "signature_invalid"
    assert world.code(body, world.standard(body, secret=other_secret)) == "signature_invalid"
    assert len(world.reasons) == 8
    assert not [reason for reason in world.reasons if world.api_secret in reason or other_secret in reason]


@pytest.mark.parametrize("field", ["action", "symbol", "quantity"])
def test_a_changed_field_breaks_the_template_signature(world: World, field: str) -> None:
    """A stolen message can send only its own order."""
    message = world.signed()
    for value in ("sell", "9", "", None):
        assert world.code(json.dumps(message | {field: value}).encode()) == "signature_invalid"
    del message[field]
    assert world.code(json.dumps(message).encode()) == "signature_invalid"


def test_an_added_field_that_changes_the_order_breaks_it(world: World) -> None:
    """No dangerous field can be added beside the signed ones."""
    for extra in (
        {"leverage": "50"},
        {"reduceOnly": True},
        {"quantityType": "usd"},
        {"order_type": "limit", "price": "1"},
    ):
        assert world.code(json.dumps(world.signed() | extra).encode()) == "signature_invalid"


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "0",
        "sha256=",
        "0" * 63,
        "0" * 65,
        "g" * 64,
        "é" * 64,
        "٠" * 64,
        "\udce9" * 64,
        "sha1=" + "0" * 40,
        "0" * 64 + "\n0",
    ],
)
def test_a_malformed_signature_header_is_never_an_exception(world: World, header: str) -> None:
    """Any text that is not a signature is just not valid."""
    body = world.body()
    assert verify_header(world.api_secret, header, body) is False
    expected = "signature_invalid" if header else "signature_missing"
    assert world.code(body, {"x-webhook-signature": header}) == expected


def test_one_invalid_proof_invalidates_the_others(world: World) -> None:
    """A proof that is present and not valid is a sign of tampering, even if the others are valid."""
    message = json.dumps(world.signed()).encode()
    assert world.code(message, {"x-webhook-signature": world.hmac(message)}) == "header"
    assert world.code(message, {"x-webhook-signature": "0" * 64}) == "signature_invalid"
    body = world.body(signature="v1:apiKey:" + "0" * 64)
    assert world.code(body, {"x-webhook-signature": world.hmac(body)}) == "signature_invalid"


def test_the_key_of_another_webhook_is_no_proof() -> None:
    """Each key has its own secret: knowing one webhook's secret does not help with another's."""
    world = World()
    other_key, other_secret = new_credentials(Mode.PAPER)
    world.keys[world.sealer.lookup(other_key)] = Key("k2", world.sealer.seal(other_secret.encode()))
    body = world.body()
    forged = hmac.new(other_secret.encode(), body, hashlib.sha256).hexdigest()
    assert world.code(body, {"x-webhook-signature": forged}) == "signature_invalid"


def test_unknown_keys_cost_the_same_work(world: World) -> None:
    """Known or not, an apiKey costs one lookup and the same checks under a secret of the same length; no shortcut to time."""
    body = world.body()
    unknown = body.replace(world.api_key.encode(), b"wh_test_" + b"x" * 32)
    headers = {"x-webhook-signature": "0" * 64}
    for sent in (body, unknown):
        with pytest.raises(Unauthenticated):
            world.send(sent, headers)
    assert len(world.lookups) == 2
    assert len(world.authenticator.dummy_secret) == len(world.api_secret)
    signed = hmac.new(world.authenticator.dummy_secret.encode(), unknown, hashlib.sha256).hexdigest()
    assert world.code(unknown, {"x-webhook-signature": signed}) == "api_key_unknown", (
        "even the right proof of nobody is refused"
    )


def test_only_the_owner_learns_that_a_webhook_is_disabled(world: World) -> None:
    """403 after a valid proof; a stranger gets the usual 401."""
    world.webhook = replace(world.webhook, enabled=False)
    body = world.body()
    assert world.code(body, {"x-webhook-signature": world.hmac(body)}) == "webhook_disabled"
    assert world.code(body, {"x-webhook-signature": "0" * 64}) == "signature_invalid"
    with pytest.raises(Forbidden):
        world.send(body, {"x-webhook-signature": world.hmac(body)})


def test_a_webhook_may_be_limited_to_addresses() -> None:
    """The webhook's own allowlist, after the proof; unknown addresses are on no list."""
    world = World(allowed_addresses=("tradingview", "203.0.113.0/24"))
    body = world.body()
    headers = {"x-webhook-signature": world.hmac(body)}
    assert world.code(body, headers, "203.0.113.7") == "header"
    assert world.code(body, headers, "52.32.178.7") == "header"
    assert world.code(body, headers, "198.51.100.1") == "address_not_allowed"
    assert world.code(body, headers, "unknown") == "address_not_allowed"
    assert world.code(body, {"x-webhook-signature": "0" * 64}, "198.51.100.1") == "signature_invalid"


def test_a_secret_sealed_under_another_key_is_no_proof(world: World) -> None:
    """A database with another vault's master key: refused as unauthenticated, and no exception."""
    lookup = world.sealer.lookup(world.api_key)
    world.keys[lookup] = Key("k1", Sealer(b"x" * 32).seal(world.api_secret.encode()))
    body = world.body()
    assert world.code(body, {"x-webhook-signature": world.hmac(body)}) == "signature_invalid"
    assert world.code(body) == "signature_missing"


def test_a_changed_secret_counts_at_once(world: World) -> None:
    """Unsealed secrets are cached until they change in the database."""
    body = world.body()
    assert world.code(body, {"x-webhook-signature": world.hmac(body)}) == "header"
    old = world.hmac(body)
    world.api_secret = "whs_new"
    world.keys[world.sealer.lookup(world.api_key)] = Key("k1", world.sealer.seal(b"whs_new"))
    assert world.code(body, {"x-webhook-signature": old}) == "signature_invalid"
    assert world.code(body, {"x-webhook-signature": world.hmac(body)}) == "header"


def test_only_the_owner_can_request_a_dry_run(world: World) -> None:
    """The flag is under the signature: it cannot be set, changed or dropped on the way."""
    body = world.body()
    plain = {"x-webhook-signature": world.hmac(body)}
    assert not world.send(body, plain).is_dry_run
    flagged = {"x-kekbridge-dry-run": "1", "x-webhook-signature": world.hmac(proven_bytes(body, "1"))}
    assert world.send(body, flagged).dry_run == DryRun()
    assert world.code(body, plain | {"x-kekbridge-dry-run": "1"}) == "signature_invalid"
    assert world.code(body, flagged | {"x-kekbridge-dry-run": '{"replay":true}'}) == "signature_invalid"
    assert world.code(body, {"x-webhook-signature": flagged["x-webhook-signature"]}) == "signature_invalid"


@pytest.mark.parametrize("require_signature", [True, False])
def test_a_message_that_others_have_seen_cannot_request_a_dry_run(require_signature: bool) -> None:
    """Neither the apiKey alone nor a template signature is enough for a dry run: its verdicts reveal the account."""
    world = World(require_signature=require_signature)
    for body in (json.dumps(world.signed()).encode(), world.body()):
        assert world.code(body, {"x-kekbridge-dry-run": "1"}) in ("signature_invalid", "signature_missing")


@pytest.mark.parametrize("flag", ["0", "true", "", "[]", '{"limit":1}', '{"limits":[]}', "{" * 5000, "nonsense"])
def test_an_invalid_dry_run_flag_is_refused(world: World, flag: str) -> None:
    """A misread flag must never turn a dry run into a real order."""
    body = world.body()
    signed = world.hmac(proven_bytes(body, flag))
    assert world.code(body, {"x-kekbridge-dry-run": flag, "x-webhook-signature": signed}) == "field_invalid"


def test_a_dry_run_flag_reads_back_as_it_was_written() -> None:
    """Limits and the replay mark are preserved."""
    asked = DryRun(limits={"max_order_size": "0.5", "daily_orders": None, "require_stop_loss": True}, is_replay=True)
    assert read_flag(asked.flag) == asked
    assert read_flag(DryRun().flag) == DryRun()


def test_the_log_reason_hints_at_the_key_without_giving_it_away(world: World) -> None:
    """An operator must recognise which old alert still sends; the hint must not be usable as a key."""
    body = json.dumps({**ORDER, "apiKey": "wh_test_ABCDsecretsecretsecretsecret1234"}).encode()
    with pytest.raises(Unauthenticated) as caught:
        world.send(body)
    assert "wh_test_ABCD" in caught.value.message
    assert "secret" not in caught.value.message


@given(
    body=st.binary(max_size=200),
    headers=st.dictionaries(
        st.sampled_from(["x-api-key", "x-webhook-signature", "webhook-id", "webhook-timestamp", "webhook-signature"]),
        st.text(max_size=90),
    ),
)
def test_random_requests_are_refused(body: bytes, headers: dict[str, str]) -> None:
    """Random bodies and headers are refused, by RequestRefused and nothing else."""
    world = World()
    with pytest.raises(RequestRefused):
        world.send(body, headers)
    with pytest.raises(RequestRefused):
        world.send(world.body(), headers)
    with pytest.raises(RequestRefused):
        world.send(world.body(signature=headers.get("x-webhook-signature", "x")), {"x-api-key": world.api_key})


# ---------------------------------------------------------------------------------------------------- Standard Webhooks

# The test vector that the Standard Webhooks libraries share.
VECTOR_KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
VECTOR_BODY = b'{"test": 2432232314}'
VECTOR_TIME = datetime.fromtimestamp(1614265330, UTC)
VECTOR = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_the_published_vector_verifies() -> None:
    """Key, id, timestamp, body and signature as the specification's libraries test them."""
    assert verify_standard(VECTOR_KEY, VECTOR, VECTOR_BODY, VECTOR_TIME)


def test_several_signatures_are_allowed_while_a_secret_rotates() -> None:
    """One of them must hold; unknown versions and junk beside it are ignored."""
    good = VECTOR["webhook-signature"]
    bad = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
    for text in (f"{bad} {good}", f"{good} {bad}", f"v1a,xyz {good}", f"junk , ,, {good}"):
        assert verify_standard(VECTOR_KEY, VECTOR | {"webhook-signature": text}, VECTOR_BODY, VECTOR_TIME)
    for text in (
        bad,
        f"{bad} {bad}",
        good.replace("v1,", "v2,"),
        good.removeprefix("v1,"),
        "",
        "v1,",
        good[:-2],
        f"{bad} " * 16 + good,
    ):
        assert not verify_standard(VECTOR_KEY, VECTOR | {"webhook-signature": text}, VECTOR_BODY, VECTOR_TIME)


def test_every_part_is_signed() -> None:
    """Another id, time, body or key: refused."""
    assert not verify_standard(VECTOR_KEY, VECTOR | {"webhook-id": "msg_other"}, VECTOR_BODY, VECTOR_TIME)
    assert not verify_standard(VECTOR_KEY, VECTOR | {"webhook-timestamp": "1614265331"}, VECTOR_BODY, VECTOR_TIME)
    assert not verify_standard(VECTOR_KEY, VECTOR, VECTOR_BODY + b"\n", VECTOR_TIME)
    assert not verify_standard(VECTOR_KEY + b"x", VECTOR, VECTOR_BODY, VECTOR_TIME)
    for missing in VECTOR:
        headers = {name: value for name, value in VECTOR.items() if name != missing}
        assert not verify_standard(VECTOR_KEY, headers, VECTOR_BODY, VECTOR_TIME)


@pytest.mark.parametrize(("offset_s", "is_valid"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)])
def test_the_timestamp_may_be_five_minutes_off(offset_s: int, *, is_valid: bool) -> None:
    """An older one is a replay, a newer one a wrong clock."""
    now = VECTOR_TIME + timedelta(seconds=offset_s)
    assert verify_standard(VECTOR_KEY, VECTOR, VECTOR_BODY, now) is is_valid


@pytest.mark.parametrize("stamp", ["1614265330.0", " 1614265330", "1e9", "-1", "٣", "9" * 400, "", "nan", "0x10"])
def test_an_odd_timestamp_is_refused_even_if_signed(stamp: str) -> None:
    """Plain Unix seconds only."""
    signed = b".".join((b"msg_1", stamp.encode(), VECTOR_BODY))
    encoded = base64.b64encode(hmac.new(VECTOR_KEY, signed, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": "v1," + encoded}
    assert not verify_standard(VECTOR_KEY, headers, VECTOR_BODY, VECTOR_TIME)


def test_signatures_of_the_standard_webhooks_library_are_accepted() -> None:
    """What the scheme's own library signs with the whsec_ form of an apiSecret is accepted."""
    world = World()
    body = world.body()
    signer = standardwebhooks.Webhook(standard_webhooks_secret(world.api_secret))
    headers = {
        "webhook-id": "msg_2",
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": signer.sign("msg_2", NOW, body.decode()),
    }
    assert world.code(body, headers) == "standard_webhooks"


def test_a_sender_holds_no_secret(world: World) -> None:
    """The receiver gets the sender as a plain value without secrets."""
    body = world.body()
    caller = world.send(body, {"x-webhook-signature": world.hmac(body)})
    assert world.api_secret not in repr(asdict(caller))
    assert world.api_secret not in repr(world.authenticator)
