"""`kekbridge backup` and `kekbridge restore`: write a data directory to one file, and restore it from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge import formatting
from kekbridge.cli.context import now, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples

if TYPE_CHECKING:
    from kekbridge.ops.backup import Backup

backup = typer.Typer(rich_markup_mode=None, add_completion=False)
restore = typer.Typer(rich_markup_mode=None, add_completion=False)


@backup.command(
    epilog=examples("kekbridge backup kekbridge.zip", 'kekbridge backup "/srv/backups/$(date +%F).zip" --json')
)
def back_up(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; an existing file is replaced.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write a backup to one file; the daemon may be running.

    It holds a consistent copy of the database, the vault's sealed files and the settings, with checksums. Secrets stay sealed. The
    key that opens them is not included: keep it elsewhere.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import KekbridgeError
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.ops.trading_operations import RecordBackup

    context = resolve_context(ctx, data_dir, config)
    written = bridge_backup.make(context.data_dir, file.absolute(), now=now())
    try:
        run_operation(context, RecordBackup(made_at=written.made_at))
    except KekbridgeError as error:
        render.note(f"The backup is complete, but `kekbridge doctor` will not know of it: {error.message}")
    if as_json:
        render.as_json(_as_data(written))
        return
    render.line(f"{written.file}: {written.alerts} alerts, {written.orders} orders, {written.bytes} bytes")
    render.note(f"History: {written.history} events, last hash {written.history_hash}")


@restore.command(epilog=examples("kekbridge restore kekbridge.zip", "kekbridge restore kekbridge.zip --yes"))
def restore_backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `kekbridge backup` wrote.")],
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into the data directory; stop the daemon first.

    Existing data is moved aside, not deleted. No order is sent again: at the next start the bridge looks up every order that was waiting
    when the backup was created, and takes over positions and fills from the exchange. Alerts received after the backup are no longer known.
    """
    from kekbridge.cli import render
    from kekbridge.errors import AlreadyRunning
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.store.connections import FILE_NAME
    from kekbridge.store.lock import DaemonLock

    directory = resolve_context(ctx, data_dir, config).data_dir
    backup_file = bridge_backup.inspect(file)
    holder = DaemonLock.holder(directory)
    if holder is not None:
        raise AlreadyRunning(
            "already_running", f"the daemon (process {holder}) is using {directory}; stop it before restoring"
        )
    if (directory / FILE_NAME).exists() and not yes:
        made_at = formatting.moment(backup_file.made_at)
        typer.confirm(
            f"Replace the data in {directory} with the backup of {made_at} UTC ({backup_file.alerts} alerts)?",
            abort=True,
            err=True,
        )
    _, old = bridge_backup.restore(file, directory, now=now())
    if as_json:
        render.as_json({"restored": _as_data(backup_file), "movedAside": None if old is None else str(old)})
        return
    render.line(
        f"restored {backup_file.alerts} alerts and {backup_file.orders} orders, as of {formatting.moment(backup_file.made_at)} UTC"
    )
    if old is not None:
        render.note(f"The earlier data is in {old}")
    render.note("The next start looks up every waiting order on the exchange. Check the vault with `kekbridge doctor`.")


def _as_data(backup: Backup) -> dict[str, Any]:
    return {**formatting.to_jsonable(backup), "file": str(backup.file)}
