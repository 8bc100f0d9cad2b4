"""Operations on backups: what there is. Making one is in backup.py, the recovery code in vault_operations.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from kekbridge.ops import backup
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.ops.vault_operations import CODE_SHOWN_FILE
from kekbridge.store import settings


class ShowBackups(Operation, frozen=True, kw_only=True):
    """When the last backup was made, when and where the nightly ones are, and whether the recovery code was shown."""

    operation: ClassVar[str] = "backup-show"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        nightly = context.settings.backup
        directory = backup.directory_of(nightly, context.data_dir)
        return {
            "lastAt": await context.database.read(settings.get_value, backup.LAST_BACKUP),
            "nightly": nightly.nightly,
            "at": nightly.at,
            "keep": nightly.keep,
            "directory": str(directory),
            "count": await asyncio.to_thread(_count, directory),
            "codeShown": (context.data_dir / CODE_SHOWN_FILE).exists(),
        }


def _count(directory: Path) -> int:
    return len(backup.nightly_files(directory))
