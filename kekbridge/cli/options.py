"""Options that many commands share, declared once so that their names and helps never drift apart. Values only, no behaviour.

Imported for `kekbridge --help`: keep it free of everything heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer


class Places(NamedTuple):
    """Where the data and the settings are, as given before the command (None: not given)."""

    data_dir: Path | None = None
    config: Path | None = None


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Where kekbridge keeps its data. Default: $KEKBRIDGE_DATA_DIR, else the platform's place for user data.",
        show_default=False,
        file_okay=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings in TOML. Default: $KEKBRIDGE_CONFIG, else config.toml in the data directory, else none needed.",
        show_default=False,
        dir_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data for scripts: JSON, ISO times, decimals as text.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def examples(*lines: str) -> str:
    """An epilog whose lines are kept as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
