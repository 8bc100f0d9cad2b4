"""Map the fields of another service's alert to canonical fields and back. The services are listed in profiles.py.

A profile renames fields, translates words and converts units that the service documents. What it cannot map faithfully it refuses by
name: a stop loss that is silently dropped is worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kekbridge.alerts.field_names import IDENTITY_FIELDS, ORDER_FIELDS, STEPS_FIELD, canonical_name
from kekbridge.alerts.field_source import refuse_placeholder
from kekbridge.alerts.numbers import NumberText, parse_decimal
from kekbridge.alerts.redaction import show
from kekbridge.errors import ConfigError, Refused
from kekbridge.formatting import format_decimal

Convert = Callable[[Any], Any]
Words = Mapping[str, str | Mapping[str, str]]


def unchanged(value: Any) -> Any:
    """Keep the value."""
    return value


def percent(value: Any) -> Any:
    """Convert a bare number that the service defines as percent: 5 -> "5%"."""
    return value if parse_decimal(value) is None else f"{value}%"


def ratio(value: Any) -> Any:
    """Convert a fraction to percent: 0.02 -> "2%"."""
    number = parse_decimal(value)
    return value if number is None else f"{format_decimal(number * 100)}%"


def magnitude(value: Any) -> Any:
    """Convert a percent whose sign is only the direction: -2 -> "2%"; the field implies the side."""
    number = parse_decimal(value)
    return value if number is None else f"{format_decimal(abs(number))}%"


def unless_zero(value: Any) -> Any | None:
    """Convert a number whose zero means none."""
    return None if parse_decimal(value) == 0 else value


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Maps one field of a service's message to a canonical field."""

    #: Path in the message, such as `strategy.order_action`; `code#1` is the second part of a text split at `_`.
    path: str
    #: Canonical field.
    target: str
    #: Conversion of the value.
    convert: Convert = unchanged

    @property
    def top_level_name(self) -> str:
        """Name of the top-level field in the message."""
        return self.path.split(".")[0].split("#")[0]

    @property
    def is_writable(self) -> bool:
        """Whether a template can write this field."""
        return "#" not in self.path and self.convert in (unchanged, percent, unless_zero)


@dataclass(frozen=True)
class Profile:
    """One service's message format.

    Canonical names also work unless the service has a field of that name, so a stopLoss can be added to any format.
    """

    #: Name of the profile, as in `webhook --profile`.
    name: str
    #: Name of the service.
    title: str
    #: How its fields map to canonical ones.
    mappings: tuple[FieldMapping, ...] = ()
    #: By canonical field: the service's word in lower case to ours, or to several fields.
    words: Mapping[str, Words] = field(default_factory=dict)
    #: Path of a field that cannot be followed -> why, or what to write instead.
    unsupported: Mapping[str, str] = field(default_factory=dict)
    #: Fields that do not affect the order.
    ignored: frozenset[str] = frozenset()
    #: The service may take a quantity's unit from its own settings, so the message must state it.
    needs_unit: bool = False

    def canonical(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Map a step's order fields to canonical names. Raises Refused(field_invalid) for what the profile cannot map."""
        self._refuse_unsupported(step)
        found: dict[str, Any] = {}
        for mapping in self.mappings:
            value = _value_at(step, mapping.path)
            value = None if value is None else mapping.convert(value)
            if value is not None and mapping.target in ORDER_FIELDS | {"sentiment"}:
                self._put(found, mapping, value)
        for name, value in step.items():
            own = canonical_name(name)
            if own in ORDER_FIELDS and name not in self._foreign_names and value is not None:
                if own in found:
                    raise _given_twice(own, name)
                found[own] = value
        result = self._translated(found)
        if self.needs_unit and "quantityType" not in result and parse_decimal(result.get("quantity")) is not None:
            raise Refused(
                "quantity_type_missing",
                f"quantity: found {show(result['quantity'])} without a unit, expected one as {self.title} defines it",
                field="quantity",
            )
        return result

    def timestamp_of(self, step: Mapping[str, Any]) -> Any | None:
        """The step's timestamp as written; the canonical `timestamp` takes precedence."""
        own = step.get("timestamp")  # its only spelling
        if own is not None:
            return own
        return next(
            (_value_at(step, r.path) for r in self.mappings if r.target == "timestamp" and _value_at(step, r.path)),
            None,
        )

    def targets_of(self, name: str) -> frozenset[str]:
        """Canonical fields that the top-level field `name` of a message affects; empty if the profile ignores it."""
        targets = {mapping.target for mapping in self.mappings if mapping.top_level_name == name}
        if any(path.split(".")[0] == name for path in self.unsupported):
            targets.add("unsupported")
        own = canonical_name(name)
        if name not in self._foreign_names and own in ORDER_FIELDS | IDENTITY_FIELDS | {STEPS_FIELD}:
            targets.add(own)
        return frozenset(targets)

    def render(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Write `fields` in the service's format, so that canonical() reads them back.

        Raises ConfigError for a field that the format does not have.
        """
        document: dict[str, Any] = {}
        if self.needs_unit and "quantity" in fields and not str(fields["quantity"]).endswith("%"):
            fields = {"quantityType": "base", **fields}
        for target, value in fields.items():
            path, converted = self._path_of(target, value)
            inner = document
            *parents, last = path.split(".")
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = converted
        return document

    def is_nested(self, target: str) -> bool:
        """Whether the service has this field inside a nested object."""
        return any(mapping.target == target and "." in mapping.path for mapping in self.mappings)

    @cached_property
    def _foreign_names(self) -> frozenset[str]:
        return frozenset(
            {r.top_level_name for r in self.mappings} | {p.split(".")[0] for p in self.unsupported} | self.ignored
        )

    def _refuse_unsupported(self, step: Mapping[str, Any]) -> None:
        for path, reason in self.unsupported.items():
            value = _value_at(step, path)
            if value not in (None, "", False) and value != [] and parse_decimal(value) != 0:
                raise Refused(
                    "field_invalid", f"{path}: found {show(value)}, which cannot be followed: {reason}", field=path
                )

    def _put(self, found: dict[str, Any], mapping: FieldMapping, value: Any) -> None:
        """Set a canonical field; two fields of the message that map to it must agree."""
        if mapping.target in found and found[mapping.target] != value:
            raise _given_twice(mapping.target, mapping.path)
        found[mapping.target] = value

    def _translated(self, found: dict[str, Any]) -> dict[str, Any]:
        result = dict(found)
        for target, words in self.words.items():
            value = found.get(target)
            if not isinstance(value, str) or isinstance(value, NumberText):
                continue
            refuse_placeholder(target, value)
            meaning = words.get(value.strip().lower().replace("-", "_"))
            if isinstance(meaning, str):
                result[target] = meaning
            elif meaning is not None:
                # A word that sets several fields, such as exit_long. The message may override only its quantity.
                if "quantity" in meaning and "quantity" not in result:
                    result.pop("quantityType", None)
                result = {**meaning, **result, **{name: value for name, value in meaning.items() if name != "quantity"}}
        return result

    def _path_of(self, target: str, value: Any) -> tuple[str, Any]:
        is_percent = isinstance(value, str) and value.endswith("%")
        for mapping in self.mappings:
            if mapping.target != target or not mapping.is_writable:
                continue
            if mapping.convert is percent:
                if is_percent:
                    return mapping.path, value.removesuffix("%")
            elif not is_percent or not any(r.convert is percent for r in self.mappings if r.target == target):
                return mapping.path, value
        if target not in self._foreign_names:
            return target, value
        raise ConfigError(f"profile {self.name} has no field for {target}; use --profile seed", field=target)


def _value_at(step: Mapping[str, Any], path: str) -> Any | None:
    path, _, part = path.partition("#")
    value: Any = step
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if not part:
        return value
    pieces = value.split("_") if isinstance(value, str) else []
    index = int(part)
    return pieces[index] if index < len(pieces) and pieces[index] not in ("", "NONE") else None


def _given_twice(target: str, name: str) -> Refused:
    return Refused(
        "field_invalid", f"{target}: given twice with different values (also as {name}); remove one", field=target
    )
