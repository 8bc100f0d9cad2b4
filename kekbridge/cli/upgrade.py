"""Another version of the installed service in place of the present one, or, if it does not get ready, the present one as it was."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kekbridge import __version__
from kekbridge.cli.installation import (
    Installation,
    InstallFailed,
    Systemd,
    check_program,
    ensure_account,
    ready_status,
    wait_for,
)
from kekbridge.cli.program_copy import Account, RunningProgram, run_as
from kekbridge.cli.units import NAME, SERVICE, SOCKET
from kekbridge.daemon.control_socket import service_place
from kekbridge.errors import KekbridgeError

_STOPPED: Final = "the service does not run; it starts as the new version"


class Upgrade:
    """One upgrade from the installed version to the running program's."""

    def __init__(self, place: Installation, systemd: Systemd, old: str, report: Callable[[str], None]) -> None:
        self._place = place
        self._systemd = systemd
        self._old = old
        self._report = report
        self._began = 0.0

    def run(
        self, units: Callable[[Installation, Path | None], Mapping[str, str]], *, ready_within_s: float
    ) -> dict[str, Any]:
        """Do it and say what was done. Raises InstallFailed: nothing was changed, or the old version runs again."""
        place, running = self._place, RunningProgram()
        new = running.version_id
        if new == self._old:
            return {"changed": False, "from": self._old, "to": new, "backup": None, "state": "as it was"}
        account = ensure_account()
        config = place.recorded_config()
        texts = units(place, config)
        place.add(running, account)
        check_program(place.directory_of(new) / "bin" / NAME, new, account, config)
        self._report(f"{new}: copied, and checked as the user {NAME}")
        is_active = self._systemd.is_active()
        was_ready = is_active and bool(ready_status(service_place().socket).get("ready"))
        backup = self._back_up(account) if is_active else None
        old_units = place.read_units()
        self._began = time.time()
        try:
            place.switch(new)
            place.write_units(texts)
            place.record(config)
            self._systemd.reload()
            if is_active:
                self._systemd.restart()
                self._wait(was_ready=was_ready, within_s=ready_within_s)
        except (KekbridgeError, OSError, KeyboardInterrupt) as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            self._report(f"{new}: {reason}")
            raise InstallFailed(f"{new} {self._roll_back(old_units, account, is_active=is_active)}") from None
        place.remove_versions(but={self._old, new})
        return {
            "changed": True,
            "from": self._old,
            "to": new,
            "backup": None if backup is None else str(backup),
            "state": "the service is ready" if was_ready else "the service runs" if is_active else _STOPPED,
        }

    def _back_up(self, account: Account) -> Path:
        """By the old version, which reads its own database and has the key of backups.

        As the service's user: a service that was broken into may have put links into its directory, and root would follow them.
        """
        directory = self._place.data_dir / "backups"
        file = directory / f"before-upgrade-from-{self._old}.zip"
        run_as(["mkdir", "-m", "700", str(directory)], account)  # unless it is there
        done = self._run_old(["backup", str(file)], account)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise InstallFailed(f"no backup could be written, nothing was changed: {lines[-1]}")
        self._report(f"{self._old}: backup in {file}")
        return file

    def _wait(self, *, was_ready: bool, within_s: float) -> None:
        """systemd says that it has started. It must answer, as this version, and agree with the exchange if the old one did."""

        def is_ready() -> bool:
            status = ready_status(service_place().socket)
            return status.get("version") == __version__ and (bool(status.get("ready")) or not was_ready)

        if not wait_for(is_ready, within_s):
            detail = ready_status(service_place().socket).get("detail") or "no answer"
            raise InstallFailed(f"started, but not ready after {within_s:.0f} s: {detail}")

    def _roll_back(self, units: Mapping[str, str], account: Account, *, is_active: bool) -> str:
        """Put back program, units and, if it was migrated, the database; returns what came of it."""
        place = self._place
        if is_active:
            self._systemd.stop(SERVICE, SOCKET)  # the socket, too: an alert would start it in between
        place.switch(self._old)
        place.write_units(units)
        self._systemd.reload()
        restored = self._restore_database(account)
        if not is_active:
            return f"was not installed; {self._old} is as it was"
        self._systemd.start()
        return f"did not get ready; rolled back: {self._old} runs again{restored}"

    def _restore_database(self, account: Account) -> str:
        """By the old version, which takes orders that were queued for possibly sent: the new one may have sent them."""
        from kekbridge.ops.backup import make_unauthenticated
        from kekbridge.store.connections import copies_before_migration

        data_dir = self._place.data_dir
        copies = [path for path in copies_before_migration(data_dir) if path.stat().st_mtime >= self._began]
        if not copies:
            return ", with the database as it is: it was not migrated"
        packed = self._place.base / f"before-{self._old}.zip"  # where the service can change nothing
        make_unauthenticated(copies[0], packed, now=datetime.fromtimestamp(copies[0].stat().st_mtime, UTC))
        os.chown(packed, account.uid, account.gid)
        done = self._run_old(["restore", str(packed), "--unauthenticated"], account, typed="y\n")
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise InstallFailed(
                f"did not get ready, and {self._old} is not started: its database could not be restored ({lines[-1]});"
                f" it is in {packed}"
            )
        packed.unlink()
        copies[0].unlink(missing_ok=True)
        return ", with the database of before the migration"

    def _run_old(self, arguments: list[str], account: Account, *, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of the old version on the service's data, with the service's rights."""
        data_dir = str(self._place.data_dir)
        program = self._place.directory_of(self._old) / "bin" / NAME
        command = [str(program), *arguments, "--data-dir", data_dir]
        return run_as(command, account, typed=typed, HOME=data_dir, TMPDIR="/var/tmp")  # noqa: S108
