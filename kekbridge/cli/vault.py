"""`kekbridge vault`: show which vault is in use, why, and which secrets it holds (names only); move them to another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kekbridge.cli.context import CliContext, open_database, open_vault, resolve_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.model import Mode
    from kekbridge.vault import OpenVault

app = typer.Typer(
    cls=CommandGroup,
    help="Show where secrets are stored, or move them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge vault status", "kekbridge vault move --to file"),
)


@app.command(epilog=examples("kekbridge vault status", "kekbridge vault status --json"))
def status(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show which vault is in use, why, and the names of its secrets. Values are never shown."""
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import ShowVault

    data = run_operation(resolve_context(ctx, data_dir, config), ShowVault())
    if as_json:
        render.as_json(data)
        return
    render.pairs(
        [
            ("vault", data["vault"]),
            ("location", data["description"]),
            ("encrypted", "yes" if data["isEncrypted"] else "no: acceptable for paper only"),
            ("holds", data["names"] or "no secrets yet"),
        ]
    )


@app.command(epilog=examples("kekbridge vault move --to file", "kekbridge vault move --to keyring --yes"))
def move(
    ctx: typer.Context,
    to: Annotated[
        Literal["keyring", "file", "key_file"],
        typer.Option("--to", help="Target vault; `file` asks for a passphrase.", show_default=False),
    ],
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Move every secret to another vault.

    All are written and verified there before any is removed here. Stop the bridge first; it uses the new vault from its next start.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import require_own
    from kekbridge.errors import AlreadyRunning, ConfigError
    from kekbridge.store.lock import DaemonLock
    from kekbridge.vault import move_secrets

    context = resolve_context(ctx, data_dir, config)
    if DaemonLock.holder(context.data_dir) is not None:
        raise AlreadyRunning("already_running", "the bridge is running; stop it, move the secrets, then start it again")
    require_own(context.data_dir)
    with _optional_connection(context) as connection:
        mode = _mode(context, connection)
        source = open_vault(context, mode)
        names = _stored_names(context, source, connection)
    if source.name == to:
        raise ConfigError(f"the secrets are already in the {source.title}; nothing was moved")
    if source.name == "directory":
        raise ConfigError(
            f"the {source.title} is not kekbridge's to empty; copy its files by hand, then remove them there"
        )
    target = open_vault(_with_backend(context, to), mode)
    if not yes:
        typer.confirm(f"Move {', '.join(names)} from {source.title} to {target.title}?", abort=True, err=True)
    with DaemonLock(context.data_dir, is_daemon=False):  # a bridge that started meanwhile has the old vault open
        move_secrets(source, target, names)
    if as_json:
        render.as_json({"from": source.name, "to": target.name, "names": names})
        return
    render.line(f"moved {', '.join(names)} to the {target.title}")
    if context.settings.vault.backend not in ("auto", to):
        render.note(f'Now set  [vault] backend = "{to}"  (currently "{context.settings.vault.backend}").')


def _with_backend(context: CliContext, backend: str) -> CliContext:
    """Return the context with another vault.backend in its settings."""
    settings = context.settings
    vault = settings.vault.model_copy(update={"backend": backend})
    return CliContext(context.data_dir, settings.model_copy(update={"vault": vault}), context.config_file)


def _stored_names(context: CliContext, vault: OpenVault, connection: sqlite3.Connection | None) -> list[str]:
    """Return the names of the secrets in the vault, out of all names that kekbridge may use."""
    from kekbridge.ops.exchange_keys import secret_names
    from kekbridge.ops.vault_operations import held_names

    return held_names(vault, secret_names(connection, context.settings.exchange.account_id))


def _mode(context: CliContext, connection: sqlite3.Connection | None) -> Mode:
    from kekbridge.webhooks import registry

    settings = context.settings
    if connection is None:
        return settings.mode
    return registry.mode_of(connection, settings.mode, is_explicit="mode" in settings.model_fields_set)


@contextmanager
def _optional_connection(context: CliContext) -> Iterator[sqlite3.Connection | None]:
    """Yield a connection to read from, or None when the data directory has no database yet."""
    from kekbridge.store.connections import FILE_NAME

    if not (context.data_dir / FILE_NAME).exists():
        yield None
        return
    with open_database(context) as database, database.snapshot() as connection:
        yield connection
