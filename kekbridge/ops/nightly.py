"""Makes the nightly backup and removes the oldest ones, and nothing that it has not made itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from kekbridge.config import BackupSettings
from kekbridge.errors import ConfigError
from kekbridge.log import get_logger

log = get_logger("kekbridge.ops.nightly")

# The name of a nightly backup, and of one that was not finished.
_NAMED: Final = "kekbridge-"
_MADE_HERE: Final = re.compile(rf"{_NAMED}[0-9]{{8}}T[0-9]{{6}}Z\.zip", re.ASCII)
_HALF_MADE: Final = re.compile(rf"\.{_NAMED}[0-9]{{8}}T[0-9]{{6}}Z\.zip\.[0-9a-f]+\.(db|zip).*", re.ASCII)
_LEFT_BEHIND: Final = timedelta(days=1)


def directory_of(settings: BackupSettings, data_dir: Path) -> Path:
    """Where nightly backups go."""
    return Path(settings.dir).expanduser() if settings.dir else data_dir / "backups"


class NightlyBackup:
    """`run` once a day. The newest `keep` stay; one is removed only after a newer one is whole."""

    def __init__(self, settings: BackupSettings, data_dir: Path, clock: Callable[[], datetime]) -> None:
        self._directory = directory_of(settings, data_dir)
        self._data_dir = data_dir
        self._keep = settings.keep
        self._clock = clock

    async def run(self) -> None:
        """Raises ConfigError when it cannot be written, StoreUnavailable."""
        await asyncio.to_thread(self._run)

    def _run(self) -> None:
        from kekbridge.ops import backup  # late: once a day is seldom

        now = self._clock()
        made = backup.make(self._data_dir, self._directory / f"{_NAMED}{now:%Y%m%dT%H%M%S}Z.zip", now=now)
        log.info("backup_made", file=str(made.file), bytes=made.bytes, alerts=made.alerts)
        try:
            self._tidy(now)
        except OSError as error:
            raise ConfigError(
                f"old backups in {self._directory} cannot be removed: {error.strerror}; the new one is there"
            ) from None

    def _tidy(self, now: datetime) -> None:
        found = sorted(path for path in self._directory.iterdir() if _MADE_HERE.fullmatch(path.name))
        for old in found[: -self._keep]:
            old.unlink()
        for path in self._directory.iterdir():  # of a daemon that was killed in the middle
            if _HALF_MADE.fullmatch(path.name):
                changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                if now - changed_at > _LEFT_BEHIND:
                    path.unlink()
