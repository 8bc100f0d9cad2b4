"""Data directory, settings, database and vault of one command, found from options, environment, files and running bridges.

Options after the command's name override those before it. Everything is opened on demand; nothing here prints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kekbridge.cli.options import GlobalOptions

if TYPE_CHECKING:
    import sqlite3

    import typer

    from kekbridge.config import Settings
    from kekbridge.model import Mode
    from kekbridge.store.database import Database
    from kekbridge.vault import OpenVault


@dataclass(frozen=True, slots=True)
class CliContext:
    """Where a command works and with which settings."""

    #: Data directory, absolute; may not exist yet.
    data_dir: Path
    #: Settings in force: defaults, file, environment, options.
    settings: Settings
    #: File the settings were read from. None: defaults and environment only.
    config_file: Path | None
    #: Control socket of the bridge that was found there. None: the one of the data directory, if there is one.
    control_socket: Path | None = None


def resolve_context(
    ctx: typer.Context,
    data_dir: Path | None,
    config: Path | None,
    overrides: Mapping[str, Any] | None = None,
) -> CliContext:
    """Return the context of a command about a bridge: that of the one that runs, else `own_context`.

    A bridge that runs comes first, wherever it is (cli/bridges.py); its vault and its settings are used over its control socket.
    `overrides` are settings given as options (dotted names, None: not given). Raises ConfigError when a file or setting is wrong, or if
    several bridges run; NoAccess if the bridge belongs to another user.
    """
    from dataclasses import replace

    from kekbridge.cli.bridges import find_in_use

    bridge = find_in_use(ctx, data_dir, config)
    if bridge is None:
        return own_context(ctx, data_dir, config, overrides)
    context = own_context(ctx, bridge.context.data_dir, config, overrides)
    return replace(context, control_socket=bridge.context.control_socket)


def own_context(
    ctx: typer.Context,
    data_dir: Path | None,
    config: Path | None,
    overrides: Mapping[str, Any] | None = None,
) -> CliContext:
    """Return the context of the directory that options or environment name, else the usual one, whichever bridges run.

    Raises ConfigError when a file or setting is wrong.
    """
    from kekbridge.config import default_data_dir, find_config_file, load_settings

    given = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
    directory = (data_dir or given.data_dir or default_data_dir()).expanduser().absolute()
    file = find_config_file(config or given.config, directory)
    return CliContext(directory, load_settings(file, overrides=overrides), file)


@contextmanager
def open_database(context: CliContext, *, create: bool = False) -> Iterator[Database]:
    """Open the data directory's database to read; one whose files are closed to this user is read through its bridge.

    Raises NotFound, with the fix, when there is none yet and `create` is False; NoAccess for another user's without a bridge that answers.
    """
    from kekbridge.store.connections import FILE_NAME
    from kekbridge.store.database import Database
    from kekbridge.store.lock import DaemonLock

    if is_closed(context.data_dir / FILE_NAME):
        from kekbridge.cli.bridge_database import BridgeDatabase
        from kekbridge.cli.control import NoAccess, catch_up

        if context.control_socket is None:
            raise NoAccess(context.data_dir)
        catch_up(context)
        yield BridgeDatabase(context)
        return
    has_daemon = DaemonLock.holder(context.data_dir) is not None
    if has_daemon:
        from kekbridge.cli.control import catch_up

        catch_up(context)
    database = Database.open(context.data_dir, create=create, migrate=not has_daemon)
    try:
        yield database
    finally:
        database.close_now()


def open_vault(context: CliContext, mode: Mode) -> OpenVault:
    """Open the vault that the settings name, else the first that this mode may use; prompts for its passphrase on a terminal."""
    from kekbridge import vault

    settings = context.settings.vault
    key = (settings.backend, settings.secrets_dir, context.data_dir, mode)
    kept = None if _kept_vaults is None else _kept_vaults.get(key)
    opened = kept or vault.open_vault(settings, context.data_dir, mode, ask=passphrase_prompt())
    if _kept_vaults is not None:
        _kept_vaults[key] = opened
    return opened


@contextmanager
def keep_vaults_open() -> Iterator[None]:
    """Inside, a vault that was opened is used again, so that a command of several operations asks for a passphrase once."""
    global _kept_vaults
    _kept_vaults = {}
    try:
        yield
    finally:
        _kept_vaults = None


_kept_vaults: dict[tuple[str, str, Path, Mode], OpenVault] | None = None


def passphrase_prompt() -> Callable[[str], str] | None:
    """Return a hidden prompt, or None when stdin is no terminal."""
    import getpass

    return getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None


def mode_in_force(context: CliContext, database: Database) -> Mode:
    """Return the configured mode; if none is configured, the mode of the last started daemon."""
    from kekbridge.webhooks import registry

    with database.snapshot() as connection:
        return registry.mode_of(
            connection, context.settings.mode, is_explicit="mode" in context.settings.model_fields_set
        )


def webhook_url(context: CliContext, connection: sqlite3.Connection) -> str:
    """Return the URL for TradingView: the running daemon's, else the one that follows from the settings."""
    from kekbridge.webhooks import registry

    return registry.webhook_url(connection, context.settings, is_running=is_running(context))


def is_closed(path: Path) -> bool:
    """True if this user may not see whether the file exists, or not use it as SQLite has to."""
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK | os.W_OK)


def is_running(context: CliContext) -> bool:
    """True if a bridge uses the data directory now."""
    from kekbridge.store.lock import DaemonLock

    return context.control_socket is not None or DaemonLock.holder(context.data_dir) is not None


def settings_in_force(context: CliContext) -> Settings:
    """The settings of the bridge that runs, which may have others than this command; else the command's own."""
    if context.control_socket is None:
        return context.settings
    from pydantic import ValidationError

    from kekbridge.cli.control import run_operation
    from kekbridge.config import Settings
    from kekbridge.errors import ConfigError
    from kekbridge.ops.read_operations import ShowSettings

    try:
        return Settings.model_validate(run_operation(context, ShowSettings()))
    except ValidationError:
        raise ConfigError("the bridge is of another version than this command; restart it after an upgrade") from None


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
