"""`kekbridge doctor`: run every check and print each with its fix. Changes no setting, order or limit."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import typer

from kekbridge.cli.context import mode_in_force, now, open_database, own_context, passphrase_prompt
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from pathlib import Path

    from kekbridge.cli.context import CliContext
    from kekbridge.model.check import Check

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge doctor",
        "kekbridge doctor --json | jq '.checks[] | select(.level != \"ok\")'",
        "kekbridge doctor || echo 'something is broken'",
    )
)
def doctor(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Check the whole installation, from settings to reachability from TradingView.

    A running bridge makes the checks itself, with its vault open. Each is ok, warning or broken, with fixes listed below. Exit code 1 if
    any is broken, else 0.
    """
    from kekbridge.cli import render

    context, checks = _run_checks(ctx, data_dir, config)
    broken = [check for check in checks if check.level == "broken"]
    if as_json:
        render.as_json({"ok": not broken, "checks": checks})
    else:
        _print(checks)
    if context is not None:
        _note_shown(context, checks)
    return 1 if broken else 0


def _note_shown(context: CliContext, checks: tuple[Check, ...]) -> None:
    """Orders that the database does not know were listed: `kekbridge resume` works from now on."""
    from kekbridge.ops.doctor.setup import LOST_ORDERS

    if any(check.name == LOST_ORDERS for check in checks):
        from kekbridge.cli.control import run_operation
        from kekbridge.ops.trading_operations import NoteLostOrdersShown

        run_operation(context, NoteLostOrdersShown())


def _run_checks(
    ctx: typer.Context, data_dir: Path | None, config: Path | None
) -> tuple[CliContext | None, tuple[Check, ...]]:
    """The checks, made by the bridge that runs if it answers; and the context that they are about, if its settings can be read."""
    from dataclasses import replace

    from kekbridge.cli.bridges import find_in_use
    from kekbridge.cli.control import daemon_status, run_operation
    from kekbridge.errors import ConfigError
    from kekbridge.model.check import Check
    from kekbridge.ops.trading_operations import Examine

    bridge = find_in_use(ctx, data_dir, config)
    wrong: tuple[Check, ...] = ()
    try:
        context = own_context(ctx, bridge.context.data_dir if bridge else data_dir, config)
    except ConfigError as error:
        fix = "correct it; config.example.toml lists every setting"
        wrong = (Check("settings", "broken", error.message, fix),)
        if bridge is None or not bridge.is_running:
            return None, wrong
        context = bridge.context
    if bridge is None or not bridge.is_running:
        return context, _examine_here(context)
    context = replace(context, control_socket=bridge.context.control_socket)
    status = daemon_status(context)
    if status is None:
        return context, wrong or _examine_here(context, unopened="the bridge that has it open does not answer")
    first = Check("settings", "ok", f"those of the running bridge, mode {status['mode']}")
    if _is_newer(context.config_file, status.get("startedAt")):
        text = f"{context.config_file} was changed after the bridge started, which still uses the old ones"
        first = Check(
            "settings", "warning", text, "`kekbridge config check`, restart the bridge, then run `doctor` again"
        )
    return context, (*(wrong or (first,)), *(Check(**row) for row in run_operation(context, Examine())))


def _is_newer(config_file: Path | None, started_at: str | None) -> bool:
    if config_file is None or started_at is None:
        return False
    try:
        return config_file.stat().st_mtime > datetime.fromisoformat(started_at).timestamp()
    except OSError:
        return False


def _examine_here(context: CliContext, unopened: str = "") -> tuple[Check, ...]:
    """Check without a bridge; `unopened`: why the vault must not be opened."""
    from kekbridge.cli.control import VaultOutOfReach, require_own
    from kekbridge.errors import ConfigError, NotFound
    from kekbridge.model.check import Check
    from kekbridge.ops import doctor as bridge_doctor

    settings = context.settings
    try:
        with open_database(context) as database:
            settings = settings.model_copy(update={"mode": mode_in_force(context, database)})
    except (NotFound, ConfigError):
        pass  # no database yet, or a damaged one: the check of the database reports it
    try:
        require_own(context.data_dir)
    except VaultOutOfReach as error:
        unopened = unopened or error.message
    first = Check("settings", "ok", f"{context.config_file or 'defaults and environment'}, mode {settings.mode.value}")
    found = bridge_doctor.examine(settings, context.data_dir, clock=now, ask=passphrase_prompt(), unopened=unopened)
    return first, *found


def _print(checks: tuple[Check, ...]) -> None:
    from kekbridge.cli import render

    titles = {"CHECK": 18, "STATE": 7}
    render.lines(titles, [render.Line((check.name, check.level), check.text) for check in checks])
    fixes = [check for check in checks if check.fix and check.level != "ok"]
    if fixes:
        render.heading("What to do")
        for check in fixes:
            render.paragraph(f"{check.name}: {check.fix}", indent=2)
