"""`kekbridge install-systemd`, `upgrade` and `uninstall`: the bridge as a hardened service, from a copy that belongs to root."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kekbridge.cli.context import own_context
from kekbridge.cli.form import EXECUTABLE, PACKAGE, form, program_file
from kekbridge.cli.options import ConfigFile, DataDir, Json, Yes, examples
from kekbridge.cli.units import NAME, SERVICE, SOCKET, UnitSettings, unit_texts
from kekbridge.daemon.control_socket import SERVICE_DATA_DIR

if TYPE_CHECKING:
    from kekbridge.cli.context import CliContext
    from kekbridge.cli.installation import Installation, Systemd

app = typer.Typer(rich_markup_mode=None, add_completion=False)
upgrading = typer.Typer(rich_markup_mode=None, add_completion=False)
removing = typer.Typer(rich_markup_mode=None, add_completion=False)

# How long a bridge that was ready before an upgrade may take to be ready again, once systemd has started it.
_READY_WITHIN_S: Final = 60.0


@app.command(
    epilog=examples(
        "kekbridge install-systemd --print",
        "sudo kekbridge install-systemd --now",
        "sudo kekbridge install-systemd --config /etc/kekbridge.toml",
    )
)
def install(
    ctx: typer.Context,
    only_print: Annotated[bool, typer.Option("--print", help="Print the units instead of writing them.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Start the service, and wait until it is ready.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            metavar="DIR",
            help="Only write the units into this directory, for the program where it is now.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Install a hardened systemd service and its socket.

    The service runs a copy of this program in /opt/kekbridge, as the system user kekbridge, who is created. Secrets are systemd
    credentials, encrypted on disk and readable only by the service; data is in /var/lib/kekbridge. Commands reach the service as root or as
    a member of the group kekbridge. Without --now nothing is started.
    """
    from kekbridge.cli import installation, render

    if only_print or directory is not None:
        from kekbridge.cli.installation import write_units

        units = _units(own_context(ctx, data_dir, config), _command(), form())
        target = directory or Path("/etc/systemd/system")
        if only_print and as_json:
            render.as_json(units)
        elif only_print:
            sys.stdout.write("\n".join(f"# {target / name}\n{text}" for name, text in units.items()))
        else:
            _say_written(write_units(target, units), as_json=as_json)
        return
    place = installation.Installation.here()
    context = own_context(ctx, data_dir, config or (place.config if place.config.is_file() else None))
    named = [] if context.config_file is None else ["--config", str(context.config_file.absolute())]
    installation.need_root([*_command(), "install-systemd", *(["--now"] if now else []), *named])
    with place.locked():
        done = _install(place, installation.Systemd(), context, start=now)
    if as_json:
        render.as_json(done)
        return
    render.line(f"installed: {done['version']} in {place.directory_of(done['version'])} ({form()})")
    for path in done["written"]:
        render.line(f"written: {path}")
    for what in done["checked"]:
        render.line(f"checked: {what}")
    for what in done["notChecked"]:
        render.line(f"not checked: {what}")
    if done["started"]:
        render.line(f"started: {SERVICE} is ready")
    else:
        render.heading("Next steps")
        for step in done["nextSteps"]:
            render.line(f"  {step}")
    render.heading("Daily commands")
    for step in _daily(done["command"]):
        render.line(f"  {step}")


def _install(place: Installation, systemd: Systemd, context: CliContext, *, start: bool) -> dict[str, Any]:
    """Copy, check, switch, write, start; each step may be repeated. Raises KekbridgeError, with the service as it was."""
    from kekbridge.cli import installation
    from kekbridge.cli.program_copy import RunningProgram
    from kekbridge.errors import ConfigError

    running, before = RunningProgram(), place.version()
    if before is not None and running.version_id != before:
        raise ConfigError(
            f"version {before} is installed already; `{shlex.join(['sudo', *_command(), 'upgrade'])}` replaces it with"
            f" {running.version_id}"
        )
    systemd.check_user_is_free(place.read_units())
    account = installation.ensure_account()
    config = None if context.config_file is None else place.config_for_service(context.config_file, account)
    version = place.add(running, account)
    program = place.directory_of(version) / "bin" / NAME
    try:
        checked = installation.check_program(program, version, account, config)
    except installation.InstallFailed:
        if before is None:
            shutil.rmtree(place.directory_of(version), ignore_errors=True)
        raise
    place.switch(version)
    place.record(config)
    command = NAME if place.add_link() else str(place.program)
    written = place.write_units(_units(context, [str(place.program)], _installed_form(), config=config))
    place.create_master_key()
    systemd.reload()
    missing = place.missing_credentials(_credentials(context))
    steps = [
        f"sudo systemd-creds encrypt --name={name} - {place.credentials / name}    # type the key, Ctrl-D"
        for name in missing
    ]
    steps.append(f"sudo systemctl enable --now {SOCKET} {SERVICE}")
    if start:
        if not systemd.runs:
            raise installation.InstallFailed("installed, but not started: systemd does not run here")
        if missing:
            raise installation.InstallFailed(
                f"installed, but not started: the exchange key is missing; run: {steps[0]}"
            )
        if systemd.is_active():
            systemd.restart()
        else:
            systemd.start()
    return {
        "version": version,
        "program": str(place.program),
        "command": command,
        "config": None if config is None else str(config),
        "written": [str(path) for path in written],
        "checked": checked,
        "notChecked": [] if start else ["that it starts inside the unit's sandbox; --now shows it"],
        "started": start,
        "nextSteps": [] if start else steps,
    }


@upgrading.command(
    epilog=examples(
        "sudo ./kekbridge-0.2 upgrade", "sudo .venv/bin/kekbridge upgrade        after git pull and pip install ."
    )
)
def upgrade(data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Replace the installed service's program with this one.

    Run it from the new version. The new program is copied and checked beside the old one; then a backup is written, the service is
    restarted, and the database migrated. If the new version is not ready as the old one was, the old one is started again, with the
    database as it was before the migration. At the end it shows what behaves differently.
    """
    from kekbridge.cli import installation, render
    from kekbridge.cli.changelog import releases_between
    from kekbridge.cli.upgrade import Upgrade
    from kekbridge.errors import NotFound

    place = installation.Installation.here()
    _refuse_other_places(data_dir, config)
    old = place.version()
    if old is None:
        raise NotFound(
            "not_installed", f"no service is installed in {place.base}; `kekbridge install-systemd` installs it"
        )
    installation.need_root([*_command(), "upgrade"])

    def report(text: str) -> None:
        render.note(text)

    with place.locked():
        done = Upgrade(place, installation.Systemd(), old, report).run(_service_units, ready_within_s=_READY_WITHIN_S)
    new = releases_between(done["from"], done["to"])
    if as_json:
        render.as_json({**done, "releases": new})
        return
    if not done["changed"]:
        render.line(f"{old} is installed already; run `upgrade` from the new version's program")
        return
    render.line(f"upgraded: {done['from']} -> {done['to']}; {done['state']}")
    for release in new:
        render.heading(f"What behaves differently in {release.version}")
        for change in release.changes:
            render.hanging("- ", change.replace("**", ""))
    if new:
        render.note("What is new: kekbridge docs changelog")


@removing.command(epilog=examples("sudo kekbridge uninstall", "sudo kekbridge uninstall --purge      the data, too"))
def uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove data, settings, credentials and the user, too; asks first.")
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Remove the installed service; its data stays.

    It is stopped, and its units and its program are removed; data, settings and secrets stay, unless --purge is given. Positions and orders
    at the exchange stay as they are: run `kekbridge flatten` before, if they must not.
    """
    from kekbridge.cli import installation, render
    from kekbridge.errors import NotFound

    place = installation.Installation.here()
    _refuse_other_places(data_dir, config)
    units = place.read_units()
    if place.version() is None and not units and not purge:
        raise NotFound(
            "not_installed", f"no service is installed: neither {place.base} nor {place.units / SERVICE} is there"
        )
    installation.need_root([*_command(), "uninstall", *(["--purge"] if purge else [])])
    place.check_base()
    kept = [place.data_dir, place.config, *(place.credentials / name for name in ("master-key", "orderly-secret"))]
    kept = [path for path in kept if path.exists()]
    if purge and not yes:
        typer.confirm(
            f"Remove for good {', '.join(map(str, kept)) or 'nothing but the program'}: every webhook, order record, backup and key?",
            abort=True,
            err=True,
        )
    installation.Systemd().disable()
    place.remove_link()
    place.remove_units()
    shutil.rmtree(place.base, ignore_errors=True)
    installation.Systemd().reload()
    removed = [str(place.units / name) for name in units] + [str(place.base)]
    if purge:
        removed += [str(path) for path in kept]
        _purge(kept)
    if as_json:
        render.as_json({"removed": removed, "kept": [] if purge else [str(path) for path in kept]})
        return
    for gone in removed:
        render.line(f"removed: {gone}")
    for path in () if purge else kept:
        render.line(f"kept: {path}")


def _refuse_other_places(data_dir: Path | None, config: Path | None) -> None:
    from kekbridge.errors import ConfigError

    if data_dir is not None or config is not None:
        raise ConfigError("the service has its own data and settings; leave --data-dir and --config out")


def _purge(paths: list[Path]) -> None:
    from kekbridge.cli import installation

    for path in paths:
        if path.is_dir():
            shutil.rmtree(path.resolve())  # a service of version 0.1 has a link to /var/lib/private
        path.unlink(missing_ok=True)
    if installation.find_account() is not None and shutil.which("userdel") is not None:
        installation.call(["userdel", NAME])


def _service_units(place: Installation, config: Path | None) -> dict[str, str]:
    """The units of the installed service, for its settings as they are now. Raises ConfigError."""
    from kekbridge.cli.context import CliContext
    from kekbridge.config import load_settings

    context = CliContext(place.data_dir, load_settings(config, environment={}), config)
    return _units(context, [str(place.program)], _installed_form(), config=config)


def _installed_form() -> str:
    """A zipapp is unpacked when it is installed."""
    return EXECUTABLE if form() == EXECUTABLE else PACKAGE


def _say_written(paths: list[Path], *, as_json: bool) -> None:
    from kekbridge.cli import render

    if as_json:
        render.as_json({"written": [str(path) for path in paths]})
        return
    for path in paths:
        render.line(f"written: {path}")
    render.heading("Next steps")
    for step in _NEXT_STEPS:
        render.line(f"  {step}")


# After writing only the units. Credential names as the vault looks them up (docs/internals/architecture.md section 4): no colons.
_NEXT_STEPS: Final = (
    f"sudo useradd --system --user-group --home-dir {SERVICE_DATA_DIR} --no-create-home --shell /usr/sbin/nologin {NAME}",
    "sudo mkdir -p /etc/credstore.encrypted && sudo chmod 700 /etc/credstore.encrypted",
    "head -c 32 /dev/urandom | base64 | sudo systemd-creds encrypt --name=master-key - /etc/credstore.encrypted/master-key",
    "sudo systemd-creds encrypt --name=orderly-secret - /etc/credstore.encrypted/orderly-secret    # testnet, live: type the key, Ctrl-D",
    f"sudo systemctl daemon-reload && sudo systemctl enable --now {SOCKET} {SERVICE}",
    "systemctl status kekbridge && journalctl -u kekbridge -n 20",
    f"sudo usermod -aG {NAME} $USER    # commands without sudo, from your next login on",
    "kekbridge exits-only    # likewise halt, resume, flatten",
    "kekbridge webhook create NAME    # likewise template, notify set, doctor: all find the service",
)


def _daily(command: str) -> tuple[str, ...]:
    """`command`: what a shell needs to find the program."""
    user = os.environ.get("SUDO_USER") or "USER"
    return (
        f"sudo usermod -aG {NAME} {user}    # commands without sudo, from the next login on",
        f"systemctl status {NAME}",
        f"journalctl -u {NAME} -f",
        f"{command} doctor",
        f"{command} webhook list    # likewise webhook create NAME, template NAME, notify set",
        f"{command} exits-only    # likewise halt, resume, flatten",
        f"sudo {command} logs -f    # likewise orders, positions, stats, backup FILE: they read the service's files",
    )


def _units(context: CliContext, command: list[str], of_form: str, *, config: Path | None = None) -> dict[str, str]:
    """`config`: the settings file that the unit names, if it is not the context's own."""
    server = context.settings.server
    settings = UnitSettings(
        command=command,
        form=of_form,
        config=config or context.config_file,
        host=server.host,
        port=server.port,
        credentials=_credentials(context),
    )
    return unit_texts(settings)


def _credentials(context: CliContext) -> list[str]:
    from kekbridge.model import Mode

    return ["master-key"] if context.settings.mode is Mode.PAPER else ["master-key", "orderly-secret"]


def _command() -> list[str]:
    """The command that runs this program where it is now."""
    one_file = program_file()
    if one_file is not None:
        return [str(one_file)] if form() == EXECUTABLE else [sys.executable, str(one_file)]
    script = Path(sys.executable).with_name(NAME)
    found = str(script) if script.is_file() else shutil.which(NAME)
    return [found] if found else [sys.executable, "-m", NAME]
