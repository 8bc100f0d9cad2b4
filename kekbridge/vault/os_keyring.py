"""The operating system's keyring: Secret Service, KWallet, macOS Keychain, Windows Credential Manager.

Only backends that are known to encrypt are used: any package can register another one. D-Bus can hang, so every call runs in a thread with
a deadline. Facts about backends: docs/internals/reliability.md section 8.6.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kekbridge.errors import VaultError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

TIMEOUT_S = 15.0  # long enough for a user to unlock the keyring in the dialog that appears
# By module and class. Others store nothing (fail, null), plain text (keyrings.alt), prompt on stdin (keyrings.cryptfile), or are unknown.
_ALLOWED = frozenset(
    {
        "keyring.backends.SecretService.Keyring",
        "keyring.backends.libsecret.Keyring",
        "keyring.backends.kwallet.DBusKeyring",
        "keyring.backends.kwallet.DBusKeyringKWallet4",
        "keyring.backends.macOS.Keyring",
        "keyring.backends.Windows.WinVaultKeyring",
        "keyring_pass.PasswordStoreBackend",  # pass and GnuPG
    }
)


class KeyringVault:
    """Secrets as entries of one keyring, as base64. The service name contains the data directory: one set of secrets per directory."""

    name = "keyring"
    is_plain = False
    is_writable = True

    def __init__(self, backend: KeyringBackend, data_dir: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._backend = backend
        self._service = f"kekbridge {data_dir.resolve()}"
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"KeyringVault({_full_name(self._backend)})"

    @classmethod
    def find(cls, data_dir: Path, environment: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> KeyringVault:
        """The machine's keyring, read once so that a locked or missing one fails now. Raises VaultError, also for an unsafe one."""
        if not _may_exist(environment):
            # Checked first because importing keyring is slow.
            raise VaultError("no OS keyring: there is no D-Bus session")
        vault = cls(_call_with_deadline(timeout_s, _select_backend), data_dir, timeout_s=timeout_s)
        vault.get("probe")
        return vault

    @property
    def title(self) -> str:
        return f"OS keyring {_full_name(self._backend)}"

    def is_provided(self, name: str) -> bool:
        return False

    def get(self, name: str) -> bytes | None:
        text = self._call(lambda: self._backend.get_password(self._service, name))
        if text is None:
            return None
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise VaultError(f"the keyring entry {name!r} of {self._service!r} was not written by kekbridge") from None

    def set(self, name: str, value: bytes) -> None:
        text = base64.b64encode(value).decode("ascii")
        self._call(lambda: self._backend.set_password(self._service, name, text))

    def delete(self, name: str) -> None:
        if self.get(name) is not None:
            self._call(lambda: self._backend.delete_password(self._service, name))

    def _call(self, function: Callable[[], T]) -> T:
        return _call_with_deadline(self._timeout_s, function)


def _may_exist(environment: Mapping[str, str]) -> bool:
    """False if no backend can work: on Linux all need D-Bus, unless one was configured explicitly."""
    if not sys.platform.startswith("linux"):
        return True
    if environment.get("DBUS_SESSION_BUS_ADDRESS") or environment.get("PYTHON_KEYRING_BACKEND"):
        return True
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", ""), ".config")
    return os.path.exists(os.path.join(home, "python_keyring", "keyringrc.cfg"))


def _select_backend() -> KeyringBackend:
    import keyring  # slow to import, and not needed when another vault is in use
    from keyring.backends.chainer import ChainerBackend

    backend = keyring.get_keyring()
    while isinstance(backend, ChainerBackend) and backend.backends:
        # The first backend, not the chain: a chain falls through to its next member, which may be a plain file.
        backend = backend.backends[0]
    check_safe(backend)
    return backend


def check_safe(backend: KeyringBackend) -> None:
    """Raise VaultError for a backend that is not known to encrypt what it stores without a prompt."""
    if _full_name(backend) not in _ALLOWED:
        raise VaultError(
            f"the keyring backend {_full_name(backend)} is refused: it is none of those known to encrypt;"
            " use Secret Service, KWallet, pass, the macOS Keychain or another vault.backend"
        )


def _full_name(backend: KeyringBackend) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _call_with_deadline(timeout_s: float, function: Callable[[], T]) -> T:
    """Run a blocking call with a deadline in seconds. Raises VaultError if it fails or hangs; a hung thread does not delay the exit."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(function())
        except Exception as error:  # backends raise whatever their D-Bus or COM library raises
            failed.append(error)

    thread = threading.Thread(target=run, name="keyring", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if done:
        return done[0]
    if failed:
        if isinstance(failed[0], VaultError):
            raise failed[0]
        # Not the library's own text: it may quote the secret.
        raise VaultError(f"the OS keyring cannot be used: {type(failed[0]).__name__}") from None
    raise VaultError(
        f"the OS keyring did not answer within {timeout_s:g} s; unlock it, or choose another vault.backend"
    )
