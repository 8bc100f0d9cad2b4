"""Make parts of a message safe to store and show: secrets shortened, control characters escaped, the size bounded.

Used for the stored copy of a message and by every refusal that quotes a value. Must not decide anything about an order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kekbridge.formatting import escape_unprintable, has_credential_prefix, redact_credentials

_SECRET_NAME = re.compile(
    r"api_?key|signature|pass_?phrase|passw|secret|token|private|credential|authori|^auth$|^key$|^code$", re.I
)
# Spaces that are no space, and characters without width: on the screen the value looks right.
_INVISIBLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\xa0\\xad\\u1680\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u2064\\u3000\\ufeff]"
)
_MAX_TEXT_LENGTH = 500
_MAX_NAME_LENGTH = 64
_MAX_STORED_LENGTH = 16_384  # characters of one stored message, names included
_FAST_PATH_LENGTH = 100  # below every limit, and long enough for a symbol, a time or an id
_MIN_SECRET_LENGTH = 8  # of an apiKey; a shorter one might be an ordinary word
_MARK = "…"


def shorten_secret(text: str) -> str:
    """The first characters of a secret, enough for its owner to recognise it: `wh_live_9fK2…`."""
    return escape_unprintable(text[: min(12, len(text) // 4)]) + _MARK


def clip(text: str, limit: int) -> str:
    """Cut to at most `limit` characters, marking the cut."""
    return text if len(text) <= limit else text[: limit - 1] + _MARK


def show(value: object) -> str:
    """Format a value of the message for a one-line refusal: quoted, printable, short, secrets shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        odd = _INVISIBLE.search(value)
        named = "" if odd is None else f" (with U+{ord(odd.group()):04X}, {_name_of(odd.group())})"
        return f"'{clip(escape_unprintable(redact_credentials(value[:200])), 48)}'{named}"
    return "a list" if isinstance(value, (list, tuple)) else "an object"


def _name_of(character: str) -> str:
    return unicodedata.name(character, "a control character").lower()


def storable_text(text: str, limit: int = 48) -> str:
    """Format a text of the message for a separate column: printable, short, secrets shortened."""
    return clip(escape_unprintable(redact_credentials(text)), limit)


def redact(document: Mapping[str, Any], *, secret: str | None) -> dict[str, Any]:
    """Copy the message for storage: `secret` (the apiKey) and every text under a secret's name shortened, size bounded."""
    return _Redactor(secret).mapping(document)


def _hide(text: str, secret: str | None) -> str:
    if secret and len(secret) >= _MIN_SECRET_LENGTH and secret in text:
        text = text.replace(secret, shorten_secret(secret))
    return redact_credentials(text)


# Nearly all names come from the trader's own templates and repeat.
@lru_cache(maxsize=512)
def _names_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=512)
def _shown_name(name: str) -> str:
    """The stored form of a short name that does not contain the message's own secret."""
    return clip(escape_unprintable(redact_credentials(name)), _MAX_NAME_LENGTH)


class _Redactor:
    """Redacts one message in one pass, within a budget that bounds its stored size."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret if secret and len(secret) >= _MIN_SECRET_LENGTH else None
        self._budget = _MAX_STORED_LENGTH

    def mapping(self, value: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, inner in value.items():
            if self._budget <= 0:
                result[_MARK] = "cut"
                break
            if len(name) > _MAX_NAME_LENGTH or (self._secret is not None and self._secret in name):
                shown = clip(escape_unprintable(_hide(name, self._secret)), _MAX_NAME_LENGTH)
            else:
                shown = _shown_name(name)
            self._budget -= len(shown) + 4
            if isinstance(inner, str) and inner and _names_secret(name):
                self._budget -= 16
                result[shown] = shorten_secret(inner)
            else:
                result[shown] = self._any(inner)
        return result

    def _text(self, value: str) -> str:
        is_plain = (
            len(value) <= _FAST_PATH_LENGTH <= self._budget
            and value.isprintable()
            and not has_credential_prefix(value)
            and (self._secret is None or self._secret not in value)
        )
        if is_plain:
            return str(value)  # the common case: nothing to hide, escape or cut
        return clip(escape_unprintable(_hide(str(value), self._secret)), min(_MAX_TEXT_LENGTH, max(self._budget, 2)))

    def _any(self, value: object) -> Any:
        if isinstance(value, str):
            text = self._text(value)
            self._budget -= len(text) + 4
            return text
        if isinstance(value, Mapping):
            return self.mapping(value)
        if isinstance(value, (list, tuple)):
            items: list[Any] = []
            for inner in value:
                if self._budget <= 0:
                    items.append(_MARK)
                    break
                self._budget -= 2
                items.append(self._any(inner))
            return items
        return value
