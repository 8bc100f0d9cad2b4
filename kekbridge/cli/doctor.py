"""`kekbridge doctor`: every check on one screen, each with its fix. Changes nothing; the exit code is for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kekbridge.cli.context import mode_in_force, now, opened, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.model.check import Check

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge doctor",
        "kekbridge doctor --json | jq '.checks[] | select(.level != \"ok\")'",
        "kekbridge doctor || echo 'something is broken'",
    )
)
def doctor(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Check everything, from the settings to the way from TradingView.

    Each line is ok, warning or broken, with the fix below. Exit code 1 when something is broken, 0 otherwise.
    """
    from kekbridge.cli import render

    checks = _examine(context, data_dir, config)
    broken = [check for check in checks if check.level == "broken"]
    if as_json:
        render.as_json({"ok": not broken, "checks": checks})
    else:
        _print(checks)
    return 1 if broken else 0


def _examine(context: typer.Context, data_dir: Path | None, config: Path | None) -> tuple[Check, ...]:
    import getpass
    import sys

    from kekbridge.errors import ConfigError, NotFound
    from kekbridge.model.check import Check
    from kekbridge.ops import doctor as bridge_doctor

    try:
        workspace = resolve_context(context, data_dir, config)
    except ConfigError as error:
        return (Check("settings", "broken", error.message, "correct it; config.example.toml lists every setting"),)
    settings = workspace.settings
    try:
        with opened(workspace) as database:
            settings = settings.model_copy(update={"mode": mode_in_force(workspace, database)})
    except (NotFound, ConfigError):
        pass  # no database yet, or a damaged one, which its own line tells
    first = Check(
        "settings", "ok", f"{workspace.config_file or 'defaults and environment'}, mode {settings.mode.value}"
    )
    ask = getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None
    return (first, *bridge_doctor.examine(settings, workspace.data_dir, clock=now, ask=ask))


def _print(checks: tuple[Check, ...]) -> None:
    from kekbridge.cli import render

    titles = {"CHECK": 18, "STATE": 7}
    render.lines(titles, [render.Line((check.name, check.level), check.text) for check in checks])
    fixes = [check for check in checks if check.fix and check.level != "ok"]
    if fixes:
        render.heading("What to do")
        for check in fixes:
            render.paragraph(f"{check.name}: {check.fix}", indent=2)
