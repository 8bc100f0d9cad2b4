"""Create and check template signatures, for senders that cannot compute anything (docs/internals/architecture.md section 4 (c)).

Form: `v1:<name,name,…>:<hex HMAC-SHA256>`. The HMAC covers a compact JSON array of [name, text] pairs sorted by name, where text is the
field's value as written in the message (a number's digits, not its value). A name followed by `?` (`quantity?`) is a field that
the template left to a placeholder: its presence is covered, as the pair ["quantity?", ""], its value is free.

A thief of one message can send it again, with a time of its own, and change the values of placeholders within the message's `symbols` and
`maxQuantity`, nothing else. So every
field that can change an order must be listed, signed or free, and every listed field must be present. Only fields that cannot make an
order riskier may be unlisted: timestamp, alertId, exchange; a comment unless it selects the orders to cancel; the signal price of a
market order; an orderType of market; and names that are ignored anyway. Pure; secret and comparison stay in this module.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from kekbridge.alerts.field_names import CREDENTIAL_FIELDS, canonical_name
from kekbridge.alerts.profile import Profile
from kekbridge.alerts.profiles import find_profile

VERSION = "v1"
_FORM = re.compile(r"v1:([A-Za-z0-9_]{1,64}\??(?:,[A-Za-z0-9_]{1,64}\??){0,63}):([0-9a-fA-F]{64})")

# Shared: json.dumps with options creates a new encoder on each call.
_unescaped = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(separators=(",", ":")).encode

# May always be unlisted: sender and time are checked elsewhere, and an exchange can only get an alert refused.
_HARMLESS = frozenset({"timestamp", "alertId", "signature", "exchange"})


class Proof(Struct, frozen=True):
    """The result of a signature check."""

    #: The signature proves the message.
    is_valid: bool
    #: Fields whose values the template left to placeholders.
    free: tuple[str, ...] = ()
    #: Why it is invalid; for the log only.
    reason: str = ""


def sign(secret: str, fields: Mapping[str, str], free: Iterable[str] = ()) -> str:
    """Sign `fields` (value text by name as in the message) and the names of `free` placeholders; return the signature text.

    Raises ValueError for a name that does not fit the form, or one that is both signed and free.
    """
    names = [*fields, *(f"{name}?" for name in free)]
    listed = ",".join(sorted(names))
    if len({name.removesuffix("?") for name in names}) != len(names):
        raise ValueError("a field cannot be signed and free, or listed twice")
    text = f"{VERSION}:{listed}:{_digest(secret, _unescaped(_pairs(sorted(names), fields)))}"
    if _FORM.fullmatch(text) is None:
        raise ValueError(f"field names must be 1 to 64 letters, digits or _, found {listed[:80]}")
    return text


def check(secret: str, signature_text: str, texts: Mapping[str, str], profile: str = "seed") -> Proof:
    """Check whether the signature proves the message `texts` (Message.texts); constant time in the secret.

    `profile` is the webhook's: it decides which fields belong to the order and which are ignored. The HMAC is computed for
    every well-formed signature, so that timing does not reveal which part failed.
    """
    match = _FORM.fullmatch(signature_text)
    if match is None:
        return Proof(is_valid=False, reason="the signature is not of the form v1:<fields>:<hex>")
    listed = match.group(1).split(",")
    free = tuple(name.removesuffix("?") for name in listed if name.endswith("?"))
    pairs = _pairs(sorted(listed), texts)
    given = match.group(2).lower()
    canonical = _unescaped(pairs)
    is_equal = hmac.compare_digest(_digest(secret, canonical), given)
    if not canonical.isascii():
        # Some signers escape non-ASCII in JSON, others do not. Both forms decode to the same pairs, so accepting both is safe.
        is_equal |= hmac.compare_digest(_digest(secret, _escaped(pairs)), given)
    problem = _find_problem(listed, free, texts, find_profile(profile))
    if problem:
        return Proof(is_valid=False, free=free, reason=problem)
    if not is_equal:
        return Proof(is_valid=False, free=free, reason="a signed field was changed, or the secret differs")
    return Proof(is_valid=True, free=free)


def _pairs(names: list[str], texts: Mapping[str, str]) -> list[list[str]]:
    return [[name, "" if name.endswith("?") else texts.get(name, "")] for name in names]


def _digest(secret: str, canonical: str) -> str:
    return hmac.digest(secret.encode(), canonical.encode(), "sha256").hex()


def _find_problem(listed: list[str], free: tuple[str, ...], texts: Mapping[str, str], profile: Profile) -> str:
    """Return why the list of fields does not prove this message, or an empty text."""
    bare = {name.removesuffix("?") for name in listed}
    if len(bare) != len(listed):
        return "a field is listed twice in the signature"
    missing = next((name for name in sorted(bare) if name not in texts), None)
    if missing is not None:
        return f"the signed field {missing} is not in the message"
    if not any(name not in free and _is_credential(name) for name in bare):
        return "the signature does not cover the apiKey"
    unlisted = next((name for name in texts if name not in bare and _is_risky(name, bare, texts, profile)), None)
    if unlisted is not None:
        return f"the field {unlisted[:40]!r} is not covered by the signature"
    return ""


def _is_credential(name: str) -> bool:
    return canonical_name(name) == "apiKey" or name in CREDENTIAL_FIELDS


def _is_risky(name: str, listed: set[str], texts: Mapping[str, str], profile: Profile) -> bool:
    """Return whether an unlisted field could change the order."""
    targets = profile.targets_of(name) - _HARMLESS
    if not targets:
        return False
    if targets == {"orderType"}:
        return texts[name].lower() != "market"
    if targets == {"price"}:
        return not _is_market_order(texts, profile)
    if targets == {"comment"}:
        return _may_cancel(listed, texts, profile)
    return True


def _is_market_order(texts: Mapping[str, str], profile: Profile) -> bool:
    kinds = [text for name, text in texts.items() if "orderType" in profile.targets_of(name)]
    return all(kind.lower() == "market" for kind in kinds)


def _may_cancel(listed: set[str], texts: Mapping[str, str], profile: Profile) -> bool:
    """Return whether the message may be a cancel, whose comment selects the orders; with steps or a free action any may be."""
    for name, text in texts.items():
        targets = profile.targets_of(name)
        if "steps" in targets or ("action" in targets and (f"{name}?" in listed or text.lower().startswith("cancel"))):
            return True
    return False
