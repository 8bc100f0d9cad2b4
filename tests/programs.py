"""Programs that tests and benchmarks use where they are installed."""

from __future__ import annotations

from typing import Final

from kekbridge.errors import ConfigError
from kekbridge.ops import litestream


def _has_litestream() -> bool:
    try:
        litestream.find_program()
    except ConfigError:
        return False
    return True


#: The extra `dev` installs Litestream wherever there is a wheel of it.
HAS_LITESTREAM: Final = _has_litestream()
