"""`kekbridge install-systemd`: write or print a hardened service and its socket, and print the remaining manual steps."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kekbridge.cli.context import own_context
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.daemon.control_socket import SERVICE_DATA_DIR

if TYPE_CHECKING:
    from kekbridge.cli.context import CliContext

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_NAME: Final = "kekbridge"

# A static user, not DynamicUser: members of its group use the control socket in the runtime directory (daemon/control_socket.py).
# Sandboxing from systemd.exec(5). Left open: AF_INET/AF_INET6 for the exchange and the senders, AF_UNIX for commands, the supervisor and
# D-Bus. MemoryDenyWriteExecute works because nothing here generates code at run time.
_SERVICE: Final = """\
[Unit]
Description=kekbridge, TradingView alerts to KEK DEX
After=network-online.target time-sync.target
Wants=network-online.target
Requires={name}.socket
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command} serve{config}
Environment=KEKBRIDGE_DATA_DIR={data_dir}
Environment=KEKBRIDGE_VAULT_BACKEND=directory
{credentials}
WatchdogSec=30
Restart=always
RestartSec=1
TimeoutStopSec=30
User={name}
Group={name}
StateDirectory={name}
StateDirectoryMode=0700
RuntimeDirectory={name}
RuntimeDirectoryMode=0750
UMask=0077
LimitNOFILE=16384
MemoryMax=512M
TasksMax=128
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
PrivateIPC=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
DevicePolicy=closed
KeyringMode=private

[Install]
WantedBy=multi-user.target
"""

# systemd holds the socket, so that alerts during a restart wait instead of being refused.
_SOCKET: Final = """\
[Unit]
Description=kekbridge, socket for alerts

[Socket]
ListenStream={listen}
Backlog=1024

[Install]
WantedBy=sockets.target
"""


@app.command(
    epilog=examples(
        "kekbridge install-systemd --print",
        "sudo kekbridge install-systemd --config /etc/kekbridge.toml",
    )
)
def install(
    ctx: typer.Context,
    only_print: Annotated[bool, typer.Option("--print", help="Print the units instead of writing them.")] = False,
    directory: Annotated[
        Path, typer.Option("--directory", metavar="DIR", help="Directory of systemd units.", file_okay=False)
    ] = Path("/etc/systemd/system"),
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write a hardened systemd service and socket.

    Secrets are systemd credentials, encrypted on disk and readable only by the service; data is in /var/lib/kekbridge. Commands reach the
    service as root or as a member of the group kekbridge. Nothing is started: the remaining steps are printed.
    """
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError

    units = _units(own_context(ctx, data_dir, config))
    if only_print:
        if as_json:
            render.as_json(units)
        else:
            sys.stdout.write("\n".join(f"# {directory / name}\n{text}" for name, text in units.items()))
        return
    for name, text in units.items():
        try:
            (directory / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot write {directory / name}: {error.strerror}; run with sudo, or use --print"
            ) from None
    if as_json:
        render.as_json({"written": [str(directory / name) for name in units]})
        return
    for name in units:
        render.line(f"written: {directory / name}")
    render.heading("Next steps")
    for step in _NEXT_STEPS:
        render.line(f"  {step}")


# Credential names as the vault looks them up (docs/internals/architecture.md section 4): colons are not allowed in them.
_NEXT_STEPS: Final = (
    f"sudo useradd --system --user-group --home-dir {SERVICE_DATA_DIR} --no-create-home --shell /usr/sbin/nologin {_NAME}",
    "sudo mkdir -p /etc/credstore.encrypted && sudo chmod 700 /etc/credstore.encrypted",
    "head -c 32 /dev/urandom | base64 | sudo systemd-creds encrypt --name=master-key - /etc/credstore.encrypted/master-key",
    "sudo systemd-creds encrypt --name=orderly-secret - /etc/credstore.encrypted/orderly-secret    # testnet, live: type the key, Ctrl-D",
    "sudo systemctl daemon-reload && sudo systemctl enable --now kekbridge.socket kekbridge.service",
    "systemctl status kekbridge && journalctl -u kekbridge -n 20",
    f"sudo usermod -aG {_NAME} $USER    # commands without sudo, from your next login on",
    "kekbridge exits-only    # likewise halt, resume, flatten",
    "kekbridge webhook create NAME    # likewise template, notify set, doctor: all find the service",
)


def _units(context: CliContext) -> dict[str, str]:
    from kekbridge.model import Mode

    command = _command()
    server = context.settings.server
    names = ["master-key"] if context.settings.mode is Mode.PAPER else ["master-key", "orderly-secret"]
    host = f"[{server.host}]" if ":" in server.host else server.host
    service = _SERVICE.format(
        name=_NAME,
        data_dir=SERVICE_DATA_DIR,
        command=command,
        config="" if context.config_file is None else f" --config {context.config_file.absolute()}",
        credentials="\n".join(f"LoadCredentialEncrypted={name}:/etc/credstore.encrypted/{name}" for name in names),
        # A program installed below /home must be readable by the service; its data is elsewhere.
        home="read-only" if command.startswith(("/home/", "/root/")) else "yes",
    )
    return {f"{_NAME}.service": service, f"{_NAME}.socket": _SOCKET.format(listen=f"{host}:{server.port}")}


def _command() -> str:
    """Return the command that systemd starts: this installation's script, else its interpreter."""
    script = Path(sys.executable).with_name(_NAME)
    path = str(script) if script.is_file() else shutil.which(_NAME)
    return path or f"{sys.executable} -m {_NAME}"
