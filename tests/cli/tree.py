"""Walk over every command, for tests that apply to all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and every command below it, each with its path; groups included."""
    yield path, command
    if isinstance(command, TyperGroup):
        context: Any = None
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))
