"""The token of the web pages: a file in the data directory that only its owner can read.

The file is the only copy: a daemon that serves the pages compares with what it holds now.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

from kekbridge.errors import ConfigError
from kekbridge.ops.operation import Operation, OperatorContext
from kekbridge.store.daemon_addresses import admin_address
from kekbridge.vault.files import write_private

#: How long a sign-in code is good for, once.
SIGN_IN_WITHIN: Final = timedelta(minutes=10)
SIGN_IN_PATH: Final = "/sign-in"
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


def new_sign_in_code(token: str, now: datetime) -> str:
    """A code that signs one browser in within ten minutes (`check_sign_in_code`). It does not reveal the token."""
    issued = f"{int(now.timestamp() * 1000)}.{secrets.token_urlsafe(12)}"
    return f"{issued}.{_sign_in_mac(token, issued)}"


def check_sign_in_code(token: str, code: str, now: datetime) -> datetime | None:
    """When a code was issued; None if it was not made with this token, or is older than ten minutes."""
    issued, _, mac = code.rpartition(".")
    at, _, nonce = issued.partition(".")
    expected = _sign_in_mac(token, issued)
    if not hmac.compare_digest(mac.encode("utf-8", "surrogateescape"), expected.encode()) or not nonce:
        return None
    issued_at = datetime.fromtimestamp(int(at) / 1000, UTC)
    return issued_at if timedelta(0) <= now - issued_at <= SIGN_IN_WITHIN else None


def _sign_in_mac(token: str, issued: str) -> str:
    digest = hmac.new(token.encode(), f"sign-in {issued}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


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


class SignInCodes:
    """Accepts each sign-in code once. In memory: codes from before this process are void, since their use is not known."""

    def __init__(self, token: WebToken, *, began_at: datetime) -> None:
        """`began_at`: the present."""
        self._token = token
        self._began_at = began_at.replace(microsecond=began_at.microsecond // 1000 * 1000)
        # Codes that were used, with the time they were issued.
        self._used: dict[str, datetime] = {}

    def redeem(self, code: str, now: datetime) -> bool:
        """True once for a code that was made with the current token within ten minutes."""
        issued_at = check_sign_in_code(self._token.current(), code, now)
        if issued_at is None or issued_at < self._began_at or code in self._used:
            return False
        self._used = {used: at for used, at in self._used.items() if now - at <= SIGN_IN_WITHIN}
        self._used[code] = issued_at
        return True


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


class MakeSignInLink(Operation, frozen=True, kw_only=True):
    """A link that signs one browser in within ten minutes. Raises ConfigError while the web pages are not served."""

    operation: ClassVar[str] = "web-link"

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        access = await ShowWebAccess().run(context)
        return {"url": f"{access['url']}{SIGN_IN_PATH}?code={new_sign_in_code(access['token'], context.clock())}"}


class RotateWebToken(Operation, frozen=True, kw_only=True):
    """Replace the token of the web pages and end every session. Returns the new token."""

    operation: ClassVar[str] = "web-token-rotate"
    writes: ClassVar[bool] = True

    async def run(self, context: OperatorContext) -> dict[str, Any]:
        return {"token": await asyncio.to_thread(rotate_token, context.data_dir)}
