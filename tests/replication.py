"""Litestream in tests."""

from __future__ import annotations

from typing import Final

import pytest

from tests.programs import HAS_LITESTREAM

needs_litestream: Final = pytest.mark.skipif(not HAS_LITESTREAM, reason="there is no Litestream for this machine")
