"""`kekbridge replica prepare` and `seal`: make a second machine ready to take over, and give it what it needs, sealed.

The standby prints one word, the machine that trades answers with a text that opens on the standby only. Neither is a secret.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kekbridge.cli.context import keep_vaults_open, own_context, resolve_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes

if TYPE_CHECKING:
    from kekbridge.cli.config_file import Value
    from kekbridge.cli.context import CliContext
    from kekbridge.cli.installation import Installation

Sealed = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="What `kekbridge replica seal` printed on the machine that trades; - reads it from stdin.",
        show_default=False,
        allow_dash=True,
    ),
]
Request = Annotated[
    str,
    typer.Argument(metavar="WORD", help="What `kekbridge replica prepare` prints on the standby.", show_default=False),
]


def prepare(
    ctx: typer.Context,
    file: Sealed = None,
    keep_settings: Annotated[
        bool, typer.Option("--keep-settings", help="Leave the settings file as it is; you copy the settings yourself.")
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int | None:
    """Make this machine a standby, which can take over.

    Without FILE it prints a word for `kekbridge replica seal WORD` on the machine that trades. With what that command printed, it stores
    secrets and settings here and generates an exchange key, which you register with `kekbridge keys register`. Until
    `kekbridge takeover` nothing trades here.
    """
    from kekbridge.cli import render
    from kekbridge.cli.as_service import run_as_service, stopped_service
    from kekbridge.cli.control import run_operation
    from kekbridge.cli.options import ARGUMENTS
    from kekbridge.ops.standby import ShowStandbyRequest

    service = stopped_service(ctx, data_dir)
    if service is not None and file is None:
        return run_as_service(service, ARGUMENTS).returncode
    if service is not None and file is not None:
        return _open_as_service(service, _read(file), config, as_json=as_json)
    with keep_vaults_open():
        context = own_context(ctx, data_dir, config)
        if file is not None:
            _open(context, _read(file), yes=yes, keeps_settings=keep_settings, as_json=as_json)
            return None
        shown = run_operation(context, ShowStandbyRequest())
    if as_json:
        render.as_json(shown)
        return None
    render.line(shown["request"])
    render.note(f"On the machine that trades:  kekbridge replica seal {shown['request']} > standby.txt")
    render.note("Copy standby.txt to this machine, then:  kekbridge replica prepare standby.txt")
    return None


def seal(
    ctx: typer.Context,
    word: Request,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Give a standby what it needs to take over: the vault's master key, shared secrets, the settings.

    All of it is sealed to the standby whose word is given and can be copied over any channel. Compare the word with the standby's screen:
    the machine that printed it can open the text.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.standby import SealForStandby

    sealed = run_operation(resolve_context(ctx, data_dir, config), SealForStandby(request=word))
    if as_json:
        render.as_json(sealed)
        return
    sys.stdout.write(sealed["sealed"])
    render.note("Only the standby can open it. On the standby:  kekbridge replica prepare FILE")


def _open(context: CliContext, text: str, *, yes: bool, keeps_settings: bool, as_json: bool) -> None:
    """Show what was sealed, then store it, generate a key, and write the settings."""
    from kekbridge.cli import config_file, render
    from kekbridge.cli.control import run_operation
    from kekbridge.errors import ConfigError
    from kekbridge.model import Mode
    from kekbridge.ops.standby import GenerateStandbyKey, OpenSealed

    found = run_operation(context, OpenSealed(sealed=text, store=False))
    path = context.config_file or context.data_dir / "config.toml"
    if not yes and not sys.stdin.isatty():
        raise ConfigError(
            "stdin is no terminal, so nobody can be asked; use --yes if you know where the text comes from"
        )
    if not yes:
        render.pairs([("trades on", found["host"]), ("mode", found["mode"]), ("account", found["accountId"])])
        question = "Make this machine its standby, with its settings? Nothing trades here until `kekbridge takeover`."
        typer.confirm(question, abort=True, err=True)
    run_operation(context, OpenSealed(sealed=text, store=True))
    key = run_operation(context, GenerateStandbyKey(mode=Mode(found["mode"]), account_id=found["accountId"]))
    if not keeps_settings:
        config_file.save(path, _values(found["settings"]))
    _print_prepared({**found, "config": str(path), "key": key}, as_json=as_json)


def _open_as_service(service: Installation, text: str, config: Path | None, *, as_json: bool) -> int:
    """The same as the service, which cannot read root's files nor write the settings. No question: its stdin is the text."""
    from kekbridge.cli import config_file
    from kekbridge.cli.as_service import run_as_service

    arguments = ["replica", "prepare", "-", "--yes", "--json", "--keep-settings"]
    done = run_as_service(service, arguments, text=text, is_captured=True)
    if done.returncode != 0:
        return done.returncode
    found = json.loads(done.stdout)
    path = config or service.recorded_config() or service.data_dir / "config.toml"
    config_file.save(path, _values(found["settings"]))
    _print_prepared({**found, "config": str(path)}, as_json=as_json)
    return 0


def _print_prepared(found: dict[str, Any], *, as_json: bool) -> None:
    from kekbridge.cli import render

    if as_json:
        render.as_json(found)
        return
    render.line(
        f"standby of {found['host']} ({found['mode']} account {found['accountId']}); settings: {found['config']}"
    )
    if found["key"]["state"] == "pending":
        render.note(f"Register this machine's own key:  kekbridge keys register --mode {found['mode']}")
    render.note(
        "Then rehearse:  kekbridge takeover --check    (`kekbridge replica status` shows how far the copy has come)"
    )


def _values(settings: dict[str, Any]) -> dict[str, Value]:
    return {name: value for name, value in settings.items() if value is not None}


def _read(file: Path) -> str:
    """The sealed text. Raises ConfigError if it cannot be read."""
    from kekbridge.errors import ConfigError
    from kekbridge.vault.standby import MOST_CHARACTERS

    if str(file) == "-":
        return sys.stdin.read(MOST_CHARACTERS + 1)
    try:
        with file.open(encoding="ascii") as text:
            return text.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not what `kekbridge replica seal` printed: found no plain text") from None
