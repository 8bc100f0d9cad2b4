"""From the bytes of a request to an Alert: what was said, by whom it claims to be sent, when it fired. Pure; the second step of receive().

read_message() needs nothing but the bytes and runs before anyone is trusted; interpret() runs once the webhook is known.
The meaning of single fields is in fields.py, foreign message shapes in profiles.py; nothing here knows the account or the market.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Any

from kekbridge.alerts.field_names import (
    CREDENTIAL_FIELDS,
    IDENTITY_FIELDS,
    IDENTITY_NAMES,
    KEY_PREFIXES,
    STAMP_NAMES,
    STEPS_FIELD,
    canonical_name,
)
from kekbridge.alerts.field_source import refuse_placeholder
from kekbridge.alerts.fields import read_signal
from kekbridge.alerts.json_reader import read_document, strip_body
from kekbridge.alerts.numbers import NumberText
from kekbridge.alerts.profiles import find_profile
from kekbridge.alerts.redaction import redact, show
from kekbridge.alerts.signal import Alert, Signal
from kekbridge.alerts.timestamps import instant_of
from kekbridge.errors import Refused, Unauthenticated, Unreadable
from kekbridge.formatting import holds_credential
from kekbridge.model import WebhookSettings

# Values as JSON; one encoder for all, where json.dumps with an option makes a new one each time, and texts as it writes them.
_encoded = json.JSONEncoder(ensure_ascii=False).encode
_quoted = encode_basestring

MOST_STEPS = 20  # every step may need several orders, and an alert has a hundred order names (client_order_id_of)
_LONGEST_SENDER_ID = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One readable body. Nothing in it is trusted or even understood yet.

    `steps` has the objects as written, what stands beside the steps merged into each.
    """

    steps: tuple[Mapping[str, Any], ...]
    api_key: str | None
    signature: str | None
    sender_id: str | None
    body_digest: str
    document: dict[str, Any] | list[Any]

    @property
    def texts(self) -> dict[str, str]:
        """What a template signature signs (docs/internals/architecture.md section 4 (c)): each top-level name as written, its value text.

        The steps of an array are one text named `steps`. Made when it is asked for: most proofs are headers over the body.
        """
        if isinstance(self.document, dict):
            return {name: value_text(value) for name, value in self.document.items()}
        bare = [{n: v for n, v in step.items() if canonical_name(n) not in IDENTITY_FIELDS} for step in self.document]
        texts = {name: value_text(value) for name, value in _identity_of(self.document).items()}
        return {**texts, STEPS_FIELD: value_text(bare)}

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content without timestamp and signature: what makes two messages the same order.

        The same alert sent again with a fresh timestamp has the same fingerprint, any other change gives another one.
        """
        return hashlib.sha256(_canonical_text(_without_stamps(self.document)).encode()).hexdigest()

    def redacted(self) -> dict[str, Any]:
        """The message as it may be stored: secrets shortened, invisible characters escaped, size bounded."""
        if isinstance(self.document, list):
            return redact({STEPS_FIELD: self.document}, secret=self.api_key)
        return redact(self.document, secret=self.api_key)


def read_message(body: bytes) -> Message:
    """Read one request body; the Content-Type is not asked, TradingView's is wrong too often (docs/internals/tradingview.md section 1).

    Accepts an object, an array of objects (steps of one message; apiKey, alertId, timestamp and signature in the first or in each), or an
    object with `steps` (its other fields hold for every step that does not say otherwise).
    Raises Unreadable: empty_body, not_an_order, invalid_json, duplicate_key, invalid_encoding, field_invalid.
    """
    stripped = strip_body(body)
    document = read_document(stripped)
    identity, steps = _split_array(document) if isinstance(document, list) else _split_object(document)
    return Message(
        steps=tuple(MappingProxyType(step) for step in steps),
        api_key=_api_key(identity),
        signature=_plain_text(identity.get("signature")),
        sender_id=_sender_id(identity.get("alertId")),
        body_digest=hashlib.sha256(stripped).hexdigest(),
        document=document,
    )


def fired_at(message: Message, profile: str = "seed") -> datetime | None:
    """When the message says it fired; None when it does not say. Raises Refused(placeholder_unexpanded | field_invalid)."""
    value = find_profile(profile).timestamp_of(message.steps[0])
    if value is None or value == "":
        return None
    refuse_placeholder("timestamp", value)
    return instant_of(value)


def timestamp_missing() -> Unauthenticated:
    """The refusal for a webhook that wants to know how old a message is."""
    return Unauthenticated(
        "timestamp_missing",
        'timestamp: missing, expected the time the alert fired; add "timestamp":"{{timenow}}", or create the webhook with '
        "--no-require-timestamp",
        field="timestamp",
    )


def interpret(message: Message, settings: WebhookSettings) -> Alert:
    """What the message means on a webhook with these settings: its profile, defaults, locked fields and mode applied.

    Raises Refused with the code, the field, what was found, what was expected and the fix; with several steps also which one.
    """
    profile = find_profile(settings.profile)
    if message.sender_id is not None:
        refuse_placeholder("alertId", message.sender_id)
    warnings: list[str] = []
    signals: list[Signal] = []
    for number, step in enumerate(message.steps, start=1):
        try:
            signal, said = read_signal(profile.canonical(step), settings)
        except Refused as refusal:
            if len(message.steps) == 1:
                raise
            where = f"step {number} of {len(message.steps)}: {refusal.message}"
            raise Refused(refusal.code, where, field=refusal.field) from None
        signals.append(signal)
        warnings += said
    return Alert(
        alert_id=message.sender_id,
        fired_at=fired_at(message, settings.profile),
        steps=tuple(signals),
        redacted=message.redacted(),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def value_text(value: object) -> str:
    """The text of a value that a template signature covers: a text itself, a number as it is written, anything else as compact JSON."""
    if isinstance(value, str):
        return str(value)
    return _canonical_text(value, is_sorted=False)


# ------------------------------------------------------------------------------------------------- shapes of a message

_Parts = tuple[dict[str, Any], list[dict[str, Any]]]


def _split_object(document: dict[str, Any]) -> _Parts:
    listed = document.get(STEPS_FIELD)
    if listed is None:
        return _identity_of([document]), [document]
    common = {name: value for name, value in document.items() if name != STEPS_FIELD}
    steps = _check_steps(listed)
    identity = _identity_of([common, *steps])
    return identity, [_merge(common, step) for step in steps]


def _split_array(document: list[Any]) -> _Parts:
    steps = _check_steps(document)
    identity = _identity_of(steps)
    return identity, [_merge(identity, step) for step in steps]


def _check_steps(listed: object) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or not listed or not all(isinstance(step, dict) for step in listed):
        found = "an empty list" if listed == [] else f"{show(listed)} with something else in it"
        raise Unreadable(
            "invalid_json",
            f'steps: found {found}, expected a list of objects such as [{{"action":"close"}},{{"action":"buy"}}]',
            field=STEPS_FIELD,
        )
    if len(listed) > MOST_STEPS:
        raise Unreadable(
            "field_invalid",
            f"steps: found {len(listed)}, expected at most {MOST_STEPS}; send several alerts",
            field=STEPS_FIELD,
        )
    if any(STEPS_FIELD in step for step in listed):
        raise Unreadable("field_invalid", "steps: a step cannot have steps of its own", field=STEPS_FIELD)
    return listed


def _merge(common: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the steps holds for each that does not say otherwise, whatever spelling either uses."""
    own = {canonical_name(name) for name in step}
    return {**{name: value for name, value in common.items() if canonical_name(name) not in own}, **step}


def _identity_of(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """apiKey, alertId, timestamp and signature of the whole message; given more than once they must agree."""
    identity: dict[str, Any] = {}
    for one in objects:
        for name, value in one.items():
            canonical = IDENTITY_NAMES.get(name)
            if canonical is None or value is None:
                continue
            if canonical in IDENTITY_FIELDS and identity.get(canonical, value) != value:
                raise Unreadable(
                    "field_invalid",
                    f"{canonical}: the steps of one message carry different values, expected the same in each or only in the first",
                    field=canonical,
                )
            identity.setdefault(canonical, value)
    return identity


# ---------------------------------------------------------------------------------------------------------- identity


def _plain_text(value: object) -> str | None:
    return str(value) if isinstance(value, str) and not isinstance(value, NumberText) and value else None


def _api_key(identity: Mapping[str, Any]) -> str | None:
    key = _plain_text(identity.get("apiKey"))
    if key is not None:
        return key
    others = (_plain_text(identity.get(name)) for name in CREDENTIAL_FIELDS)
    return next((other for other in others if other and other.startswith(KEY_PREFIXES)), None)


def _sender_id(value: object) -> str | None:
    """The sender's own name for the alert. Too long is refused, not cut: two alerts with one name would be one order."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_SENDER_ID or not value.isprintable() or not value.strip():
        raise Unreadable(
            "field_invalid",
            f"alertId: found {show(value)}, expected a printable text or number of at most {_LONGEST_SENDER_ID} characters",
            field="alertId",
        )
    if holds_credential(value):
        # It names the alert in logs, answers and the store: a credential there would be written down in the clear.
        raise Unreadable(
            "field_invalid",
            f"alertId: found a credential ({show(value)}), expected an id of the alert",
            field="alertId",
        )
    return str(value)


# ------------------------------------------------------------------------------------------------------ canonical text


def _without_stamps(document: object) -> object:
    if isinstance(document, list):
        return [_without_stamps(one) for one in document]
    if isinstance(document, dict):
        kept = {n: v for n, v in document.items() if n not in STAMP_NAMES}
        if isinstance(kept.get(STEPS_FIELD), list):
            kept[STEPS_FIELD] = _without_stamps(kept[STEPS_FIELD])
        return kept
    return document


def _canonical_text(value: object, *, is_sorted: bool = True) -> str:
    """Compact JSON with numbers as they were written (json.dumps would quote a NumberText); keys sorted or as they stand."""
    if isinstance(value, str):
        return str(value) if isinstance(value, NumberText) else _quoted(value)
    if isinstance(value, dict):
        items = sorted(value.items()) if is_sorted else value.items()
        parts = [f"{_quoted(name)}:{_canonical_text(inner, is_sorted=is_sorted)}" for name, inner in items]
        return f"{{{','.join(parts)}}}"
    if isinstance(value, list):
        return f"[{','.join([_canonical_text(inner, is_sorted=is_sorted) for inner in value])}]"
    return _encoded(value)
