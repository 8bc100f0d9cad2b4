"""`kekbridge config`: show the settings and their sources, check them, print paths. Changes nothing."""

from __future__ import annotations

import typer

from kekbridge.cli.context import CliContext, own_context
from kekbridge.cli.groups import CommandGroup
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

app = typer.Typer(
    cls=CommandGroup,
    help="Show and check the settings.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    epilog=examples("kekbridge config show", "kekbridge config check --config /etc/kekbridge.toml"),
)


@app.command(epilog=examples("kekbridge config show", "KEKBRIDGE_SERVER_PORT=9000 kekbridge config show --json"))
def show(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print every setting with its value and source."""
    from kekbridge.cli import render

    context = own_context(ctx, data_dir, config)
    rows = _rows(context)
    if as_json:
        render.as_json(context.settings.model_dump(mode="json"))
        return
    render.table([render.Column("SETTING"), render.Column("VALUE", shrinks=True), render.Column("FROM")], rows)
    render.note(f"Settings file: {context.config_file or 'none (config.example.toml lists every setting)'}")


@app.command(epilog=examples("kekbridge config check", "kekbridge config check --config /etc/kekbridge.toml"))
def check(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check the settings as `serve` does. Exit code 2 and one line if something is wrong."""
    from kekbridge.cli import render
    from kekbridge.daemon.preflight import check_settings, settings_changed_since_0_1

    context = own_context(ctx, data_dir, config)
    check_settings(context.settings)
    for line in settings_changed_since_0_1(context.settings):
        render.note(line)
    changed = [name for name, _, source in _rows(context) if source != "default"]
    if as_json:
        render.as_json({"ok": True, "file": _text(context.config_file), "changed": changed})
        return
    render.line(f"ok: {context.config_file or 'no settings file'}; changed settings: {', '.join(changed) or 'none'}")


@app.command(epilog=examples("kekbridge config path", 'sqlite3 "$(kekbridge config path --json | jq -r .database)"'))
def path(ctx: typer.Context, data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print the paths of settings, data directory and database."""
    from kekbridge.cli import render
    from kekbridge.store.connections import FILE_NAME

    context = own_context(ctx, data_dir, config)
    paths = {
        "config": _text(context.config_file),
        "dataDir": str(context.data_dir),
        "database": str(context.data_dir / FILE_NAME),
    }
    if as_json:
        render.as_json(paths)
        return
    default_file = context.data_dir / "config.toml"
    render.pairs(
        [
            ("config", paths["config"] or f"none; {default_file} is read if it exists"),
            ("data directory", paths["dataDir"]),
            ("database", paths["database"]),
        ]
    )


def _rows(context: CliContext) -> list[tuple[str, object, str]]:
    import os

    from kekbridge.config import ENVIRONMENT_PREFIX, Settings, dotted_names

    defaults = Settings()
    rows: list[tuple[str, object, str]] = []
    for name in dotted_names():
        value = _setting(context.settings, name)
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
