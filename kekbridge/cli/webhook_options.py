"""The options of `webhook create` and `webhook edit`, declared from the table of a webhook's settings for Typer to read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from kekbridge.model import WebhookSettings
from kekbridge.webhooks.options import ROWS, Row


def declare(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with `**given` every option of the table, for Typer to read."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    general = next(index for index, parameter in enumerate(own) if parameter.name == "data_dir")
    parameters = [
        inspect.Parameter(
            row.parameter,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[_type_of(row), _option(row)],
        )
        for row in ROWS
    ]
    command.__signature__ = inspect.Signature([*own[:general], *parameters, *own[general:]])  # type: ignore[attr-defined]  # what inspect looks at first
    return command


def _type_of(row: Row) -> Any:
    if row.is_many:
        return list[str] | None
    return bool | None if row.parser is None else str | None


def _option(row: Row) -> Any:
    defaults = WebhookSettings()
    part = getattr(defaults, row.part) if row.part else defaults
    usual = getattr(part, row.field)
    help_text = (
        row.help if usual in (None, (), {}, False) else f"{row.help} Default: {'yes' if usual is True else usual}."
    )
    if row.parser is None and not row.is_many:
        return typer.Option(f"{row.option}/--no-{row.option.removeprefix('--')}", help=help_text, show_default=False)
    return typer.Option(row.option, metavar=row.metavar, help=help_text, show_default=False)
