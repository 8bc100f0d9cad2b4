"""Where a field's value comes from: the webhook's lock, the message, or the webhook's default, in this order.

One Source per step. It also refuses unexpanded placeholders, in used fields only, because only those are ever asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kekbridge.alerts.field_names import canonical_name
from kekbridge.alerts.redaction import clip, show
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable
from kekbridge.model import WebhookSettings

_PLACEHOLDER = re.compile(r"\{\{[^{}]*\}\}")

# Defaults and locks for these shape entries; on an exit they would block it (a limit type without a price) or open again (a size).
_FOR_ENTRIES = frozenset(
    {
        "quantity",
        "quantityType",
        "orderType",
        "price",
        "limitPrice",
        "triggerPrice",
        "stopLoss",
        "takeProfit",
        "trailingStop",
        "leverage",
        "slippage",
    }
)


def refuse_placeholder(name: str, value: object) -> None:
    """Raise Refused(placeholder_unexpanded) when a text still holds `{{…}}`, naming it."""
    if not isinstance(value, str) or ("{{" not in value and "}}" not in value):
        return
    found = _PLACEHOLDER.search(value)
    shown = clip(escape_unprintable(found.group() if found else value), 60)
    raise Refused(
        "placeholder_unexpanded",
        f"{name}: found {shown}, which TradingView did not replace; strategy placeholders work in strategy alerts only, "
        "none works inside alert(), and there is no arithmetic in them",
        field=name,
    )


class FieldSource:
    """The fields of one step under one webhook's settings; collects warnings on the way."""

    def __init__(self, fields: Mapping[str, Any], settings: WebhookSettings) -> None:
        self._fields = fields
        self.settings = settings
        self._locked = {canonical_name(name): value for name, value in settings.locked.items()}
        self._defaults = {canonical_name(name): value for name, value in settings.defaults.items()}
        self._has_own = bool(settings.locked or settings.defaults)
        self.is_entry = True
        self.warnings: list[str] = []

    def value(self, name: str) -> Any | None:
        """What counts for `name`, or None. Null and empty text are absent; an unexpanded placeholder is refused."""
        if not self._has_own and self._fields.get(name) is None:
            return None  # most fields of most alerts
        locked = self.locked(name) if self._locked else None
        if locked is not None:
            said = self._fields.get(name)
            if not _is_blank(said) and said != locked:
                self._warn(f"{name}: {show(said)} of the message was replaced by the webhook's locked {show(locked)}")
            return locked
        said = self.message_value(name)
        return said if said is not None or not self._defaults else self.default(name)

    def message_value(self, name: str) -> Any | None:
        """What the message itself says; None for absent, null and empty text."""
        said = self._fields.get(name)
        if said is None:
            return None
        refuse_placeholder(name, said)
        return None if _is_blank(said) else said

    def locked(self, name: str) -> str | None:
        """The webhook's lock, where it applies to this step."""
        return self._locked.get(name) if self.is_entry or name not in _FOR_ENTRIES else None

    def default(self, name: str) -> str | None:
        """The webhook's default, where it applies to this step."""
        return self._defaults.get(name) if self.is_entry or name not in _FOR_ENTRIES else None

    def protective(self, name: str, empty_code: str) -> Any | None:
        """Like value(), but an empty text is refused: dropping a stop because a placeholder expanded to nothing costs an account."""
        said = self._fields.get(name)
        if _is_blank(said) and said is not None and self.locked(name) is None:
            if not self.settings.allow_empty_stop_loss:
                raise Refused(
                    empty_code,
                    f"{name}: found {show(said)}, expected a price or a percent; fill it, or leave the field out",
                    field=name,
                )
            self._warn(f"{name}: empty, and this webhook goes on without it")
        return self.value(name)

    def free_text(self, name: str) -> Any | None:
        """A value that nothing is decided by: a leftover placeholder in it does no harm."""
        locked = self.locked(name)
        if locked is not None:
            return locked
        said = self._fields.get(name)
        return self.default(name) if _is_blank(said) else said

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _is_blank(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())
