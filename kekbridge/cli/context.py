"""Where a command works: data directory, settings, database and vault, found from options, environment and files.

Options after the command win over those before it. Nothing is opened before it is asked for; nothing here prints.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kekbridge.cli.options import Places

if TYPE_CHECKING:
    import sqlite3

    import typer

    from kekbridge.config import Settings
    from kekbridge.model import Mode
    from kekbridge.store.database import Database
    from kekbridge.vault import OpenVault, Sealer


@dataclass(frozen=True, slots=True)
class CliContext:
    """The data directory, the settings in force and the file they came from (None: defaults and environment only)."""

    data_dir: Path
    settings: Settings
    config_file: Path | None


def resolve_context(
    context: typer.Context,
    data_dir: Path | None,
    config: Path | None,
    overrides: Mapping[str, Any] | None = None,
) -> CliContext:
    """The workspace of this command; `overrides` are settings given as options (dotted names, None: not given).

    Raises ConfigError with one line when a file or setting is wrong.
    """
    from kekbridge.config import default_data_dir, find_config_file, load_settings

    before = context.obj if isinstance(context.obj, Places) else Places()
    directory = (data_dir or before.data_dir or default_data_dir()).expanduser().absolute()
    file = find_config_file(config or before.config, directory)
    return CliContext(directory, load_settings(file, overrides=overrides), file)


@contextmanager
def opened(workspace: CliContext, *, create: bool = False) -> Iterator[Database]:
    """The database of the workspace. Raises NotFound, naming the way out, when there is none yet and `create` is False."""
    from kekbridge.store.database import Database

    database = Database.open(workspace.data_dir, create=create)
    try:
        yield database
    finally:
        database.close_now()


def open_sealer(workspace: CliContext, database: Database) -> Sealer:
    """The sealer of the webhooks' secrets: the vault that the settings, or the last started daemon's mode, name.

    Opens the vault, which may ask a keyring: call it before a transaction, not inside.
    """
    from kekbridge.vault import Sealer, master_key

    return Sealer(master_key(open_the_vault(workspace, mode_in_force(workspace, database))))


def open_the_vault(workspace: CliContext, mode: Mode) -> OpenVault:
    """The vault that the settings name, or the first that this mode may use; asks for its passphrase where somebody can answer."""
    import getpass

    from kekbridge.vault import open_vault

    ask = getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None
    return open_vault(workspace.settings.vault, workspace.data_dir, mode, ask=ask)


def mode_in_force(workspace: CliContext, database: Database) -> Mode:
    """The configured mode; if nobody configured one, that of the last started daemon."""
    from kekbridge.webhooks import registry

    with database.snapshot() as connection:
        return registry.mode_of(
            connection, workspace.settings.mode, is_explicit="mode" in workspace.settings.model_fields_set
        )


def webhook_url(workspace: CliContext, connection: sqlite3.Connection) -> str:
    """Where TradingView must send to, as the running daemon has it, else as the settings say."""
    from kekbridge.store.lock import DaemonLock
    from kekbridge.webhooks import registry

    is_running = DaemonLock.holder(workspace.data_dir) is not None
    return registry.webhook_url(connection, workspace.settings, is_running=is_running)


def now() -> datetime:
    """The clock of the command line: aware, UTC."""
    return datetime.now(UTC)
