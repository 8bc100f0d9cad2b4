"""In which form kekbridge runs: as a Python package, as a one-file executable, or as a zipapp.

Imported for `kekbridge --version`: keep it free of heavy imports.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = "Python package"
EXECUTABLE: Final = "one-file executable"
ZIPAPP: Final = "zipapp"

_LIBRARY_PATH: Final = "LD_LIBRARY_PATH"
# A clone, if it holds the project's file; else the directory of packages.
_PROJECT: Final = Path(__file__).parents[2]
# Docker and Podman make these files; systemd-nspawn and others set the variable `container` (systemd.io, container interface).
_CONTAINER_MARKS: Final = ("/.dockerenv", "/run/.containerenv")
# Certificates of authorities: Debian and Alpine, Fedora, SUSE, FreeBSD and Arch.
_CERTIFICATES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def form() -> str:
    """PACKAGE, EXECUTABLE or ZIPAPP."""
    if getattr(sys, "frozen", False):
        return EXECUTABLE
    return PACKAGE if _archive() is None else ZIPAPP


def description() -> str:
    """Form, where it is, and Python's version, for `kekbridge --version`; it begins with what `form` returns."""
    is_clone = form() == PACKAGE and (_PROJECT / "pyproject.toml").is_file()
    is_in_container = "container" in os.environ or any(map(os.path.exists, _CONTAINER_MARKS))
    where = (" from a clone" if is_clone else "") + (" in a container" if is_in_container else "")
    return f"{form()}{where}, Python {'.'.join(map(str, sys.version_info[:3]))}"


def program_file() -> Path | None:
    """The one file that was started; None for a package."""
    return Path(sys.executable) if form() == EXECUTABLE else _archive()


def _archive() -> Path | None:
    archive = getattr(getattr(sys.modules.get("__main__"), "__loader__", None), "archive", None)
    return None if archive is None else Path(str(archive)).absolute()


def prepare_executable() -> None:
    """Set the executable's environment for this machine; nothing for the other forms.

    LD_LIBRARY_PATH is as before its loader changed it: systemctl, a pager or a mailer must not load the executable's libraries. OpenSSL,
    which looks for certificates where the machine that built it has them, finds those of this one, else those that are packed.
    Time zones are packed, too, for a machine without any.
    """
    if form() != EXECUTABLE:
        return
    unpacked = Path(str(getattr(sys, "_MEIPASS", "/")))
    sys.path.append(str(unpacked / "tzdata.zip"))
    if not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        packed = str(unpacked / "certifi" / "cacert.pem")
        os.environ["SSL_CERT_FILE"] = next((path for path in _CERTIFICATES if os.path.isfile(path)), packed)
    before = os.environ.pop(f"{_LIBRARY_PATH}_ORIG", None)
    os.environ.pop(_LIBRARY_PATH, None)
    if before is not None:
        os.environ[_LIBRARY_PATH] = before
