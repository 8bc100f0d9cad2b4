"""`kekbridge vault`: where secrets are kept and why, what is there (names only), and moving all of it somewhere else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kekbridge.cli.context import CliContext, open_the_vault, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.model import Mode
    from kekbridge.vault import OpenVault

app = typer.Typer(
    help="Show where secrets are kept, and move them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge vault status", "kekbridge vault move --to file"),
)


@app.command(epilog=examples("kekbridge vault status", "kekbridge vault status --json"))
def status(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show which vault is in use, why, and the names of what is in it. Values are never shown."""
    from kekbridge.cli import render

    workspace = resolve_context(context, data_dir, config)
    with _store(workspace) as connection:
        mode = _mode(workspace, connection)
        vault = open_the_vault(workspace, mode)
        names = _present(workspace, vault, connection)
    if as_json:
        render.as_json(
            {
                "mode": mode,
                "vault": vault.name,
                "description": vault.description,
                "isEncrypted": not vault.is_plain,
                "isWritable": vault.is_writable,
                "names": names,
            }
        )
        return
    render.pairs(
        [
            ("vault", vault.name),
            ("where and why", vault.description),
            ("encrypted", "no: good enough for paper only" if vault.is_plain else "yes"),
            ("holds", names or "nothing yet"),
        ]
    )


@app.command(epilog=examples("kekbridge vault move --to file", "kekbridge vault move --to keyring --yes"))
def move(
    context: typer.Context,
    to: Annotated[
        Literal["keyring", "file", "key_file"],
        typer.Option("--to", help="The other vault; `file` asks for a passphrase.", show_default=False),
    ],
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Move every secret to another vault: all are written and read back there before any is removed here.

    Stop the bridge before. A bridge that runs keeps what it has read, and finds the new vault at its next start.
    """
    from kekbridge.cli import render
    from kekbridge.errors import AlreadyRunning, ConfigError
    from kekbridge.store.lock import DaemonLock
    from kekbridge.vault import move_secrets

    workspace = resolve_context(context, data_dir, config)
    if DaemonLock.holder(workspace.data_dir) is not None:
        raise AlreadyRunning("already_running", "the bridge is running; stop it, move the vault, start it again")
    with _store(workspace) as connection:
        mode = _mode(workspace, connection)
        source = open_the_vault(workspace, mode)
        names = _present(workspace, source, connection)
    if source.name == to:
        raise ConfigError(f"the secrets are in the {source.title} already; nothing was moved")
    if not source.is_writable:
        raise ConfigError(f"the {source.title} is read only: take its files out of there by hand after copying them")
    target = open_the_vault(_choosing(workspace, to), mode)
    if not yes:
        typer.confirm(f"Move {', '.join(names)} from {source.title} to {target.title}?", abort=True, err=True)
    move_secrets(source, target, names)
    if as_json:
        render.as_json({"from": source.name, "to": target.name, "names": names})
        return
    render.line(f"moved {', '.join(names)} to the {target.title}")
    if workspace.settings.vault.backend not in ("auto", to):
        render.note(f'Now set  [vault] backend = "{to}"  (it is "{workspace.settings.vault.backend}").')


def _choosing(workspace: CliContext, backend: str) -> CliContext:
    """The same workspace with this vault in its settings."""
    settings = workspace.settings
    vault = settings.vault.model_copy(update={"backend": backend})
    return CliContext(workspace.data_dir, settings.model_copy(update={"vault": vault}), workspace.config_file)


def _present(workspace: CliContext, vault: OpenVault, connection: sqlite3.Connection | None) -> list[str]:
    """The names of what is there, of all that kekbridge ever puts into a vault."""
    from kekbridge.cli.exchange_keys import secret_names

    names = secret_names(connection, workspace.settings.exchange.account_id)
    return [name for name in names if vault.get(name) is not None]


def _mode(workspace: CliContext, connection: sqlite3.Connection | None) -> Mode:
    from kekbridge.webhooks import registry

    settings = workspace.settings
    if connection is None:
        return settings.mode
    return registry.mode_of(connection, settings.mode, is_explicit="mode" in settings.model_fields_set)


@contextmanager
def _store(workspace: CliContext) -> Iterator[sqlite3.Connection | None]:
    """The store to read from; None in a data directory that has none yet."""
    from kekbridge.store.connections import FILE_NAME

    if not (workspace.data_dir / FILE_NAME).exists():
        yield None
        return
    with opened(workspace) as database, database.snapshot() as connection:
        yield connection
