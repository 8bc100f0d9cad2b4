"""Run the command that was typed as the installed service would: with its user, its data directory and its credentials.

Only the service can open its vault, and commands use it over the control socket while it runs. A standby's service does not run before the
takeover, so root runs the few commands that prepare it as its user, with the credentials decrypted into memory, as systemd does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from kekbridge.cli.options import ARGUMENTS, GlobalOptions

if TYPE_CHECKING:
    from kekbridge.cli.installation import Installation
    from kekbridge.cli.program_copy import Account

# A tmpfs: what is below it is never on a disk.
_MEMORY: Final = Path("/run")
_PREFIX: Final = "kekbridge-credentials-"


def exit_as_service(ctx: typer.Context, data_dir: Path | None, *, standby_only: bool = False) -> None:
    """Run the command that was typed as the service, and exit with its code; return if the service is not meant (`stopped_service`).

    `standby_only`: it is meant only if its data directory is a standby's. Raises InstallFailed.
    """
    from kekbridge.ops.standby_record import FILE

    place = stopped_service(ctx, data_dir)
    if place is not None and (not standby_only or (place.data_dir / FILE).exists()):
        raise typer.Exit(run_as_service(place, ARGUMENTS).returncode)


def stopped_service(ctx: typer.Context, data_dir: Path | None) -> Installation | None:
    """The installed service, if root names no data directory and it does not run; else None."""
    from kekbridge.cli.installation import Systemd

    place = installed_service(ctx, data_dir)
    return None if place is None or Systemd().is_active() else place


def installed_service(ctx: typer.Context, data_dir: Path | None) -> Installation | None:
    """The installed service, if root names no data directory; else None."""
    from kekbridge.cli.installation import Installation, Systemd

    given = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
    if os.geteuid() != 0 or data_dir or given.data_dir or os.environ.get("KEKBRIDGE_DATA_DIR"):
        return None
    place = Installation.here()
    return None if place.version() is None or not Systemd().runs else place


def run_as_service(
    place: Installation, arguments: Sequence[str], *, text: str | None = None, is_captured: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed program as the service; `text` is its stdin, its stdout is captured or this one's.

    Raises InstallFailed.
    """
    from kekbridge.cli.installation import ensure_account

    account = ensure_account()
    place.data_dir.mkdir(mode=0o700, exist_ok=True)
    os.chown(place.data_dir, account.uid, account.gid)
    sys.stdout.flush()
    with _credentials(place, account) as directory:
        return subprocess.run(  # noqa: S603 - the installed program
            [str(place.program), *arguments],
            input=text,
            stdout=subprocess.PIPE if is_captured else None,
            text=True,
            env=_environment(place, directory),
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            umask=0o077,
            cwd="/",
            check=False,
        )


@contextmanager
def _credentials(place: Installation, account: Account) -> Iterator[Path]:
    """A directory in memory with the service's credentials, readable by its user. Raises InstallFailed."""
    from kekbridge.cli.installation import call

    for left in _MEMORY.glob(f"{_PREFIX}*"):  # by a command that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_MEMORY) as name:
        directory = Path(name)
        for file in sorted(place.credentials.iterdir()) if place.credentials.is_dir() else ():
            target = directory / file.name
            call(["systemd-creds", "decrypt", f"--name={file.name}", str(file), str(target)])
            target.chmod(0o400)
            os.chown(target, account.uid, account.gid)
        os.chown(directory, account.uid, account.gid)
        yield directory


def _environment(place: Installation, credentials: Path) -> dict[str, str]:
    from kekbridge.cli.form import EXECUTABLE, form
    from kekbridge.cli.units import UNPACK_DIR

    environment = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TERM", "COLUMNS") if name in os.environ
    }
    environment |= {
        "HOME": str(place.data_dir),
        "KEKBRIDGE_DATA_DIR": str(place.data_dir),
        "KEKBRIDGE_VAULT_BACKEND": "directory",
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    if (config := place.recorded_config()) is not None:
        environment["KEKBRIDGE_CONFIG"] = str(config)
    if form() == EXECUTABLE:
        environment["TMPDIR"] = UNPACK_DIR
    return environment


def is_service(data_dir: Path) -> bool:
    """True for the installed service's data directory."""
    from kekbridge.daemon.control_socket import service_place

    return data_dir == service_place().data_dir
