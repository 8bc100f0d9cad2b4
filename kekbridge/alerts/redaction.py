"""What of a message may be stored and shown: secrets shortened, control characters escaped, the size bounded.

Used by payload.py for the stored copy and by every refusal that quotes what was found. Never the other way round: nothing here
decides about an order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kekbridge.formatting import escape_unprintable, has_credential_prefix, redact_credentials

_SECRET_NAME = re.compile(
    r"api_?key|signature|pass_?phrase|passw|secret|token|private|credential|authori|^auth$|^key$|^code$", re.I
)

_LONGEST_TEXT = 500
_LONGEST_NAME = 64
_LONGEST_STORED = 16_384  # characters of one stored message, names included
_SURELY_FITS = 100  # far below the longest text, and long enough for a symbol, a time or an id
_SHORTEST_SECRET = 8  # of an apiKey; a shorter one might be a word of the message
_MARK = "…"


def shorten_secret(text: str) -> str:
    """The first characters of a secret, enough to recognise it and useless to anyone else: `wh_live_9fK2…`."""
    return escape_unprintable(text[: min(12, len(text) // 4)]) + _MARK


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, the cut marked."""
    return text if len(text) <= limit else text[: limit - 1] + _MARK


def show(value: object) -> str:
    """A value of the message for a one-line refusal: quoted, printable, short, secrets shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{clip(escape_unprintable(redact_credentials(value[:200])), 48)}'"
    return "a list" if isinstance(value, (list, tuple)) else "an object"


def storable_text(text: str, limit: int = 48) -> str:
    """A text of the message for a column of its own: printable, short, secrets shortened."""
    return clip(escape_unprintable(redact_credentials(text)), limit)


def redact(document: Mapping[str, Any], *, secret: str | None) -> dict[str, Any]:
    """A copy of the message that may be stored: `secret` (the apiKey) and everything under a secret's name shortened, size bounded."""
    return _Redactor(secret).mapping(document)


def _hide(text: str, secret: str | None) -> str:
    if secret and len(secret) >= _SHORTEST_SECRET and secret in text:
        text = text.replace(secret, shorten_secret(secret))
    return redact_credentials(text)


# Names are those of a trader's own templates, again and again; what a stranger makes up is forgotten soon.
@lru_cache(maxsize=512)
def _names_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=512)
def _shown_name(name: str) -> str:
    """A short name as it is stored, unless it holds the message's own secret."""
    return clip(escape_unprintable(redact_credentials(name)), _LONGEST_NAME)


class _Redactor:
    """One pass over one message, with a budget so that 64 KiB of nonsense do not become 64 KiB in the store."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret if secret and len(secret) >= _SHORTEST_SECRET else None
        self._left = _LONGEST_STORED

    def mapping(self, value: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, inner in value.items():
            if self._left <= 0:
                result[_MARK] = "cut"
                break
            shown = self._name(name)
            self._left -= len(shown) + 4
            result[shown] = self._named(name, inner)
        return result

    def _name(self, name: str) -> str:
        if len(name) > _LONGEST_NAME or (self._secret is not None and self._secret in name):
            return clip(escape_unprintable(_hide(name, self._secret)), _LONGEST_NAME)
        return _shown_name(name)

    def _text(self, value: str) -> str:
        is_plain = (
            len(value) <= _SURELY_FITS <= self._left
            and value.isprintable()
            and not has_credential_prefix(value)
            and (self._secret is None or self._secret not in value)
        )
        if is_plain:
            return str(value)  # nothing of it is hidden, escaped or cut: nearly every text
        return clip(escape_unprintable(_hide(str(value), self._secret)), min(_LONGEST_TEXT, max(self._left, 2)))

    def _named(self, name: str, value: object) -> Any:
        if isinstance(value, str) and value and _names_secret(name):
            self._left -= 16
            return shorten_secret(value)
        return self._any(value)

    def _any(self, value: object) -> Any:
        if isinstance(value, str):
            text = self._text(value)
            self._left -= len(text) + 4
            return text
        if isinstance(value, Mapping):
            return self.mapping(value)
        if isinstance(value, (list, tuple)):
            items: list[Any] = []
            for inner in value:
                if self._left <= 0:
                    items.append(_MARK)
                    break
                self._left -= 2
                items.append(self._any(inner))
            return items
        return value
