"""`kekbridge backup` and `kekbridge restore`: everything into one file while the daemon runs, and back while it does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; an existing file is replaced.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write everything into one file, also while the daemon runs.

    The database as of one instant, the vault's sealed parts and the settings, with checksums. Secrets stay sealed; the key that opens
    them is not in it: keep that apart.
    """
    from kekbridge.cli import render
    from kekbridge.ops import backup as bridge_backup

    made = bridge_backup.make(resolve_context(context, data_dir, config).data_dir, file.absolute(), now=now())
    if as_json:
        render.as_json(_as_data(made))
        return
    render.line(f"{made.file}: {made.alerts} alerts, {made.orders} orders, {made.bytes} bytes")
    render.note(f"History: {made.history} events, last hash {made.history_hash}")


@restore.command(epilog=examples("kekbridge restore kekbridge.zip", "kekbridge restore kekbridge.zip --yes"))
def restore_backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `kekbridge backup` wrote.")],
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Bring a backup back into the data directory; the daemon must be stopped.

    What is there is moved aside, not deleted. No order is sent again: the next start asks the exchange for every order that waited
    when the backup was made, and takes over the exchange's positions and fills. Alerts that came after the backup are not known any more.
    """
    from kekbridge.cli import render
    from kekbridge.errors import AlreadyRunning
    from kekbridge.ops import backup as bridge_backup
    from kekbridge.store.connections import FILE_NAME
    from kekbridge.store.lock import DaemonLock

    directory = resolve_context(context, data_dir, config).data_dir
    found = bridge_backup.inspect(file)
    holder = DaemonLock.holder(directory)
    if holder is not None:
        raise AlreadyRunning(
            "already_running", f"the daemon (process {holder}) uses {directory}; stop it before restoring"
        )
    if (directory / FILE_NAME).exists() and not yes:
        made = render.moment(found.made_at)
        typer.confirm(
            f"Replace the data in {directory} by the backup of {made} ({found.alerts} alerts)?", abort=True, err=True
        )
    _, old = bridge_backup.restore(file, directory, now=now())
    if as_json:
        render.as_json({"restored": _as_data(found), "movedAside": None if old is None else str(old)})
        return
    render.line(f"restored {found.alerts} alerts and {found.orders} orders, as of {render.moment(found.made_at)} UTC")
    if old is not None:
        render.note(f"What was there is in {old}")
    render.note("The next start asks the exchange for every order that waited; `kekbridge doctor` checks the vault.")


def _as_data(made: Backup) -> dict[str, Any]:
    from kekbridge.cli import render

    return {**render.to_jsonable(made), "file": str(made.file)}
