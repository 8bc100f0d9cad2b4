"""In which form kekbridge runs: as a Python package, as a one-file executable, or as a zipapp.

Imported for `kekbridge --version`: keep it free of heavy imports.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = "Python package"
EXECUTABLE: Final = "one-file executable"
ZIPAPP: Final = "zipapp"

_LIBRARY_PATH: Final = "LD_LIBRARY_PATH"


def form() -> str:
    """PACKAGE, EXECUTABLE or ZIPAPP."""
    if getattr(sys, "frozen", False):
        return EXECUTABLE
    return PACKAGE if _archive() is None else ZIPAPP


def program_file() -> Path | None:
    """The one file that was started; None for a package."""
    return Path(sys.executable) if form() == EXECUTABLE else _archive()


def _archive() -> Path | None:
    archive = getattr(getattr(sys.modules.get("__main__"), "__loader__", None), "archive", None)
    return None if archive is None else Path(str(archive)).absolute()


def restore_library_path() -> None:
    """Undo what the executable's loader did to LD_LIBRARY_PATH: systemctl, a pager or a mailer must not load the executable's libraries."""
    if form() != EXECUTABLE:
        return
    before = os.environ.pop(f"{_LIBRARY_PATH}_ORIG", None)
    os.environ.pop(_LIBRARY_PATH, None)
    if before is not None:
        os.environ[_LIBRARY_PATH] = before
