"""Command tree: names and one-line help texts as data; a command's module is imported only when it is called.

A new command is one row of COMMANDS and one file. `kekbridge --help` reads the rows and imports none of the files.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from kekbridge import __version__
from kekbridge.cli.form import description
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, GlobalOptions

# name -> (module:attribute of its Typer, help). The order is the order of `kekbridge --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("kekbridge.cli.serve:app", "Run the bridge: receive alerts and place orders."),
    "setup": ("kekbridge.cli.setup:app", "Set the bridge up, step by step."),
    "try": ("kekbridge.cli.try_order:app", "Buy the smallest size on paper, and show the fill."),
    "webhook": ("kekbridge.cli.webhook:app", "Create, list, show, edit and test webhooks, and check messages."),
    "keys": ("kekbridge.cli.keys:app", "Manage the exchange key: add, generate, register, check, remove."),
    "lockouts": ("kekbridge.cli.lockouts:app", "List locked-out addresses, or lift a lockout."),
    "vault": ("kekbridge.cli.vault:app", "Show where secrets are stored, or move them."),
    "template": ("kekbridge.cli.template:app", "Print the message to paste into a TradingView alert."),
    "logs": ("kekbridge.cli.logs:app", "List alerts and their results, newest last."),
    "explain": ("kekbridge.cli.explain:app", "Show everything that happened to one alert, or explain codes."),
    "replay": ("kekbridge.cli.replay:app", "Show what a stored alert would do now; sends nothing."),
    "orders": ("kekbridge.cli.orders:orders", "List orders, newest last."),
    "positions": ("kekbridge.cli.orders:positions", "List open positions as the bridge last saw them."),
    "risk": ("kekbridge.cli.risk:app", "Show limits and how much of each is used."),
    "stats": ("kekbridge.cli.stats:app", "Count alerts and orders, and sum profit and loss."),
    "dashboard": ("kekbridge.cli.dashboard:app", "Watch and control the running bridge on one screen."),
    "web": ("kekbridge.cli.web:app", "Show address and token of the web pages, or replace the token."),
    "halt": ("kekbridge.cli.trading_state:halt", "Stop all trading at once, including exits."),
    "exits-only": ("kekbridge.cli.trading_state:exits_only", "Deny entries at once; exits still pass."),
    "close": ("kekbridge.cli.manual_orders:close", "Close the position of one market, or a part of it."),
    "cancel": ("kekbridge.cli.manual_orders:cancel", "Cancel one open order."),
    "flatten": ("kekbridge.cli.flatten:flatten", "Halt, cancel every order, close every position."),
    "resume": ("kekbridge.cli.trading_state:resume", "Resume trading after halt, exits-only or a limit."),
    "jobs": ("kekbridge.cli.jobs:app", "List the daemon's scheduled jobs: last run, next run, failures; run one."),
    "notify": ("kekbridge.cli.notify:app", "Configure notifications for fills, rejections, limits and errors."),
    "backup": ("kekbridge.cli.backup:backup", "Write a backup to one file; the daemon may be running."),
    "restore": ("kekbridge.cli.backup:restore", "Restore a backup into the data directory; stop the daemon first."),
    "replica": ("kekbridge.cli.replica:app", "Show how far the copy of the database on another machine has come."),
    "takeover": ("kekbridge.cli.takeover:app", "Trade here instead of on the other machine, whose key is removed."),
    "export": ("kekbridge.cli.export:app", "Write alerts, orders, fills or P&L as CSV or JSON."),
    "history": ("kekbridge.cli.history:app", "List events, and verify that the record was not altered."),
    "doctor": (
        "kekbridge.cli.doctor:app",
        "Check the whole installation, from settings to reachability from TradingView.",
    ),
    "health": ("kekbridge.cli.health:app", "Ask the bridge whether it runs, or is ready to trade; for scripts."),
    "install-systemd": ("kekbridge.cli.systemd:app", "Install a hardened systemd service and its socket."),
    "upgrade": ("kekbridge.cli.systemd:upgrading", "Replace the installed service's program with this one."),
    "uninstall": ("kekbridge.cli.systemd:removing", "Remove the installed service; its data stays."),
    "docker": ("kekbridge.cli.docker:app", "Write what Docker needs to run the bridge: image, Compose file, settings."),
    "config": ("kekbridge.cli.config:app", "Show and check the settings."),
    "docs": ("kekbridge.cli.docs:app", "Read the documentation: alerts, limits, going live, operations, the API."),
    "paper": ("kekbridge.cli.paper:app", "Run only the paper exchange, for any Orderly client."),
}


class LazyCommands(CommandGroup):
    """A group that imports a command's module on first use."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # Typer's own context, by its public name
        return list(COMMANDS)

    def summaries(self, ctx: typer.Context) -> list[tuple[str, str]]:
        return [(name, help_text) for name, (_, help_text) in COMMANDS.items()]

    def find_command(self, ctx: typer.Context, name: str) -> Any:
        if name not in COMMANDS:
            return None
        if name not in self.commands:
            module, _, attribute = COMMANDS[name][0].partition(":")
            command = get_command(getattr(import_module(module), attribute))
            command.name = name
            self.commands[name] = command
        return self.commands[name]


app = typer.Typer(
    cls=LazyCommands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nStart here:\n  kekbridge serve               paper trading on 127.0.0.1:8080, no setup\n"
    "  kekbridge setup               asks for exchange, key, webhook\n"
    "  kekbridge template default    the message to paste into TradingView\n"
    "  kekbridge COMMAND --help      options and examples of a command",
)


def _show_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"kekbridge {__version__} ({description()})")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Self-hosted bridge from TradingView alerts to KEK DEX: receives an alert, checks it, places the order."""
    ctx.obj = GlobalOptions(data_dir=data_dir, config=config)
