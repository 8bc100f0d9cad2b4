"""How a profile works: which field of another service's alert is which of ours, and back. The services themselves are in profiles.py.

A mapping renames, replaces words and converts units that the service states. What it cannot follow faithfully it refuses by name: a stop
loss that is silently dropped is worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

from kekbridge.alerts.field_names import IDENTITY_FIELDS, ORDER_FIELDS, STEPS_FIELD, canonical_name
from kekbridge.alerts.field_source import refuse_placeholder
from kekbridge.alerts.numbers import NumberText, decimal_of
from kekbridge.alerts.redaction import show
from kekbridge.errors import ConfigError, Refused

Convert = Callable[[Any], Any]
Words = Mapping[str, str | Mapping[str, str]]


def plain(value: Any) -> Any:
    """The value as it is."""
    return value


def percent(value: Any) -> Any:
    """A bare number that the service means as percent: 5 -> "5%"."""
    return value if decimal_of(value) is None else f"{value}%"


def ratio(value: Any) -> Any:
    """A fraction that we write as percent: 0.02 -> "2%"."""
    number = decimal_of(value)
    return value if number is None else f"{plain_text(number * 100)}%"


def magnitude(value: Any) -> Any:
    """A percent whose sign only says up or down: -2 -> "2%"; the field itself says on which side it lies."""
    number = decimal_of(value)
    return value if number is None else f"{plain_text(abs(number))}%"


def unless_zero(value: Any) -> Any | None:
    """A number of which zero means "none"."""
    return None if decimal_of(value) == 0 else value


def plain_text(number: Decimal) -> str:
    """A decimal without exponent and trailing zeros, `2.00` -> `2`."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Route:
    """`path` in the service's message (`strategy.order_action`; `code#1` is the second part of a text split at `_`) to our `target`."""

    path: str
    target: str
    convert: Convert = plain

    @property
    def top(self) -> str:
        return self.path.split(".")[0].split("#")[0]

    @property
    def is_writable(self) -> bool:
        """Whether a template can put a value there."""
        return "#" not in self.path and self.convert in (plain, percent, unless_zero)


@dataclass(frozen=True)
class Profile:
    """One service's message shape. `words` translate values (their word in lower case to ours, or to several of our fields).

    Our own names keep working beside the service's wherever it has no field of that name, so a stopLoss can be added to any of them.
    """

    name: str
    title: str
    routes: tuple[Route, ...] = ()
    words: Mapping[str, Words] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    needs_unit: bool = False  # the service takes a quantity's unit from a setting of its own that we cannot know

    def canonical(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """The order fields of a step under our names. Raises Refused(field_invalid) for what the profile cannot follow."""
        self._refuse_unsupported(step)
        found: dict[str, Any] = {}
        for route in self.routes:
            value = _at(step, route.path)
            value = None if value is None else route.convert(value)
            if value is not None and route.target in ORDER_FIELDS | {"sentiment"}:
                self._put(found, route, value)
        for name, value in step.items():
            own = canonical_name(name)
            if own in ORDER_FIELDS and name not in self._foreign_names and value is not None:
                if own in found:
                    raise _twice(own, name)
                found[own] = value
        result = self._translated(found)
        if self.needs_unit and "quantityType" not in result and decimal_of(result.get("quantity")) is not None:
            raise Refused(
                "quantity_type_missing",
                f"quantity: found {show(result['quantity'])} without its unit, expected one beside it as {self.title} defines it",
                field="quantity",
            )
        return result

    def timestamp_of(self, step: Mapping[str, Any]) -> Any | None:
        """When the step says it fired, as written; our own `timestamp` first."""
        own = step.get("timestamp")  # its only spelling
        if own is not None:
            return own
        return next((_at(step, r.path) for r in self.routes if r.target == "timestamp" and _at(step, r.path)), None)

    def targets_of(self, name: str) -> frozenset[str]:
        """Our fields that the top-level field `name` of a message feeds; empty when this profile ignores it."""
        targets = {route.target for route in self.routes if route.top == name}
        if any(path.split(".")[0] == name for path in self.unsupported):
            targets.add("unsupported")
        own = canonical_name(name)
        if name not in self._foreign_names and own in ORDER_FIELDS | IDENTITY_FIELDS | {STEPS_FIELD}:
            targets.add(own)
        return frozenset(targets)

    def render(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A message in the service's shape that canonical() reads back as `fields`.

        Raises ConfigError for a field that the shape has no place for.
        """
        document: dict[str, Any] = {}
        if self.needs_unit and "quantity" in fields and not str(fields["quantity"]).endswith("%"):
            fields = {"quantityType": "base", **fields}
        for target, value in fields.items():
            path, written = self._place_of(target, value)
            inner = document
            *parents, last = path.split(".")
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = written
        return document

    def is_nested(self, target: str) -> bool:
        """Whether the service keeps this field inside an object beside others."""
        return any(route.target == target and "." in route.path for route in self.routes)

    @cached_property
    def _foreign_names(self) -> frozenset[str]:
        return frozenset({r.top for r in self.routes} | {p.split(".")[0] for p in self.unsupported} | self.ignored)

    def _refuse_unsupported(self, step: Mapping[str, Any]) -> None:
        for path, reason in self.unsupported.items():
            value = _at(step, path)
            if value not in (None, "", False) and value != [] and decimal_of(value) != 0:
                raise Refused(
                    "field_invalid", f"{path}: found {show(value)}, which cannot be followed: {reason}", field=path
                )

    def _put(self, found: dict[str, Any], route: Route, value: Any) -> None:
        """Two fields for one of ours must agree: a service's limit price in two places is two orders."""
        if route.target in found and found[route.target] != value:
            raise _twice(route.target, route.path)
        found[route.target] = value

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
                # Words that say several things at once, as exit_long does. Of these only how much may be said otherwise.
                if "quantity" in meaning and "quantity" not in result:
                    result.pop("quantityType", None)
                result = {**meaning, **result, **{name: value for name, value in meaning.items() if name != "quantity"}}
        return result

    def _place_of(self, target: str, value: Any) -> tuple[str, Any]:
        is_percent = isinstance(value, str) and value.endswith("%")
        for route in self.routes:
            if route.target != target or not route.is_writable:
                continue
            if route.convert is percent:
                if is_percent:
                    return route.path, value.removesuffix("%")
            elif not is_percent or not any(r.convert is percent for r in self.routes if r.target == target):
                return route.path, value
        if target not in self._foreign_names:
            return target, value
        raise ConfigError(f"profile {self.name} has no place for {target}; use --profile seed", field=target)


def _at(step: Mapping[str, Any], path: str) -> Any | None:
    path, _, part = path.partition("#")
    value: Any = step
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if not part:
        return value
    pieces = value.split("_") if isinstance(value, str) else []
    index = int(part)
    return pieces[index] if index < len(pieces) and pieces[index] not in ("", "NONE") else None


def _twice(target: str, name: str) -> Refused:
    return Refused(
        "field_invalid", f"{target}: given twice with different values (also as {name}); remove one", field=target
    )
