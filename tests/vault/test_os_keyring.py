"""The OS keyring: a real gnome-keyring on a private D-Bus session, and the backends that must be refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from keyring.backend import KeyringBackend
from keyring.backends import SecretService, fail, kwallet, libsecret, null
from keyring.backends.chainer import ChainerBackend

from kekbridge.errors import VaultError
from kekbridge.vault import os_keyring
from kekbridge.vault.os_keyring import KeyringVault
from tests.paths import ROOT

needs_gnome_keyring = pytest.mark.skipif(
    not (shutil.which("gnome-keyring-daemon") and shutil.which("dbus-run-session")) and not os.environ.get("CI"),
    reason="needs gnome-keyring and dbus (apt-get install gnome-keyring dbus)",
)

SCRIPT = """
import sys
from pathlib import Path
from kekbridge.config import Vault
from kekbridge.errors import VaultError
from kekbridge.model import Mode
from kekbridge.vault import open_vault, master_key, MASTER_KEY
data_dir = Path(sys.argv[1])
vault = open_vault(Vault(), data_dir, Mode.LIVE)
print(vault.name)
key = master_key(vault)
again = open_vault(Vault(), data_dir, Mode.LIVE)
print(master_key(again) == key, len(key))
vault.set("orderly-secret:0xaa", bytes(range(256)))
print(again.get("orderly-secret:0xaa") == bytes(range(256)))
vault.delete("orderly-secret:0xaa"); vault.delete("orderly-secret:0xaa")
print(again.get("orderly-secret:0xaa"))
other = open_vault(Vault(), data_dir.parent / "other", Mode.LIVE)
print(other.get(MASTER_KEY))
print(key.hex() in "".join(p.read_text() for p in data_dir.rglob("*") if p.is_file()))
"""


def run(
    script: str, data_dir: Path, home: Path, *, shell_prefix: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "share"),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": str(ROOT),
        **more,
    }
    command = [sys.executable, "-c", script, str(data_dir)]
    if shell_prefix:
        command = ["dbus-run-session", "--", "sh", "-c", shell_prefix + ' exec "$0" "$@"', *command]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False
    )


@needs_gnome_keyring
def test_an_unlocked_gnome_keyring_holds_the_master_key(tmp_path: Path) -> None:
    """On a desktop the keyring is chosen automatically, in live mode too, and holds one key per data directory, not in any file."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    unlock = "printf test | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1;"
    done = run(SCRIPT, tmp_path / "data", home, shell_prefix=unlock)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["keyring", "True", "32", "True", "None", "None", "False"]


@needs_gnome_keyring
def test_a_dbus_session_without_an_unlocked_keyring_falls_through(tmp_path: Path) -> None:
    """A server has D-Bus but no user to unlock a keyring: paper uses the key file and names the reason, without a prompt."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    script = (
        "import sys; from pathlib import Path; from kekbridge.vault import open_vault; from kekbridge.config import Vault;"
        "from kekbridge.model import Mode; v = open_vault(Vault(), Path(sys.argv[1]), Mode.PAPER); print(v.name); print(v.description)"
    )
    done = run(script, tmp_path / "data", home, shell_prefix=":;")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "key_file"
    assert "OS keyring cannot be used" in done.stdout or "refused" in done.stdout


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("keyring.backends.null.Keyring", "refused"),
        ("keyring.backends.fail.Keyring", "refused"),
        ("keyring.backends.chainer.ChainerBackend", "refused"),
        ("no.such.module.Keyring", "cannot be used"),
    ],
)
def test_a_configured_unsafe_backend_is_refused(tmp_path: Path, backend: str, said: str) -> None:
    """PYTHON_KEYRING_BACKEND may name anything; live mode then has no vault, and the error is one line."""
    script = (
        "import sys; from pathlib import Path; from kekbridge.vault import open_vault; from kekbridge.config import Vault;"
        "from kekbridge.errors import VaultError; from kekbridge.model import Mode\n"
        "try: open_vault(Vault(), Path(sys.argv[1]), Mode.LIVE)\n"
        "except VaultError as error: print(error)"
    )
    done = run(script, tmp_path / "data", tmp_path, PYTHON_KEYRING_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert said in done.stdout


class MemoryKeyring(KeyringBackend):
    """A working backend that keeps its entries in memory. Its priority prevents automatic selection."""

    priority = -1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


class PlaintextKeyring(MemoryKeyring):
    """Like the file backend of keyrings.alt."""


class BrokenKeyring(MemoryKeyring):
    """Fails like D-Bus backends, quoting its arguments."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise RuntimeError(f"cannot store {password}")


class HangingKeyring(MemoryKeyring):
    """Waits for ever for an unlock dialog."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        self.released.wait(60)
        return None


class Keyring(SecretService.Keyring):
    """A stranger's class with a trusted name and base."""


@pytest.mark.parametrize(
    "kind",
    [null.Keyring, fail.Keyring, ChainerBackend, PlaintextKeyring, MemoryKeyring, Keyring],
    ids=["null", "fail", "chain", "plain", "unknown", "subclass"],
)
def test_only_known_backends_are_allowed(kind: type[KeyringBackend]) -> None:
    """Any installed package can register a backend, with any priority: one that nobody vouches for gets no key."""
    with pytest.raises(VaultError, match="refused"):
        os_keyring.check_safe(kind.__new__(kind))


@pytest.mark.parametrize(
    "kind",
    [SecretService.Keyring, libsecret.Keyring, kwallet.DBusKeyring, kwallet.DBusKeyringKWallet4],
    ids=["SecretService", "libsecret", "kwallet", "kwallet4"],
)
def test_those_that_encrypt_are_allowed(kind: type[KeyringBackend]) -> None:
    """The names in the list are those of the installed package."""
    os_keyring.check_safe(kind.__new__(kind))


def test_entries_are_text_and_belong_to_one_data_directory(tmp_path: Path) -> None:
    """Any bytes survive; two data directories on one keyring do not share keys."""
    backend = MemoryKeyring()
    one, two = KeyringVault(backend, tmp_path / "one"), KeyringVault(backend, tmp_path / "two")
    one.set("master-key", bytes(range(256)))
    assert one.get("master-key") == bytes(range(256))
    assert two.get("master-key") is None
    two.delete("master-key")
    one.delete("master-key")
    assert backend.entries == {}


def test_a_foreign_entry_is_an_error(tmp_path: Path) -> None:
    """Text under our name that kekbridge did not write must not become a key."""
    backend = MemoryKeyring()
    vault = KeyringVault(backend, tmp_path)
    vault.set("master-key", b"x")
    backend.entries = dict.fromkeys(backend.entries, "not base64 !")
    with pytest.raises(VaultError, match="not written by kekbridge"):
        vault.get("master-key")


def test_a_failing_backend_never_quotes_the_secret(tmp_path: Path) -> None:
    """Backends quote arguments in their errors; ours names the type of failure only."""
    with pytest.raises(VaultError) as caught:
        KeyringVault(BrokenKeyring(), tmp_path).set("master-key", b"secret")
    assert "RuntimeError" in caught.value.message
    assert "c2VjcmV0" not in caught.value.message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_hanging_keyring_times_out(tmp_path: Path) -> None:
    """D-Bus can hang for ever; the daemon must start or fail, not wait."""
    backend = HangingKeyring()
    try:
        with pytest.raises(VaultError, match="did not answer"):
            KeyringVault(backend, tmp_path, timeout_s=0.05).get("master-key")
    finally:
        backend.released.set()
