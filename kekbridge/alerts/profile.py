"""Map the fields of another service's alert to canonical fields and back. The services are listed in profiles.py.

A profile renames fields, translates words and converts units that the service documents. What it cannot map faithfully it refuses by
name: a stop loss that is silently dropped is worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from kekbridge.alerts.field_names import (
    ALL_SPELLINGS,
    CREDENTIAL_FIELDS,
    IDENTITY_FIELDS,
    ORDER_FIELDS,
    SPELLINGS,
    STEPS_FIELD,
    canonical_name,
    squeeze,
)
from kekbridge.alerts.field_source import refuse_placeholder
from kekbridge.alerts.numbers import NumberText, parse_decimal
from kekbridge.alerts.redaction import show
from kekbridge.alerts.unknown_fields import CLOSE_FLAG, ENTRY_ONLY, Lookalike, UnreadField, look_alike
from kekbridge.errors import ConfigError, Refused
from kekbridge.formatting import format_decimal

Convert = Callable[[Any], Any]
Check = Callable[[Mapping[str, Any]], None]
Words = Mapping[str, str]

# Canonical fields that limit a loss or take a profit: what names one of them is followed or refused, never dropped.
PROTECTIVE = frozenset({"stopLoss", "takeProfit", "trailingStop"})
_POSITION_FIELDS = ("marketPosition", "positionSize")
_MAX_DEPTH = 4  # of unread objects in which names are looked for


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
        return _top_level_name(self.path)

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
    #: By canonical field: the service's word in lower case to ours.
    words: Mapping[str, Words] = field(default_factory=dict)
    #: Path of a field that cannot be followed -> why, or what to write instead.
    unsupported: Mapping[str, str] = field(default_factory=dict)
    #: Fields that do not affect the order; with a path also inside a nested object.
    ignored: frozenset[str] = frozenset()
    #: Further rules of the service by canonical field; each raises Refused(field_invalid) for a step that breaks it.
    checks: Mapping[str, Check] = field(default_factory=dict)
    #: Top-level field with the most seconds that the alert may be late.
    max_age_field: str | None = None
    #: The service may take a quantity's unit from its own settings, so the message must state it.
    needs_unit: bool = False
    #: A buy or sell without a quantity closes an opposite position.
    bare_order_exits: bool = False
    #: positionSize is the position wanted, whatever action and quantity say.
    position_is_target: bool = False

    def canonical(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Map a step's order fields to canonical names. Raises Refused(field_invalid) for what the profile cannot map.

        A stop or take-profit that cannot be mapped has the Refused as its value: whoever reads it raises it, and an exit reads none.
        """
        found: dict[str, Any] = {}
        self._note_problems(step, found)
        for mapping in self.mappings:
            if mapping.top_level_name not in step:
                continue
            value = _value_at(step, mapping.path)
            if value is None or isinstance(found.get(mapping.target), Refused):
                continue
            try:
                value = mapping.convert(value)
            except Refused as refusal:
                _note(found, mapping.target, refusal)
                continue
            if value is not None and mapping.target in ORDER_FIELDS | {"sentiment"}:
                self._put(found, mapping, value)
        for name, value in step.items():
            own = SPELLINGS.get(name, name)
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

    def unread(self, step: Mapping[str, Any]) -> list[UnreadField]:
        """The step's fields that nobody reads, also those inside objects."""
        if step.keys() <= self._known_names and not self._nested:
            return []  # the common case
        found: list[UnreadField] = []
        for name, value in step.items():
            if name in self._nested:
                if isinstance(value, Mapping) and self._target_of(name) not in PROTECTIVE:
                    self._add_unread(found, value, f"{name}.", depth=1)
            elif name not in self._known_names:
                self._add_unread(found, {name: value}, "", depth=0)
        return found

    def targets_of(self, name: str) -> frozenset[str]:
        """Canonical fields that the top-level field `name` of a message affects; empty if the profile ignores it."""
        targets = {mapping.target for mapping in self.mappings if mapping.top_level_name == name}
        if any(path.split(".")[0] == name for path in self.unsupported):
            targets.add("unsupported")
        own = canonical_name(name)
        if name not in self._foreign_names and own in ORDER_FIELDS | IDENTITY_FIELDS | {STEPS_FIELD}:
            targets.add(own)
        return frozenset(targets)

    def likeness(self, step: Mapping[str, Any]) -> int:
        """How much a step looks like this format: its fields that decide something, less those under another name or in another shape."""
        own = 0
        for name, value in step.items():
            if name in self._nested and not isinstance(value, Mapping):
                own -= 1
            elif self.targets_of(name) & (ORDER_FIELDS | {"sentiment"}):
                own += 1
        return own - sum(1 for each in self.unread(step) if each.lookalike is not None)

    def target_at(self, path: str) -> str | None:
        """The canonical field that a path inside an object is read as; None if it is not read."""
        return next((mapping.target for mapping in self.mappings if mapping.path == path), None)

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
    def position_names(self) -> frozenset[str]:
        """Top-level fields that may hold a strategy's position."""
        theirs = {r.top_level_name for r in self.mappings if r.target in _POSITION_FIELDS}
        return frozenset(theirs | {name for name in ALL_SPELLINGS if canonical_name(name) in _POSITION_FIELDS})

    @cached_property
    def _foreign_names(self) -> frozenset[str]:
        return frozenset(
            {r.top_level_name for r in self.mappings}
            | {p.split(".")[0] for p in (*self.unsupported, *self.ignored)}
            | ({self.max_age_field} if self.max_age_field else set())
        )

    @cached_property
    def _known_names(self) -> frozenset[str]:
        return self._foreign_names | ALL_SPELLINGS | frozenset(CREDENTIAL_FIELDS)

    @cached_property
    def _nested(self) -> Mapping[str, tuple[str, ...]]:
        """By top-level field that is an object: the names inside it that are read."""
        parents: dict[str, tuple[str, ...]] = {}
        for mapping in self.mappings:
            parent, dot, inner = mapping.path.partition(".")
            if dot:
                parents[parent] = (*parents.get(parent, ()), inner)
        return parents

    @cached_property
    def _protective_targets(self) -> Mapping[str, str]:
        """By top-level field: the first protective field that it, or a part of it, is mapped to."""
        return {r.top_level_name: r.target for r in reversed(self.mappings) if r.target in PROTECTIVE}

    @cached_property
    def _known_paths(self) -> frozenset[str]:
        return frozenset({mapping.path for mapping in self.mappings} | set(self.unsupported) | self.ignored)

    @cached_property
    def _squeezed_paths(self) -> Mapping[str, str]:
        return {squeeze(path): path for path in sorted(self._known_paths) if "#" not in path}

    def _add_unread(self, found: list[UnreadField], fields: Mapping[str, Any], prefix: str, *, depth: int) -> None:
        for name, value in fields.items():
            path = f"{prefix}{name}"
            if path in self._known_paths or value is None:
                continue
            lookalike = self._look_alike(path, name)
            found.append(UnreadField(path, value, lookalike))
            if depth == _MAX_DEPTH or (lookalike is not None and lookalike.target in ENTRY_ONLY):
                continue  # an object that stands for a stop is refused, or passed over, as a whole
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Mapping):
                    self._add_unread(found, each, f"{path}.", depth=depth + 1)

    def _look_alike(self, path: str, name: str) -> Lookalike | None:
        """What an unread name stands for, with the service's own name of that field in the advice."""
        own = self._squeezed_paths.get(squeeze(path))
        if own is not None:
            targets = [mapping.target for mapping in self.mappings if mapping.path == own]
            return Lookalike(targets[0] if targets else own, f"did you mean {own}?")
        found = look_alike(name)
        if found is None or found is CLOSE_FLAG:
            return found
        paths = [r.path for r in self.mappings if r.target == found.target and "#" not in r.path]
        return Lookalike(found.target, f"did you mean {' or '.join(paths)}?") if paths else found

    def _note_problems(self, step: Mapping[str, Any], found: dict[str, Any]) -> None:
        """Refuse what the service documents and we cannot follow, and objects that cannot be read; for protection see canonical()."""
        for path, reason in self.unsupported.items():
            if _top_level_name(path) not in step:
                continue
            value = _value_at(step, path)
            if value not in (None, "", False) and value != [] and parse_decimal(value) != 0:
                text = f"{path}: found {show(value)}, which cannot be followed: {reason}"
                _note(found, self._target_of(path), Refused("field_invalid", text, field=path))
        for parent, names in self._nested.items():
            problem = None if step.get(parent) is None else self._problem_inside(parent, step[parent], names)
            if problem is not None:
                expected = " or ".join(names)
                text = f"{parent}: {problem}, expected an object with {expected}; write one of them"
                _note(found, self._target_of(parent), Refused("field_invalid", text, field=parent))
        for target, check in self.checks.items():
            try:
                check(step)
            except Refused as refusal:
                _note(found, target, refusal)

    def _problem_inside(self, parent: str, value: object, names: tuple[str, ...]) -> str | None:
        """Why an object of the service cannot be read: dropped, nothing or a part of it would change the order."""
        if not isinstance(value, Mapping):
            return f"found {show(value)}"
        if self._target_of(parent) in PROTECTIVE:
            unknown = (n for n, v in value.items() if v is not None and f"{parent}.{n}" not in self._known_paths)
            strange = next(unknown, None)
            if strange is not None:
                return f"found {show(strange)} in it"
        return "nothing in it can be read" if all(_value_at(value, name) is None for name in names) else None

    def _target_of(self, path: str) -> str:
        """The protective field that a path belongs to, else the path itself."""
        parent = _top_level_name(path)
        return self._protective_targets.get(parent, parent)

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
            result[target] = words.get(value.strip().lower().replace("-", "_"), value)
        return result

    def _path_of(self, target: str, value: Any) -> tuple[str, Any]:
        is_percent = isinstance(value, str) and value.endswith("%")
        for mapping in self.mappings:
            if mapping.target != target or not mapping.is_writable:
                continue
            if isinstance(value, list):
                text = f"{target}: found {len(value)} levels, expected one: profile {self.name} has no list of them; use --profile seed"
                raise ConfigError(text, field=target)
            if mapping.convert is percent:
                if is_percent:
                    return mapping.path, value.removesuffix("%")
            elif not is_percent or not any(r.convert is percent for r in self.mappings if r.target == target):
                return mapping.path, value
        if target not in self._foreign_names:
            return target, value
        raise ConfigError(f"profile {self.name} has no field for {target}; use --profile seed", field=target)


@lru_cache(maxsize=512)  # paths are those of the profiles
def _top_level_name(path: str) -> str:
    return path.split(".")[0].split("#")[0]


@lru_cache(maxsize=512)
def _split_path(path: str) -> tuple[tuple[str, ...], int | None]:
    names, _, part = path.partition("#")
    return tuple(names.split(".")), int(part) if part else None


def _value_at(step: Mapping[str, Any], path: str) -> Any | None:
    names, index = _split_path(path)
    value: Any = step
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    if index is None:
        return value
    pieces = value.split("_") if isinstance(value, str) else []
    return pieces[index] if index < len(pieces) and pieces[index] not in ("", "NONE") else None


def _note(found: dict[str, Any], target: str, refusal: Refused) -> None:
    """Keep the refusal of a protective field for whoever reads it; raise any other."""
    if target not in PROTECTIVE:
        raise refusal
    found.setdefault(target, refusal)


def _given_twice(target: str, name: str) -> Refused:
    return Refused(
        "field_invalid", f"{target}: given twice with different values (also as {name}); remove one", field=target
    )
