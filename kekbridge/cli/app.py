"""The tree of commands: names and one-line helps as data, each command's module imported only when it is called.

A new command is one row of COMMANDS and one file. `kekbridge --help` reads the rows and imports none of the files.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from kekbridge import __version__
from kekbridge.cli.options import ConfigFile, DataDir, Places

# name -> (module:attribute of its Typer, help). The order is the order of `kekbridge --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("kekbridge.cli.serve:app", "Run the bridge: take alerts and place their orders."),
    "webhook": ("kekbridge.cli.webhook:app", "Create, list, show, edit and switch webhooks."),
    "keys": ("kekbridge.cli.keys:app", "The exchange key: add, make, register, check, restrict, remove."),
    "lockouts": ("kekbridge.cli.lockouts:app", "List addresses that are locked out, and let one in again."),
    "vault": ("kekbridge.cli.vault:app", "Show where secrets are kept, and move them."),
    "template": ("kekbridge.cli.template:app", "Print the message to paste into a TradingView alert."),
    "logs": ("kekbridge.cli.logs:app", "List what came in and what became of it, newest last."),
    "explain": ("kekbridge.cli.explain:app", "Tell the whole story of one alert, or list every code."),
    "replay": ("kekbridge.cli.replay:app", "Show what a stored alert would do now; never live."),
    "orders": ("kekbridge.cli.orders:orders", "List orders, newest last."),
    "positions": ("kekbridge.cli.orders:positions", "List open positions as the bridge last saw them."),
    "risk": ("kekbridge.cli.risk:app", "Show limits and their use."),
    "stats": ("kekbridge.cli.stats:app", "Count alerts and orders, and sum what they won or lost."),
    "dashboard": ("kekbridge.cli.dashboard:app", "Watch and steer the running bridge on one screen."),
    "halt": ("kekbridge.cli.trading_state:halt", "Stop all trading at once, exits too."),
    "exits-only": ("kekbridge.cli.trading_state:exits_only", "Refuse entries at once; exits still pass."),
    "flatten": ("kekbridge.cli.flatten:flatten", "Halt, cancel every order, close every position."),
    "resume": ("kekbridge.cli.trading_state:resume", "Trade again after halt or exits-only."),
    "jobs": (
        "kekbridge.cli.jobs:app",
        "List what runs by the clock: last run and how long it took, next run, runs and failures.",
    ),
    "notify": ("kekbridge.cli.notify:app", "Be told of fills, refusals, limits and trouble."),
    "backup": ("kekbridge.cli.backup:backup", "Write everything into one file, also while the daemon runs."),
    "restore": (
        "kekbridge.cli.backup:restore",
        "Bring a backup back into the data directory; the daemon must be stopped.",
    ),
    "export": ("kekbridge.cli.export:app", "Write alerts, orders, fills or P&L as CSV or JSON."),
    "history": ("kekbridge.cli.history:app", "What happened, event by event, and whether nobody changed the record."),
    "doctor": ("kekbridge.cli.doctor:app", "Check everything, from the settings to the way from TradingView."),
    "install-systemd": ("kekbridge.cli.systemd:app", "Write a hardened systemd service and socket."),
    "config": ("kekbridge.cli.config:app", "Show and check the settings."),
    "docs": ("kekbridge.cli.docs:app", "Read the documents: alerts, limits, going live, operations and more."),
    "paper": ("kekbridge.cli.paper:app", "Run the paper exchange alone, for any Orderly client."),
}


class LazyCommands(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # Typer's own context, by its public name
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command = get_command(getattr(import_module(module), attribute))
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


app = typer.Typer(
    cls=LazyCommands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nStart here:\n  kekbridge serve                 paper trading on 127.0.0.1:8080, nothing to set up\n"
    "  kekbridge template default      the message to paste into TradingView\n"
    "  kekbridge COMMAND --help        options and an example of each command",
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"kekbridge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Self-hosted bridge from TradingView alerts to KEK DEX: takes an alert, checks it, places the order."""
    context.obj = Places(data_dir=data_dir, config=config)
