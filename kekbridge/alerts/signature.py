"""The template signature: proof that a message was printed by its owner, for a sender that can compute nothing.

Rules: docs/internals/architecture.md section 4 (c).

Form: `v1:<name,name,…>:<hex HMAC-SHA256>`. The HMAC covers a compact JSON array of [name, text] pairs sorted by name, where text is the
field's value as it stands in the message (a number's digits, not its value). A name with `?` behind it (`quantity?`) marks a field that
the template left to a placeholder: its presence is covered, as the pair ["quantity?", ""], its value is free.

What a thief of one message may do: send it again (until its timestamp is too old), and put other values where the template has
placeholders; nothing else. So every field that can change an order must be in the list one way or the other, and every listed field
must be there. Only what cannot make an order riskier may stand unlisted: timestamp, alertId, exchange; a comment unless it selects the
orders to cancel; the signal price of a market order; an orderType that says market; and names that are ignored anyway.
Pure; the secret and the comparison never leave this module.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kekbridge.alerts.field_names import CREDENTIAL_FIELDS, canonical_name
from kekbridge.alerts.profile import Profile
from kekbridge.alerts.profiles import find_profile

VERSION = "v1"
_FORM = re.compile(r"v1:([A-Za-z0-9_]{1,64}\??(?:,[A-Za-z0-9_]{1,64}\??){0,63}):([0-9a-fA-F]{64})")

# The canonical text of pairs; one encoder each, where json.dumps with an option makes a new one each time.
_as_it_is = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(separators=(",", ":")).encode

# May always stand unlisted: who and when are checked elsewhere, and a venue can only get an alert refused.
_HARMLESS = frozenset({"timestamp", "alertId", "signature", "exchange"})


@dataclass(frozen=True, slots=True)
class Proof:
    """Outcome of a check: `free` are the fields whose values the template left open; `reason` says why not, for the log only."""

    is_valid: bool
    free: tuple[str, ...] = ()
    reason: str = ""


def sign(secret: str, fields: Mapping[str, str], free: Iterable[str] = ()) -> str:
    """The signature text over `fields` (name as in the message -> value text) and the names of free placeholders.

    Raises ValueError for a name that the form cannot carry, or one that is both signed and free.
    """
    names = [*fields, *(f"{name}?" for name in free)]
    listed = ",".join(sorted(names))
    if len({name.removesuffix("?") for name in names}) != len(names):
        raise ValueError("a field cannot be signed and free, or listed twice")
    text = f"{VERSION}:{listed}:{_digest(secret, _as_it_is(_pairs(sorted(names), fields)))}"
    if _FORM.fullmatch(text) is None:
        raise ValueError(f"field names must be 1 to 64 letters, digits or _, found {listed[:80]}")
    return text


def verify(secret: str, signature_text: str, texts: Mapping[str, str], profile: str = "seed") -> bool:
    """Whether the signature proves the message `texts` (Message.texts) under this secret; constant time in the secret."""
    return check(secret, signature_text, texts, profile).is_valid


def check(secret: str, signature_text: str, texts: Mapping[str, str], profile: str = "seed") -> Proof:
    """Like verify(), with the free fields and, for the log, the reason of a refusal.

    `profile` is the webhook's: it decides which of the message's fields are orders and which are ignored. The HMAC is computed for
    every well-formed signature, so that timing tells nothing about which part failed.
    """
    match = _FORM.fullmatch(signature_text)
    if match is None:
        return Proof(is_valid=False, reason="the signature is not of the form v1:<fields>:<hex>")
    listed = match.group(1).split(",")
    free = tuple(name.removesuffix("?") for name in listed if name.endswith("?"))
    pairs = _pairs(sorted(listed), texts)
    given = match.group(2).lower()
    canonical = _as_it_is(pairs)
    is_equal = hmac.compare_digest(_digest(secret, canonical), given)
    if not canonical.isascii():
        # Some signers escape non-ASCII in JSON, others do not. Both texts decode to the same pairs only: accepting both forges nothing.
        is_equal |= hmac.compare_digest(_digest(secret, _escaped(pairs)), given)
    problem = _problem(listed, free, texts, find_profile(profile))
    if problem:
        return Proof(is_valid=False, free=free, reason=problem)
    if not is_equal:
        return Proof(is_valid=False, free=free, reason="a signed field was changed, or the secret is another one")
    return Proof(is_valid=True, free=free)


def _pairs(names: list[str], texts: Mapping[str, str]) -> list[list[str]]:
    return [[name, "" if name.endswith("?") else texts.get(name, "")] for name in names]


def _digest(secret: str, canonical: str) -> str:
    return hmac.digest(secret.encode(), canonical.encode(), "sha256").hex()


def _problem(listed: list[str], free: tuple[str, ...], texts: Mapping[str, str], profile: Profile) -> str:
    """Why the list of fields does not prove this message, or the empty text."""
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
    """Whether an unlisted field could change the order."""
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
    """A comment picks the orders that a cancel hits; with steps or a free action any message may be a cancel."""
    for name, text in texts.items():
        targets = profile.targets_of(name)
        if "steps" in targets or ("action" in targets and (f"{name}?" in listed or text.lower().startswith("cancel"))):
            return True
    return False
