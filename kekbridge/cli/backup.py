"""`kekbridge backup` and `kekbridge restore`: write a data directory to one file, and restore it from there."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import (
    CliContext,
    is_closed,
    now,
    open_vault,
    own_context,
    passphrase_prompt,
    resolve_context,
)
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.ops.backup import Backup
    from kekbridge.vault import BackupKey, OpenVault

backup = typer.Typer(rich_markup_mode=None, add_completion=False)
restore = typer.Typer(rich_markup_mode=None, add_completion=False)


@backup.command(
    epilog=examples(
        "kekbridge backup kekbridge.zip",
        'kekbridge backup "/srv/backups/$(date +%F).zip" --json',
        "kekbridge backup key              the recovery code, to keep elsewhere",
    )
)
def back_up(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to write; an earlier backup is replaced, any other file is not. `key`: show the recovery code instead.",
        ),
    ],
    again: Annotated[bool, typer.Option("--again", help="With `key`: show a code that was shown before.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write a backup to one file; the daemon may be running.

    It holds a consistent copy of the database, the vault's sealed files and the settings, and a MAC over all of it. Secrets stay
    sealed: on another machine `restore` asks for the recovery code, which `kekbridge backup key` shows. Keep the code elsewhere; with
    it and a backup somebody has your webhooks' secrets.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import NoAccess, run_operation
    from kekbridge.errors import KekbridgeError
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.ops.trading_operations import RecordBackup
    from kekbridge.ops.vault_operations import CODE_SHOWN_FILE
    from kekbridge.store.connections import FILE_NAME

    context = resolve_context(ctx, data_dir, config)
    if str(file) == "key":
        _show_code(context, again=again, as_json=as_json)
        return
    if is_closed(context.data_dir / FILE_NAME):
        raise NoAccess(context.data_dir, needs_files=True)
    written = bridge_backup.make(context.data_dir, file.absolute(), now=now(), key=_own_key(context))
    try:
        run_operation(context, RecordBackup(made_at=written.made_at))
    except KekbridgeError as error:
        render.note(f"The backup is complete, but `kekbridge doctor` will not know of it: {error.message}")
    if as_json:
        render.as_json(_as_data(written))
        return
    render.line(f"{written.file}: {written.alerts} alerts, {written.orders} orders, {written.bytes} bytes")
    render.note(f"History: {written.history} events, last hash {written.history_hash}")
    if not (context.data_dir / CODE_SHOWN_FILE).exists():
        render.note("Without its recovery code it opens on this machine only: `kekbridge backup key` shows the code.")


def _own_key(context: CliContext) -> BackupKey:
    """The key of the data directory's backups, from the bridge's vault. Raises KekbridgeError."""
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import ShowBackupKey
    from kekbridge.vault import BackupKey

    shown = run_operation(context, ShowBackupKey())
    return BackupKey.from_code(shown["recoveryCode"], base64.b64decode(shown["sealedMasterKey"]))


def _show_code(context: CliContext, *, again: bool, as_json: bool) -> None:
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import ShowRecoveryCode

    shown = run_operation(context, ShowRecoveryCode(again=again))
    if as_json:
        render.as_json(shown)
        return
    render.line(shown["recoveryCode"])
    render.note(
        "Keep it away from the backups: together they open every webhook's secret. It is not shown again without --again."
    )


@restore.command(
    epilog=examples(
        "kekbridge restore kekbridge.zip",
        "kekbridge restore kekbridge.zip --yes",
        "kekbridge restore old.zip --unauthenticated     of 0.1, or without its code",
        "kekbridge restore before-migration-0015.db      as it was before an upgrade",
        "kekbridge restore kekbridge.zip --master-key > KEY   of a service elsewhere",
    )
)
def restore_backup(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A file that `kekbridge backup` wrote, or before-migration-….db of the data directory."
        ),
    ],
    unauthenticated: Annotated[
        bool,
        typer.Option("--unauthenticated", help="Do not check that the file is genuine; asks, also with --yes."),
    ] = False,
    master_key: Annotated[
        bool,
        typer.Option(
            "--master-key",
            help="Only write the backup's master key to stdout, for a service's credential; restore nothing.",
        ),
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into the data directory; stop the daemon first.

    All of it is checked before anything is replaced: that this bridge wrote every byte of it, or that it belongs to the recovery code,
    which is asked for on another machine (at a hidden prompt, or on stdin). Existing data is moved aside, not deleted. No order is sent
    again: at the next start the bridge looks up every order that was waiting when the backup was created, and takes over positions and
    fills from the exchange. Alerts received after the backup are no longer known. As root it restores the installed service.
    """
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.ops.backup_file import is_database

    if master_key:
        _write_master_key(file)
        return
    _restore_as_service(ctx, data_dir, file)
    context = own_context(ctx, data_dir, config)
    if not is_database(file):
        _restore(context, file, _restore_key(context, file, unauthenticated=unauthenticated), yes=yes, as_json=as_json)
        return
    with bridge_backup.copy_as_backup(file, context.data_dir) as packed:
        _restore(context, packed, (None, None), copy=file, yes=yes, as_json=as_json)


def _restore(
    context: CliContext,
    file: Path,
    keys: tuple[BackupKey | None, BackupKey | None],
    *,
    copy: Path | None = None,
    yes: bool,
    as_json: bool,
) -> None:
    """Check, ask, replace and report.

    `keys`: see `_restore_key`. `copy`: the file in this data directory that `file` was made from, which needs no proof.
    """
    from kekbridge.cli import render
    from kekbridge.errors import AlreadyRunning
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.store.connections import FILE_NAME
    from kekbridge.store.lock import DaemonLock

    directory = context.data_dir
    own, key = keys
    backup_file = bridge_backup.inspect(file, key)
    holder = DaemonLock.holder(directory)
    if holder is not None:
        raise AlreadyRunning(
            "already_running", f"the daemon (process {holder}) is using {directory}; stop it before restoring"
        )
    made_at = formatting.moment(backup_file.made_at)
    if key is None and copy is None:
        typer.confirm(
            f"Nothing proves who wrote {file}; its author may have changed limits, webhooks, the exchange's address. Restore it?",
            abort=True,
            err=True,
        )
    elif (directory / FILE_NAME).exists() and not yes:
        typer.confirm(
            f"Replace the data in {directory} with the backup of {made_at} UTC ({backup_file.alerts} alerts)?",
            abort=True,
            err=True,
        )
    adopt = _master_key_to_adopt(context, file, None if key is own else key)
    _, old = bridge_backup.restore(file, directory, now=now(), key=key)
    if adopt is not None:
        from kekbridge.vault import MASTER_KEY

        vault, master = adopt
        vault.set(MASTER_KEY, master)
    if as_json:
        render.as_json({"restored": _as_data(backup_file, copy), "movedAside": None if old is None else str(old)})
        return
    render.line(f"restored {backup_file.alerts} alerts and {backup_file.orders} orders, as of {made_at} UTC")
    if old is not None:
        render.note(f"The earlier data is in {old}")
    if adopt is not None:
        render.note(f"The master key is in the {adopt[0].title} now.")
    render.note("The next start looks up every waiting order on the exchange. Check the vault with `kekbridge doctor`.")


def _restore_key(
    context: CliContext, file: Path, *, unauthenticated: bool
) -> tuple[BackupKey | None, BackupKey | None]:
    """This machine's own key, if it has one, and the key to check the backup with: its own, else that of the code that is asked for."""
    from kekbridge.ops import backup_file
    from kekbridge.vault import BackupKey

    if unauthenticated:
        return None, None
    own = _key_of_this_machine(context)
    if own is not None and (backup_file.is_authentic(file, own) or not backup_file.has_mac(file)):
        return own, own
    if not backup_file.has_mac(file):
        return own, BackupKey(bytes(32))  # no code would help; the check says so
    return own, BackupKey.from_code(_ask_code())


def _key_of_this_machine(context: CliContext) -> BackupKey | None:
    """The key of the master key that the vault holds now; None if it holds none, or there is no vault. Creates nothing."""
    from kekbridge.errors import VaultError
    from kekbridge.vault import BackupKey
    from kekbridge.vault.base import SEALED_FILE
    from kekbridge.vault.master import held_master_key

    if context.settings.vault.backend == "file" and not (context.data_dir / SEALED_FILE).exists():
        return None  # opening it would create it
    try:
        master = held_master_key(open_vault(context, context.settings.mode))
    except VaultError:
        return None
    return None if master is None else BackupKey.from_master(master)


def _restore_as_service(ctx: typer.Context, data_dir: Path | None, file: Path) -> None:
    """If the installed service is meant, as root, restore as its user, and exit with the code of that; return otherwise.

    Raises AlreadyRunning, InstallFailed.
    """
    from kekbridge.cli.as_service import installed_service, run_as_service, stopped_service
    from kekbridge.cli.options import ARGUMENTS
    from kekbridge.errors import AlreadyRunning

    service = installed_service(ctx, data_dir)
    if service is None:
        return
    if stopped_service(ctx, data_dir) is None:
        raise AlreadyRunning(
            "already_running",
            f"the service is using {service.data_dir}; stop it before restoring: systemctl stop kekbridge.socket kekbridge",
        )
    # Its working directory is another one.
    arguments = [str(file.absolute()) if each == str(file) else each for each in ARGUMENTS]
    raise typer.Exit(run_as_service(service, arguments).returncode)


def _write_master_key(file: Path) -> None:
    """Write the master key in a backup, for `systemd-creds encrypt`; asks for the recovery code. Raises KekbridgeError.

    systemd's credentials are readable by the service only, so that no command can put the key among them.
    """
    from kekbridge.errors import ConfigError
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.vault import BackupKey

    if sys.stdout.isatty():
        raise ConfigError(
            "--master-key: stdout is a terminal, which would show the master key; write it to a file that only you can read"
        )
    sealed = bridge_backup.sealed_master_key(file)
    if sealed is None:
        raise ConfigError(f"{file} holds no master key: it was made by version 0.1; use a backup of a later version")
    key = BackupKey.from_code(_ask_code())
    bridge_backup.inspect(file, key)
    sys.stdout.write(base64.b64encode(key.open_master(sealed)).decode() + "\n")


def _ask_code() -> str:
    ask = passphrase_prompt()
    return ask("Recovery code of the backup: ") if ask is not None else sys.stdin.readline()


def _master_key_to_adopt(context: CliContext, file: Path, key: BackupKey | None) -> tuple[OpenVault, bytes] | None:
    """Where to store the master key in the backup, and that key; None if it was opened without a code, or brings its own vault.

    Raises VaultError, before anything is restored, if no vault can take it.
    """
    from kekbridge.errors import VaultError
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.vault.master import held_master_key

    sealed = bridge_backup.sealed_master_key(file) if key is not None else None
    if key is None or sealed is None or bridge_backup.brings_its_vault(file):
        return None
    master = key.open_master(sealed)
    vault = open_vault(context, context.settings.mode)
    held = held_master_key(vault)
    if held == master:
        return None
    if held is not None:
        raise VaultError(
            f"the {vault.title} holds another master key, which opens the data that is in {context.data_dir} now;"
            " restore into another --data-dir"
        )
    if not vault.is_writable:
        raise VaultError(
            f"the {vault.title} cannot be written; restore with another vault.backend, then move the secrets by hand"
        )
    return vault, master


def _as_data(backup: Backup, copy: Path | None = None) -> dict[str, Any]:
    return {**formatting.to_jsonable(backup), "file": str(copy or backup.file)}
