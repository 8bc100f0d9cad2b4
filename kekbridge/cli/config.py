"""`kekbridge config`: what the settings are, where each comes from, and whether they are right. Changes nothing."""

from __future__ import annotations

import typer

from kekbridge.cli.context import CliContext, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    help="Show and check the settings.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge config show", "kekbridge config check --config /etc/kekbridge.toml"),
)


@app.command(epilog=examples("kekbridge config show", "KEKBRIDGE_SERVER_PORT=9000 kekbridge config show --json"))
def show(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print every setting, its value and whether it is the default or comes from the file or the environment."""
    from kekbridge.cli import render

    workspace = resolve_context(context, data_dir, config)
    rows = _rows(workspace)
    if as_json:
        render.as_json(workspace.settings.model_dump(mode="json"))
        return
    render.table([render.Column("SETTING"), render.Column("VALUE", shrinks=True), render.Column("FROM")], rows)
    render.note(f"File: {workspace.config_file or 'none (config.example.toml lists everything that can be set)'}")


@app.command(epilog=examples("kekbridge config check", "kekbridge config check --config /etc/kekbridge.toml"))
def check(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Read the settings as `serve` would; exit code 2 and one line when something is wrong."""
    from kekbridge.cli import render
    from kekbridge.daemon.preflight import check_settings

    workspace = resolve_context(context, data_dir, config)
    check_settings(workspace.settings)
    changed = [name for name, _, source in _rows(workspace) if source != "default"]
    if as_json:
        render.as_json({"ok": True, "file": _text(workspace.config_file), "changed": changed})
        return
    render.line(f"ok: {workspace.config_file or 'no file, defaults'}; changed settings: {', '.join(changed) or 'none'}")


@app.command(epilog=examples("kekbridge config path", 'sqlite3 "$(kekbridge config path --json | jq -r .database)"'))
def path(context: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print where the settings, the data directory and the database are."""
    from kekbridge.cli import render
    from kekbridge.store.connections import FILE_NAME

    workspace = resolve_context(context, data_dir, config)
    places = {
        "config": _text(workspace.config_file),
        "dataDir": str(workspace.data_dir),
        "database": str(workspace.data_dir / FILE_NAME),
    }
    if as_json:
        render.as_json(places)
        return
    usual = workspace.data_dir / "config.toml"
    render.pairs(
        [
            ("config", places["config"] or f"none; {usual} would be read if it existed"),
            ("data directory", places["dataDir"]),
            ("database", places["database"]),
        ]
    )


def _rows(workspace: CliContext) -> list[tuple[str, object, str]]:
    import os

    from kekbridge.config import ENVIRONMENT_PREFIX, Settings, dotted_names

    defaults = Settings()
    rows: list[tuple[str, object, str]] = []
    for name in dotted_names():
        value = _setting(workspace.settings, name)
        if ENVIRONMENT_PREFIX + name.replace(".", "_").upper() in os.environ:
            source = "environment"
        else:
            source = "default" if value == _setting(defaults, name) else "file"
        rows.append((name, value, source))
    return rows


def _setting(settings: object, name: str) -> object:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _text(path: object) -> str | None:
    return None if path is None else str(path)
