"""Texts of the systemd units: a hardened service, and the socket that holds alerts while it restarts. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kekbridge.cli.form import EXECUTABLE, ZIPAPP
from kekbridge.daemon.control_socket import SERVICE_DATA_DIR
from kekbridge.errors import ConfigError

#: Name of the service, its system user, its group and its directories.
NAME: Final = "kekbridge"
SERVICE: Final = f"{NAME}.service"
SOCKET: Final = f"{NAME}.socket"
#: Directory of systemd's encrypted credentials.
CREDENTIALS: Final = Path("/etc/credstore.encrypted")
#: Where the executable unpacks itself: PrivateTmp= makes it the service's own, and systemd empties it when the service stops. Not /run
#: and not /tmp, which are often mounted noexec.
UNPACK_DIR: Final = "/var/tmp"  # noqa: S108 - private to the service

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
NotifyAccess={notify}
ExecStart={command}
Environment=KEKBRIDGE_DATA_DIR={data_dir}
Environment=KEKBRIDGE_VAULT_BACKEND=directory
{more}
WatchdogSec=30
Restart=always
RestartSec=1
TimeoutStartSec=15min
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

# A file that unpacks itself. The executable's loader is the main process and passes SIGTERM on to kekbridge, its child, which must not get
# it from systemd as well (KillMode) and which says that it is ready (NotifyAccess).
_OF_FORM: Final = {
    EXECUTABLE: ("all", (f"Environment=TMPDIR={UNPACK_DIR}", "KillMode=mixed")),
    ZIPAPP: ("main", (f"Environment=SHIV_ROOT=/var/cache/{NAME}", f"CacheDirectory={NAME}", "CacheDirectoryMode=0700")),
}
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_HOMES: Final = ("/home/", "/root/", "/run/user/")
_TEMPORARY: Final = ("/tmp/", "/var/tmp/")  # noqa: S108 - compared only


@dataclass(frozen=True, slots=True)
class UnitSettings:
    """What the units depend on."""

    #: Program and its first arguments, before `serve`; the program is an absolute path.
    command: Sequence[str]
    #: PACKAGE, EXECUTABLE or ZIPAPP of cli/form.py.
    form: str
    #: Settings file; None: defaults.
    config: Path | None
    #: Address that alerts are received on.
    host: str
    #: Port of it.
    port: int
    #: Names of the systemd credentials.
    credentials: Sequence[str]


def unit_texts(settings: UnitSettings) -> dict[str, str]:
    """The units by file name. Raises ConfigError for a path that a unit cannot hold."""
    words = [*_program_words(*settings.command), "serve"]
    if settings.config is not None:
        words += ["--config", unit_word(str(settings.config.absolute()))]
    notify, of_form = _OF_FORM.get(settings.form, ("main", ()))
    loaded = [f"LoadCredentialEncrypted={name}:{CREDENTIALS / name}" for name in settings.credentials]
    service = _SERVICE.format(
        name=NAME,
        notify=notify,
        command=" ".join(words),
        data_dir=SERVICE_DATA_DIR,
        more="\n".join([*of_form, *loaded]),
        # A program installed below /home must be readable by the service; its data is elsewhere.
        home="read-only" if any(is_in_a_home(path) for path in settings.command) else "yes",
    )
    return {SERVICE: service, SOCKET: _SOCKET.format(listen=_listen(settings.host, settings.port))}


def unit_word(text: str, *, is_program: bool = False) -> str:
    """One word of a command line in a unit: blanks, quotes, backslashes, % and $ mean themselves (systemd.service(5), "Command lines").

    `is_program`: the first word, in which systemd expands no variables. Raises ConfigError for control characters, or what is not UTF-8.
    """
    if not text.isprintable():
        raise ConfigError(f"{text!r} cannot be written into a systemd unit; use a path without control characters")
    escaped = text.replace("%", "%%")
    if not is_program:
        escaped = escaped.replace("$", "$$")
    if _PLAIN.fullmatch(escaped):
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _program_words(program: str, *arguments: str) -> list[str]:
    """The program and its arguments. systemd refuses quotes and backslashes in a program's name, so a shell starts that and becomes it."""
    if any(sign in program for sign in "\"'\\"):
        return ["/bin/sh", "-c", *map(unit_word, ('exec "$0" "$@"', program, *arguments))]
    return [unit_word(program, is_program=True), *map(unit_word, arguments)]


def _listen(host: str, port: int) -> str:
    """The address as systemd.socket(5) reads it. Raises ConfigError for a name, which systemd does not look up, or a second line."""
    try:
        ipaddress.ip_address(host)
        is_address = host.isprintable()  # also the zone of an IPv6 address
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigError(
            f"server.host: found {host[:60]!r}, expected an IP address such as 127.0.0.1, as systemd needs it"
        )
    escaped = host.replace("%", "%%")
    return f"[{escaped}]:{port}" if ":" in host else f"{escaped}:{port}"


def is_in_a_home(path: str) -> bool:
    """True for what ProtectHome= hides from the service."""
    return path.startswith(_HOMES)


def is_hidden(path: Path) -> bool:
    """True for what ProtectHome= and PrivateTmp= hide from the service, although its user may be able to read it."""
    return is_in_a_home(str(path)) or str(path).startswith(_TEMPORARY)
