"""Form fields of the pages: label, input, what is wrong with the entry, help; and error texts with labels instead of option names.

A form that was not accepted is shown again with status 422, what was entered, and each message under its field. Secrets are never shown
again: a field for one has no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import htpy as h
from htpy import Node, Renderable

_OPTION = re.compile(r"--(?:no-)?[a-z]+(?:-[a-z]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input of a form."""

    #: Name of the form's parameter.
    name: str
    #: Label above the input.
    label: str
    #: What is entered.
    value: str = ""
    #: Help below the input: text, or elements.
    help: Node = None
    #: What is wrong with the entry; None: nothing known.
    error: str | None = None
    #: Example inside the empty input.
    placeholder: str = ""
    #: (value, label) of a drop-down list; empty: a text input.
    choices: Sequence[tuple[str, str]] = ()
    #: Lines of a text area; 0: a single line.
    rows: int = 0
    is_required: bool = False
    #: Characters at most; None: no limit.
    max_length: int | None = None
    #: Keyboard of a phone: "decimal", "numeric"; None: all letters.
    keyboard: str | None = None


def field_element(field: Field, *, has_focus: bool = False) -> Renderable:
    """A field with its label, error and help, which the input is described by."""
    identifier = f"field-{field.name}"
    described = " ".join(
        [*([f"{identifier}-error"] if field.error else []), *([f"{identifier}-help"] if field.help else [])]
    )
    common: dict[str, str | bool | None] = {
        "id": identifier,
        "name": field.name,
        "required": field.is_required,
        "autofocus": has_focus,
        "aria-describedby": described or None,
        "aria-invalid": "true" if field.error else None,
    }
    return h.div(class_="field wrong" if field.error else "field")[
        h.label(for_=identifier)[field.label],
        _input(field, common),
        h.p(id=f"{identifier}-error", class_="error")[field.error] if field.error else None,
        h.p(id=f"{identifier}-help", class_="help")[field.help] if field.help else None,
    ]


def _input(field: Field, common: Mapping[str, str | bool | None]) -> Renderable:
    if field.choices:
        known = [*field.choices]
        if field.value and field.value not in {value for value, _ in known}:
            known.append((field.value, field.value))  # a wrong value stays until it is corrected
        return h.select(common)[(h.option(value=value, selected=value == field.value)[label] for value, label in known)]
    if field.rows:
        # The line break after the tag is not part of the value; without it one at the start of the value would be lost.
        return h.textarea(common, rows=str(field.rows), placeholder=field.placeholder or None, spellcheck="false")[
            f"\n{field.value}"
        ]
    return h.input(
        common,
        type="text",
        value=field.value,
        placeholder=field.placeholder or None,
        autocomplete="off",
        maxlength=None if field.max_length is None else str(field.max_length),
        inputmode=field.keyboard,
    )


def fields_element(fields: Iterable[Field], *, has_focus: bool = True) -> Renderable:
    """A grid of fields; the first wrong one has the focus."""
    shown = list(fields)
    first = next((one for one in shown if one.error), None) if has_focus else None
    return h.div(class_="fields")[(field_element(one, has_focus=one is first) for one in shown)]


def not_saved(count: int, *texts: Node, what: str = "Not saved") -> Renderable | None:
    """What a form that was not accepted says at its top; None if nothing is wrong."""
    if not count and not texts:
        return None
    fields = "1 field is wrong." if count == 1 else f"{count} fields are wrong." if count else ""
    return h.div(class_="notice bad", role="alert")[h.b[f"{what}. {fields}"], (h.p[text] for text in texts)]


def in_labels(text: str, labels: Mapping[str, str]) -> str:
    """An error or help text with `labels` (by option, such as `--max-notional`) in place of the options that it names.

    Commands in backquotes stay as they are.
    """
    parts = text.split("`")
    return "`".join(
        part if index % 2 else _OPTION.sub(lambda match: _label_of(match.group(), labels), part)
        for index, part in enumerate(parts)
    )


def _label_of(option: str, labels: Mapping[str, str]) -> str:
    if option in labels:
        return f"“{labels[option]}”"
    switch = labels.get(option.replace("--no-", "--", 1))
    return option if switch is None else f"“{switch}: no”"


def error_of(text: str, option: str, labels: Mapping[str, str]) -> str:
    """An error text for the line below its field: without the option's name in front."""
    words = in_labels(text.removeprefix(f"{option}: ").strip(), labels)
    return words[:1].upper() + words[1:]
