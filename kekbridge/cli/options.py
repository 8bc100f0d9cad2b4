"""Options that many commands share, declared once so that names and help texts stay the same everywhere.

Imported for `kekbridge --help`: keep it free of heavy imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

#: The arguments of the command that runs; main.py sets them.
ARGUMENTS: list[str] = []


class GlobalOptions(NamedTuple):
    """Options given before the command's name."""

    #: `--data-dir`; None: not given.
    data_dir: Path | None = None
    #: `--config`; None: not given.
    config: Path | None = None


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Data directory. Default: $KEKBRIDGE_DATA_DIR, else the platform's directory for user data.",
        show_default=False,
        file_okay=False,
        readable=False,  # members of the service's group cannot read its data directory, but use its control socket
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file in TOML. Default: $KEKBRIDGE_CONFIG, else config.toml in the data directory, if there is one.",
        show_default=False,
        dir_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts: ISO times, decimals as text.")]
Utc = Annotated[bool, typer.Option("--utc", help="Show times in UTC instead of this machine's time zone.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def examples(*lines: str) -> str:
    """Return a help epilog that lists the lines as examples, unwrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
