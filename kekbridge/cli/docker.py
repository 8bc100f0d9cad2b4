"""`kekbridge docker`: a directory from which Docker Compose builds and runs this very program."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge import __version__
from kekbridge.cli.form import EXECUTABLE, form
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples

if TYPE_CHECKING:
    from kekbridge.cli.container_files import ImageSettings

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kekbridge docker --print              Dockerfile and compose.yaml, to read",
        "kekbridge docker bridge               write all that is needed to ./bridge",
        "kekbridge docker bridge --config k.toml  with these settings",
        "kekbridge docker bridge --upgrade        put this version into ./bridge",
    )
)
def docker(
    ctx: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Directory to write into; made if it is not there.", show_default=False),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print Dockerfile and compose.yaml instead of writing them.")
    ] = False,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade", help="Replace the program in DIR by this one; compose.yaml, settings, secrets stay."),
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write what Docker needs to run the bridge: image, Compose file, settings.

    The image holds this very version, its packages pinned by hash. The container runs as a user without rights, on a read-only root
    file system; its data is in a volume, its master key is a Docker secret, its ports are published on this machine's loopback only.
    Files that exist are not replaced.
    """
    from kekbridge.cli import render
    from kekbridge.cli.container_files import container_texts
    from kekbridge.errors import ConfigError

    settings = _image_settings()
    if only_print:
        texts = container_texts(settings)
        shown = {name: text for name, text in texts.items() if not name.startswith(".")}
        if as_json:
            render.as_json(shown)
        else:
            sys.stdout.write("\n".join(f"# {(directory or Path()) / name}\n{text}" for name, text in shown.items()))
        return
    if directory is None:
        raise ConfigError("name the directory to write into, such as `kekbridge docker bridge`, or use --print")
    target = directory.expanduser().absolute()
    written = _write_upgrade(target, settings) if upgrade else _write_new(ctx, target, settings, data_dir, config)
    steps = _next_steps(target, is_new=not upgrade)
    if as_json:
        render.as_json({"written": [str(path) for path in written], "nextSteps": steps})
        return
    for path in written:
        render.line(f"written: {path}")
    render.heading("Next steps")
    for step in steps:
        render.line(f"  {step}")


def _image_settings() -> ImageSettings:
    from kekbridge.cli.container_files import ImageSettings

    wheel = None if form() == EXECUTABLE else f"kekbridge-{__version__}-py3-none-any.whl"
    return ImageSettings(__version__, wheel)


def _write_new(
    ctx: typer.Context, target: Path, settings: ImageSettings, data_dir: Path | None, config: Path | None
) -> list[Path]:
    """Raises ConfigError, with nothing written, if one of the files is there already."""
    from kekbridge.cli.container_files import FIRST_SETTINGS, MASTER_KEY_FILE, SETTINGS, USER_ID, container_texts
    from kekbridge.cli.context import own_context
    from kekbridge.errors import ConfigError
    from kekbridge.vault.files import make_private_directory, write_private

    chosen = own_context(ctx, data_dir, config).config_file
    texts = container_texts(settings) | {
        SETTINGS: FIRST_SETTINGS if chosen is None else chosen.read_text(encoding="utf-8")
    }
    found = [name for name in (*texts, MASTER_KEY_FILE, *_program_names(settings)) if (target / name).exists()]
    if found:
        raise ConfigError(
            f"{target} has {', '.join(found)} already, and nothing was replaced; name another directory, or add --upgrade to put"
            f" version {__version__} there"
        )
    written = _write_program(target, settings, texts)
    key = target / MASTER_KEY_FILE
    make_private_directory(key.parent)
    write_private(key, base64.b64encode(secrets.token_bytes(32)) + b"\n")
    if os.geteuid() == 0:
        os.chown(key, USER_ID, USER_ID)
    return [*written, key]


def _write_upgrade(target: Path, settings: ImageSettings) -> list[Path]:
    """Raises NotFound for a directory that this command has not written."""
    from kekbridge.cli.container_files import COMPOSE, DOCKERFILE, PROGRAM, REQUIREMENTS, container_texts
    from kekbridge.errors import NotFound

    missing = [name for name in (DOCKERFILE, COMPOSE) if not (target / name).is_file()]
    if missing:
        raise NotFound(
            "not_installed", f"{target} has no {missing[0]}; `kekbridge docker DIR` without --upgrade writes a new one"
        )
    texts = {name: text for name, text in container_texts(settings).items() if name != COMPOSE}
    before = {*target.glob("kekbridge-*.whl"), target / PROGRAM, target / REQUIREMENTS}
    written = _write_program(target, settings, texts)
    for path in before - set(written):
        path.unlink(missing_ok=True)
    return written


def _program_names(settings: ImageSettings) -> tuple[str, ...]:
    from kekbridge.cli.container_files import PROGRAM, REQUIREMENTS

    return (PROGRAM,) if settings.wheel is None else (settings.wheel, REQUIREMENTS)


def _write_program(target: Path, settings: ImageSettings, texts: Mapping[str, str]) -> list[Path]:
    """The program and the texts, readable by all. Raises ConfigError."""
    from kekbridge.cli.container_files import PROGRAM, REQUIREMENTS
    from kekbridge.cli.program_copy import RunningProgram
    from kekbridge.errors import ConfigError

    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        if settings.wheel is None:
            RunningProgram().copy_executable(target / PROGRAM)
            written.append(target / PROGRAM)
        else:
            wheel = RunningProgram().write_wheel(target)
            pinned = (files("kekbridge.cli") / "requirements.txt").read_text(encoding="utf-8")
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            texts = {**texts, REQUIREMENTS: f"{pinned}./{wheel.name} --hash=sha256:{digest}\n"}
            written.append(wheel)
        for name, text in texts.items():
            path = target / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)
            written.append(path)
    except OSError as error:
        raise ConfigError(f"{error.filename or target} cannot be written: {error.strerror or error}") from None
    return written


def _next_steps(target: Path, *, is_new: bool) -> list[str]:
    """Commands to type next; each works from any directory."""
    from kekbridge.cli.container_files import MASTER_KEY_FILE, USER_ID

    place = shlex.quote(str(target))
    if not is_new:
        return [f"cd {place} && docker compose up --build --detach --wait"]
    key = target / MASTER_KEY_FILE
    owner = [] if os.geteuid() == 0 else [f"sudo chown {USER_ID}:{USER_ID} {shlex.quote(str(key))}"]
    return [
        *owner,
        f"cd {place} && docker compose up --build --detach --wait",
        "docker compose exec bridge kekbridge try",
        "docker compose exec bridge kekbridge web link",
        f"keep a copy of {key} elsewhere, away from the backups: with both the bridge moves to another machine",
    ]
