"""Command tree: every command is found, has help with an example, and is synchronous."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from itertools import groupby, takewhile
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from kekbridge.cli.app import COMMANDS, app
from tests.cli.tree import walk


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """Every command by its words."""
    return {" ".join(path): command for path, command in walk(get_command(app)) if path}


def test_the_commands_of_the_first_release_exist(commands: dict[str, Any]) -> None:
    """Every command named in the README and in the daemon's messages exists."""
    assert {
        "serve",
        *(f"webhook {verb}" for verb in ("create", "list", "show", "edit", "enable", "disable", "delete")),
        "template",
        "logs",
        "explain",
        "orders",
        "positions",
        "halt",
        "exits-only",
        "resume",
        "paper",
        *(f"config {verb}" for verb in ("show", "check", "path")),
    } <= set(commands)


def test_every_command_has_help_with_an_example(commands: dict[str, Any]) -> None:
    """Help text and an example line for every command."""
    for path, command in commands.items():
        assert command.help, path
        assert f"kekbridge {path}" in (command.epilog or "")


def test_examples_fit_a_terminal_of_80_columns(commands: dict[str, Any]) -> None:
    """They are shown as they are, with an indent of 4: a longer line would be broken in its middle."""
    lines = [line for command in commands.values() for line in command.epilog.splitlines()]
    assert [line for line in lines if len(line.strip()) > 76] == []


def test_examples_are_commands_with_options_that_exist(commands: dict[str, Any]) -> None:
    """Each parses as it is shown; what it does is tested where the command is."""
    root: Any = get_command(app)
    for words in (words for command in commands.values() for words in _commands_in(command.epilog)):
        context = root.make_context("kekbridge", words)  # raises for an option that does not exist
        while isinstance(context.command, TyperGroup) and (rest := [*context._protected_args, *context.args]):
            name, inner, rest = context.command.resolve_command(context, rest)
            assert inner is not None
            context = inner.make_context(name, rest, parent=context)


def _commands_in(epilog: str) -> Iterator[list[str]]:
    """The arguments of each `kekbridge` in the examples, without what explains them, what is around it, and redirections."""
    for line in epilog.replace("\\\n", "").splitlines():
        shown = re.split(r" {2,}(?=\S)", line.strip())[0]
        lexer = shlex.shlex(shown.replace(" 2>", " >"), posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        for is_separator, tokens in groupby(lexer, key=lambda token: set(token) <= set("|&;()$")):
            words = list(takewhile(lambda token: token not in ("<", ">", ">>"), tokens))
            programs = [
                number for number, word in enumerate(words) if re.fullmatch(r"(\S*/)?kekbridge(-[0-9.]+)?", word)
            ]
            if programs and not is_separator:
                yield words[programs[0] + 1 :]


def test_no_command_is_a_coroutine_function(commands: dict[str, Any]) -> None:
    """Typer never awaits an `async def` command: it would print nothing and exit 0."""
    for path, command in commands.items():
        callback = inspect.unwrap(command.callback) if command.callback else None
        assert not inspect.iscoroutinefunction(callback), path


def test_every_option_is_explained(commands: dict[str, Any]) -> None:
    """Every option and argument has a help text."""
    for path, command in commands.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


def test_every_command_takes_the_global_options(commands: dict[str, Any]) -> None:
    """--data-dir and --config work after every command, as they do before it."""
    for path, command in commands.items():
        if isinstance(command, TyperGroup):
            continue
        names = {name for parameter in command.params for name in getattr(parameter, "opts", ())}
        assert {"--data-dir", "--config", "--json"} - names <= ({"--json"} if path == "template" else set()), path


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_list_matches_each_commands_help(name: str) -> None:
    """The one-line texts of `kekbridge --help` are data; they equal the first paragraph of each command's help."""
    group: Any = get_command(app)
    first_line = group.get_command(None, name).help.split("\n\n")[0].strip()
    assert " ".join(first_line.split()) == COMMANDS[name][1], "the docstring's first paragraph and the row must agree"
