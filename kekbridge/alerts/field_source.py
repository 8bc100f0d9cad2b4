"""Look up a field's value: the webhook's locked value, the message's, or the webhook's default, in this order.

Also refuses unexpanded placeholders, in used fields only, because only those are looked up.
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

# Defaults and locks of these fields apply to entries only; an exit could be blocked (a limit type without a price) or become partial.
_ENTRY_FIELDS = frozenset(
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
    """Raise Refused(placeholder_unexpanded) if a text still contains `{{…}}`."""
    if not isinstance(value, str) or ("{{" not in value and "}}" not in value):
        return
    found = _PLACEHOLDER.search(value)
    shown = clip(escape_unprintable(found.group() if found else value), 60)
    raise Refused(
        "placeholder_unexpanded",
        f"{name}: found {shown}, which TradingView did not replace; strategy placeholders work only in strategy alerts, "
        "none works inside alert(), and they cannot contain arithmetic",
        field=name,
    )


class FieldSource:
    """The fields of one step under a webhook's settings; collects warnings."""

    def __init__(self, fields: Mapping[str, Any], settings: WebhookSettings) -> None:
        self._fields = fields
        self.settings = settings
        self._locked = {canonical_name(name): value for name, value in settings.locked.items()}
        self._defaults = {canonical_name(name): value for name, value in settings.defaults.items()}
        self._has_overrides = bool(settings.locked or settings.defaults)
        self.is_entry = True
        self.warnings: list[str] = []

    def value(self, name: str) -> Any | None:
        """The value that applies for `name`, or None. Null and empty text count as absent; an unexpanded placeholder is refused."""
        if not self._has_overrides and self._fields.get(name) is None:
            return None  # the common case
        locked = self.locked(name) if self._locked else None
        if locked is not None:
            sent = self._fields.get(name)
            if not _is_blank(sent) and sent != locked:
                self.warn(f"{name}: the message's {show(sent)} was replaced by the webhook's locked {show(locked)}")
            return locked
        sent = self.message_value(name)
        return sent if sent is not None or not self._defaults else self.default(name)

    def message_value(self, name: str) -> Any | None:
        """The message's own value; None for absent, null and empty text."""
        sent = self._fields.get(name)
        if sent is None:
            return None
        if isinstance(sent, str):
            if "{{" in sent or "}}" in sent:
                refuse_placeholder(name, sent)
            return sent if sent.strip() else None
        if isinstance(sent, Refused):
            raise sent  # a stop or take-profit that the profile could not map
        return None if _is_blank(sent) else sent

    def locked(self, name: str) -> str | None:
        """The webhook's locked value, if it applies to this step."""
        return self._locked.get(name) if self.is_entry or name not in _ENTRY_FIELDS else None

    def default(self, name: str) -> str | None:
        """The webhook's default, if it applies to this step."""
        return self._defaults.get(name) if self.is_entry or name not in _ENTRY_FIELDS else None

    def protective_value(self, name: str, empty_code: str) -> Any | None:
        """Like value(), but refuse an empty text: a placeholder that expands to nothing must not silently drop a stop."""
        sent = self._fields.get(name)
        if _is_blank(sent) and sent is not None and self.locked(name) is None:
            if not self.settings.allow_empty_stop_loss:
                raise Refused(
                    empty_code,
                    f"{name}: found {show(sent)}, expected a price or a percent; fill it in, or leave the field out",
                    field=name,
                )
            self.warn(f"{name}: empty; this webhook accepts the order without it")
        return self.value(name)

    def free_text(self, name: str) -> Any | None:
        """A value that decides nothing: an unexpanded placeholder in it is accepted."""
        locked = self.locked(name)
        if locked is not None:
            return locked
        sent = self._fields.get(name)
        return self.default(name) if _is_blank(sent) else sent

    def is_sent(self, name: str) -> bool:
        """Whether the message has the field, in whatever shape."""
        return not _is_blank(self._fields.get(name))

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)


def _is_blank(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())
