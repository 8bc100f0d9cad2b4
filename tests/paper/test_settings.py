"""Settings and identity of the paper account."""

from __future__ import annotations

import subprocess
import sys


def test_settings_do_not_import_the_server() -> None:
    """Importing settings and identity does not import aiohttp."""
    code = "import sys, kekbridge.paper.settings; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
