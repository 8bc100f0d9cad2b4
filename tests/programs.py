"""Programs that tests and benchmarks run."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from kekbridge.errors import ConfigError
from kekbridge.ops import litestream
from tests.paths import ROOT


def _has_litestream() -> bool:
    try:
        litestream.find_program()
    except ConfigError:
        return False
    return True


#: The extra `dev` installs Litestream wherever there is a wheel of it.
HAS_LITESTREAM: Final = _has_litestream()


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code`; stdout is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
