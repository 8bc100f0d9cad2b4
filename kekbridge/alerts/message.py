"""Read a request body into a Message, and a Message into an Alert with its Signals. Pure.

read_message() needs only the bytes and runs before authentication; interpret() runs once the webhook is known.
fields.py reads single fields, profiles.py maps other services' formats. Must not know the account or the market.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

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
from kekbridge.alerts.numbers import NumberText, parse_decimal
from kekbridge.alerts.profile import Profile
from kekbridge.alerts.profiles import find_profile
from kekbridge.alerts.redaction import redact, show, storable_text
from kekbridge.alerts.signal import Alert, Signal
from kekbridge.alerts.timestamps import parse_timestamp
from kekbridge.errors import Refused, Unauthenticated, Unreadable
from kekbridge.formatting import holds_credential
from kekbridge.model import WebhookSettings

# Shared: json.dumps with options creates a new encoder on each call.
_to_json = json.JSONEncoder(ensure_ascii=False).encode
_quote = encode_basestring

_MAX_STEPS = 20  # a step may need several orders, and an alert has a hundred client order ids (client_order_id_of)
_MAX_SENDER_ID_LENGTH = 128
_MAX_NAMES = 12
_LONGEST_AGE_S = 86_400


class Message(Struct, frozen=True, kw_only=True):
    """One parsed body, neither authenticated nor interpreted yet."""

    #: Fields of each step as written, with the common fields merged in.
    steps: tuple[Mapping[str, Any], ...]
    #: Key of the webhook, from `apiKey` or another service's credential field.
    api_key: str | None
    #: Template signature.
    signature: str | None
    #: `alertId`, the sender's own id of the alert; None if its steps have different ones.
    sender_id: str | None
    #: SHA-256 (hex) of the body without outer whitespace.
    body_digest: str
    #: The parsed JSON.
    document: dict[str, Any] | list[Any]

    @property
    def texts(self) -> dict[str, str]:
        """What a template signature covers (docs/internals/architecture.md section 4 (c)): value text by top-level name as written.

        The steps of an array are one text named `steps`. Computed on demand: most proofs are headers over the body.
        """
        if isinstance(self.document, dict):
            return {name: value_text(value) for name, value in self.document.items()}
        bare = [{n: v for n, v in step.items() if canonical_name(n) not in IDENTITY_FIELDS} for step in self.document]
        texts = {name: value_text(value) for name, value in _identity_of(self.document).items()}
        return {**texts, STEPS_FIELD: value_text(bare)}

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content without timestamp and signature.

        The same alert with a new timestamp has the same fingerprint; any other change gives another one.
        """
        return hashlib.sha256(_canonical_text(_without_stamps(self.document)).encode()).hexdigest()

    def redacted(self) -> dict[str, Any]:
        """The message in the form that may be stored: secrets shortened, invisible characters escaped, size bounded."""
        if isinstance(self.document, list):
            return redact({STEPS_FIELD: self.document}, secret=self.api_key)
        return redact(self.document, secret=self.api_key)


def read_message(body: bytes) -> Message:
    """Parse one request body, whatever its Content-Type: TradingView's is often wrong (docs/internals/tradingview.md section 1).

    Accepts an object, an array of objects (steps of one message; apiKey and signature in the first or in each, alertId and timestamp
    also different ones), or an
    object with `steps` (its other fields apply to every step that does not override them).
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
    """The time at which the alert fired, as stated by the message, or None; the earliest of several steps with times of their own.

    Raises Refused(placeholder_unexpanded | field_invalid).
    """
    shape = find_profile(profile)
    if len(message.steps) == 1:
        return _time_of(message.steps[0], shape)
    times = [_time_of(step, shape) for step in message.steps]
    return None if None in times else min(time for time in times if time is not None)


def _time_of(step: Mapping[str, Any], profile: Profile) -> datetime | None:
    value = profile.timestamp_of(step)
    if value is None or value == "":
        return None
    refuse_placeholder("timestamp", value)
    return parse_timestamp(value)


def has_position(message: Message, settings: WebhookSettings) -> bool:
    """Whether the message has a strategy's position, so that its place among the strategy's alerts can be told; in no time."""
    names = find_profile(settings.profile).position_names
    return any(not names.isdisjoint(step) for step in message.steps)


def allowed_age_s(message: Message, settings: WebhookSettings, default: float) -> float:
    """How old the alert may be, in seconds: the webhook's own maximum, else the message's where its service has one, else `default`.

    Of the first two the smaller one. Raises Refused(field_invalid) for a maximum that is no number from 1 to 86,400.
    """
    name = find_profile(settings.profile).max_age_field
    written = None if name is None else message.steps[0].get(name)
    own = settings.max_timestamp_age_s
    if written is None or written == "":
        return own or default
    seconds = parse_decimal(written)
    if seconds is None or not 1 <= seconds <= _LONGEST_AGE_S:
        raise Refused(
            "field_invalid",
            f"{name}: found {show(written)}, expected a number of seconds from 1 to {_LONGEST_AGE_S}",
            field=name,
        )
    return min(float(seconds), own or float(seconds))


def timestamp_missing() -> Unauthenticated:
    """The error for a message without a timestamp on a webhook that requires one."""
    return Unauthenticated(
        "timestamp_missing",
        'timestamp: missing, expected the time the alert fired; add "timestamp":"{{timenow}}", or create the webhook with '
        "--no-require-timestamp",
        field="timestamp",
    )


def interpret(message: Message, settings: WebhookSettings) -> Alert:
    """Read the message's steps into Signals, applying the webhook's profile, defaults, locked fields and mode.

    Raises Refused with code, field, what was found, what was expected and the fix; for several steps also the step's number.
    """
    profile = find_profile(settings.profile)
    if message.sender_id is not None:
        refuse_placeholder("alertId", message.sender_id)
    warnings: list[str] = []
    signals: list[Signal] = []
    unread: list[str] = []
    for number, step in enumerate(message.steps, start=1):
        try:
            signal, step_warnings, names = read_signal(step, settings, profile)
        except Refused as refusal:
            if len(message.steps) == 1:
                raise
            text = f"step {number} of {len(message.steps)}: {refusal.message}"
            raise Refused(refusal.code, text, field=refusal.field) from None
        signals.append(signal if len(message.steps) == 1 else replace(signal, fired_at=_time_of(step, profile)))
        warnings += step_warnings
        unread += names
    if unread:
        warnings.append(_passed_over(unread))
    return Alert(
        alert_id=message.sender_id,
        fired_at=fired_at(message, settings.profile),
        steps=tuple(signals),
        redacted=message.redacted(),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _passed_over(names: Sequence[str]) -> str:
    """One warning for all fields that decide nothing."""
    different = list(dict.fromkeys(names))
    shown = [storable_text(name) for name in different[:_MAX_NAMES]]
    more = f" and {len(different) - _MAX_NAMES} more" if len(different) > _MAX_NAMES else ""
    return f"fields that decide nothing were passed over: {', '.join(shown)}{more}"


def value_text(value: object) -> str:
    """The form of a value that a template signature covers: a text itself, a number as written, anything else as compact JSON."""
    if isinstance(value, str):
        return str(value)
    return _canonical_text(value, is_sorted=False)


# ---------------------------------------------------------------------------------------------------------------- steps

_OF_EACH_STEP = frozenset({"alertId", "timestamp"})
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
        found = (
            "an empty list"
            if listed == []
            else "other values in the list"
            if isinstance(listed, list)
            else show(listed)
        )
        raise Unreadable(
            "invalid_json",
            f'steps: found {found}, expected a list of objects such as [{{"action":"close"}},{{"action":"buy"}}]',
            field=STEPS_FIELD,
        )
    if len(listed) > _MAX_STEPS:
        raise Unreadable(
            "field_invalid",
            f"steps: found {len(listed)}, expected at most {_MAX_STEPS}; send several alerts",
            field=STEPS_FIELD,
        )
    if any(STEPS_FIELD in step for step in listed):
        raise Unreadable("field_invalid", "steps: a step cannot have steps of its own", field=STEPS_FIELD)
    return listed


def _merge(common: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """Add the common fields to a step unless it has its own, in either spelling."""
    own = {canonical_name(name) for name in step}
    return {**{name: value for name, value in common.items() if canonical_name(name) not in own}, **step}


def _identity_of(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """apiKey, alertId, timestamp and signature of the whole message.

    A repeated apiKey or signature must be equal; steps with different ids or times have them each for itself.
    """
    identity: dict[str, Any] = {}
    different: set[str] = set()
    for one in objects:
        for name, value in one.items():
            canonical = IDENTITY_NAMES.get(name)
            if canonical is None or value is None:
                continue
            if canonical in _OF_EACH_STEP and identity.get(canonical, value) != value:
                different.add(canonical)
            elif canonical in IDENTITY_FIELDS and identity.get(canonical, value) != value:
                raise Unreadable(
                    "field_invalid",
                    f"{canonical}: found different values in the steps of one message, expected the same in each or only in the first",
                    field=canonical,
                )
            identity.setdefault(canonical, value)
    return {name: value for name, value in identity.items() if name not in different}


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
    """The sender's own id of the alert. One that is too long is refused, not cut: two alerts with one id would be one order."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _MAX_SENDER_ID_LENGTH or not value.isprintable() or not value.strip():
        raise Unreadable(
            "field_invalid",
            f"alertId: found {show(value)}, expected a printable text or number of at most {_MAX_SENDER_ID_LENGTH} characters",
            field="alertId",
        )
    if holds_credential(value):
        # The id is written to logs, responses and the store: a credential in it would be exposed.
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
    """Compact JSON with numbers as written (json.dumps would quote a NumberText); keys sorted or in their own order."""
    if isinstance(value, str):
        return str(value) if isinstance(value, NumberText) else _quote(value)
    if isinstance(value, dict):
        items = sorted(value.items()) if is_sorted else value.items()
        parts = [  # most values are texts, written here without a call
            f"{_quote(name)}:{_quote(inner) if type(inner) is str else _canonical_text(inner, is_sorted=is_sorted)}"
            for name, inner in items
        ]
        return f"{{{','.join(parts)}}}"
    if isinstance(value, list):
        return f"[{','.join([_canonical_text(inner, is_sorted=is_sorted) for inner in value])}]"
    return _to_json(value)
