"""Groups of commands: their help shows every command's whole summary, and an unknown command is an error with "did you mean"."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    """A Typer group; Typer's own cuts the summaries of commands at the width of the screen."""

    def summaries(self, ctx: typer.Context) -> list[tuple[str, str]]:
        """Name and one-line help of each command, in the order of the help."""
        commands: Any = self.commands
        return [(name, _summary(command)) for name, command in commands.items() if not command.hidden]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # Typer's own context, by its public name
        """The command of that name. Raises ConfigError for an unknown one, except while the shell completes a line."""
        command = self.find_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing and not cmd_name.startswith("-"):
            from kekbridge.errors import ConfigError
            from kekbridge.formatting import did_you_mean

            names = [name for name, _ in self.summaries(ctx)]
            path = " ".join(ctx.command_path.split())
            hint = did_you_mean(cmd_name, names, otherwise=f"see `{path} --help`")
            raise ConfigError(f"no such command {cmd_name[:40]!r}; {hint}")
        return command

    def find_command(self, ctx: typer.Context, name: str) -> Any:
        """The command of that name, or None."""
        return super().get_command(ctx, name)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(ctx))


def _summary(command: Any) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())
