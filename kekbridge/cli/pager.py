"""Show a long text on a terminal in the reader's pager: $PAGER, else $MANPAGER, else less.

A text that fits the screen is printed without one, as is any text on a terminal that cannot page.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from typing import Final

# Exit codes of a shell whose command cannot be executed or is not found.
_NOT_STARTED: Final = (126, 127)
_DUMB: Final = ("", "dumb")
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")


def page(text: str) -> None:
    """Print a text on stdout, in a pager if it is longer than the screen."""
    command = _pager()
    if command and not _fits(text) and _runs(command, text):
        return
    sys.stdout.write(text)


def _pager() -> str:
    if os.environ.get("TERM", "") in _DUMB:
        return ""
    for name in ("PAGER", "MANPAGER"):
        if (named := os.environ.get(name)) is not None:
            return "" if named.strip() in ("", "cat") else named
    return next((each for each in ("less", "more") if shutil.which(each)), "")


def _fits(text: str) -> bool:
    from rich.cells import cell_len

    width, height = shutil.get_terminal_size()
    rows = sum(max(1, -(-cell_len(line) // width)) for line in _STYLE.sub("", text).splitlines())
    return rows < height  # the last line is the prompt's


def _runs(command: str, text: str) -> bool:
    """Show a text in the pager and wait until the reader leaves it; False if it does not start."""
    # less: show colours, which the reader's own options may leave out.
    environment = {**os.environ, "LESS": f"-R {os.environ.get('LESS', '')}".strip()}
    before = signal.signal(signal.SIGINT, _ignore)
    try:
        started = subprocess.Popen(  # noqa: S602 - a command line of the reader's own, as every program treats it
            command, shell=True, stdin=subprocess.PIPE, env=environment, text=True, errors="backslashreplace"
        )
        try:
            started.communicate(text)
        except BrokenPipeError:  # left before the end
            started.wait()
        return started.returncode not in _NOT_STARTED
    except OSError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)


def _ignore(*_: object) -> None:
    """Ctrl-C belongs to the pager. A handler, because the pager would inherit that the signal is ignored."""
