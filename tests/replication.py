"""Litestream in tests: a program that the extra `dev` installs wherever there is a wheel of it."""

from __future__ import annotations

from typing import Final

import pytest

from kekbridge.errors import ConfigError
from kekbridge.ops import litestream


def _is_installed() -> bool:
    try:
        litestream.find_program()
    except ConfigError:
        return False
    return True


HAS_LITESTREAM: Final = _is_installed()
needs_litestream: Final = pytest.mark.skipif(not HAS_LITESTREAM, reason="there is no Litestream for this machine")
