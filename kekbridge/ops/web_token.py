"""The token of the web pages: a file in the data directory that only its owner can read.

The file is the only copy: a daemon that serves the pages compares with what it holds now.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any, ClassVar, Final

from kekbridge.errors import ConfigError
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.store.daemon_addresses import admin_address
from kekbridge.vault.files import write_private

TOKEN_FILE: Final = "admin-token"  # noqa: S105 - a file's name


def read_token(data_dir: Path) -> str | None:
    """Read the token of a data directory; None before the first start. Raises ConfigError if the file cannot be read."""
    try:
        return (data_dir / TOKEN_FILE).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{data_dir / TOKEN_FILE} cannot be used ({error.__class__.__name__}); make it readable and writable by its owner"
        ) from None


def rotate_token(data_dir: Path) -> str:
    """Replace the token. Raises VaultError if the file cannot be written."""
    token = secrets.token_urlsafe(32)
    write_private(data_dir / TOKEN_FILE, f"{token}\n".encode())
    return token


class WebToken:
    """The token in force, for the daemon that serves the pages."""

    def __init__(self, data_dir: Path) -> None:
        """Create the token if there is none. Raises ConfigError or VaultError if its file cannot be used."""
        self._data_dir = data_dir
        self._token = read_token(data_dir) or rotate_token(data_dir)
        self._version = self._file_version()

    def current(self) -> str:
        """The token of the file; the last one while the file is missing or unreadable."""
        version = self._file_version()
        if version not in (self._version, None):
            try:
                self._token = read_token(self._data_dir) or self._token
            except ConfigError:
                return self._token
            self._version = version
        return self._token

    def _file_version(self) -> tuple[int, int] | None:
        try:
            status = (self._data_dir / TOKEN_FILE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


class ShowWebAccess(Operation, frozen=True, kw_only=True):
    """Address and token of the web pages. Raises ConfigError while they are not served."""

    operation: ClassVar[str] = "web-access"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        url = await context.database.read(admin_address)
        token = read_token(context.data_dir)
        if url is None or token is None:
            raise ConfigError(
                "the web pages are not served: start `kekbridge serve` with admin.enabled = true; if it runs,"
                " `kekbridge dashboard` says why"
            )
        return {"url": url, "token": token}


class RotateWebToken(Operation, frozen=True, kw_only=True):
    """Replace the token of the web pages and end every session. Returns the new token."""

    operation: ClassVar[str] = "web-token-rotate"
    writes: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return {"token": await asyncio.to_thread(rotate_token, context.data_dir)}
