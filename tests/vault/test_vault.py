"""The vault: backends in the documented order, one master key per data directory, nothing readable by others."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nacl.pwhash import argon2id

from kekbridge.config import Vault as VaultSettings
from kekbridge.errors import VaultError
from kekbridge.model import Mode
from kekbridge.vault import MASTER_KEY, Sealer, master_key, move_secrets, open_vault, orderly_secret
from kekbridge.vault.directory import DirectoryVault
from kekbridge.vault.passphrase import PassphraseVault
from tests.paths import ROOT

KEY_FILE = VaultSettings(backend="key_file")
PASSPHRASE = "five random words are good"
# The file records the cost of its passphrase: tests of other rules use a cheap one.
LIGHT = {"operations": argon2id.OPSLIMIT_MIN, "memory": argon2id.MEMLIMIT_MIN}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def bare(tmp_path: Path, **more: str) -> dict[str, str]:
    """The environment of a container: no D-Bus, no configuration."""
    return {"HOME": str(tmp_path), **more}


def write_secret(path: Path, content: bytes, mode: int = 0o400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


# ------------------------------------------------------------------------------------------------------------ key file


def test_a_bare_machine_in_paper_mode_uses_a_key_file_without_asking(data_dir: Path, tmp_path: Path) -> None:
    """`kekbridge serve` works on a machine without a keyring and without a prompt, and names the vault and the reason."""
    vault = open_vault(VaultSettings(), data_dir, Mode.PAPER, environment=bare(tmp_path))
    assert vault.name == "key_file"
    assert vault.is_plain
    assert "0600 key file" in vault.description
    assert "no D-Bus session" in vault.description


def test_the_key_file_is_readable_by_its_owner_only(data_dir: Path) -> None:
    """0600 in a 0700 directory, with any umask."""
    before = os.umask(0)
    try:
        vault = open_vault(KEY_FILE, data_dir, Mode.PAPER)
        master_key(vault)
        vault.set(orderly_secret("0xabc"), b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    files = [path for path in data_dir.rglob("*") if path.is_file()]
    assert len(files) == 4  # lock, note, master key, orderly secret
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_key_file_that_others_can_read_is_refused(data_dir: Path) -> None:
    """With a wider mode the key may be known, so it is not used; the message names the fix."""
    vault = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    master_key(vault)
    (data_dir / "vault" / MASTER_KEY).chmod(0o640)
    with pytest.raises(VaultError, match="chmod 600"):
        master_key(vault)


@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.TESTNET])
def test_the_key_file_is_for_paper_only(data_dir: Path, tmp_path: Path, mode: Mode) -> None:
    """Where money or an exchange key is at stake a plain file is not a vault; the error names the options."""
    for settings in (VaultSettings(), KEY_FILE):
        with pytest.raises(VaultError) as caught:
            open_vault(settings, data_dir, mode, environment=bare(tmp_path))
        assert "systemd" in caught.value.message
        assert "keyring" in caught.value.message
        assert 'vault.backend = "file"' in caught.value.message


def test_secrets_round_trip(data_dir: Path) -> None:
    """get, set and delete for any bytes and for names with colons and slashes."""
    vault = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    name = orderly_secret("0x../../etc/passwd")
    assert vault.get(name) is None
    vault.set(name, bytes(range(256)))
    vault.set(name, b"\x00replaced\n")
    assert vault.get(name) == b"\x00replaced\n"
    vault.delete(name)
    vault.delete(name)
    assert vault.get(name) is None
    assert [path.name for path in data_dir.parent.iterdir()] == ["data"], "no name may leave the vault's directory"


def test_opening_in_a_bare_environment_is_quick(data_dir: Path, tmp_path: Path) -> None:
    """Without D-Bus the slow keyring package is not imported."""
    code = (
        "import sys; from pathlib import Path; from kekbridge.vault import open_vault, master_key;"
        "from kekbridge.config import Vault; from kekbridge.model import Mode;"
        "print(open_vault(Vault(), Path(sys.argv[1]), Mode.PAPER).name, 'keyring' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data_dir)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["key_file", "False"]


# ----------------------------------------------------------------------------------------------------------- master key


def test_the_master_key_is_created_once(data_dir: Path) -> None:
    """A second start, also by another process, finds the same 32 bytes."""
    first = master_key(open_vault(KEY_FILE, data_dir, Mode.PAPER))
    assert len(first) == 32
    assert master_key(open_vault(KEY_FILE, data_dir, Mode.PAPER)) == first


def test_processes_that_start_together_get_one_key(data_dir: Path, tmp_path: Path) -> None:
    """The daemon and a command may both be first: neither may go on with a key that was overwritten."""
    code = (
        "import sys; from pathlib import Path; from kekbridge.vault import open_vault, master_key;"
        "from kekbridge.config import Vault; from kekbridge.model import Mode; sys.stdin.read();"
        "print(master_key(open_vault(Vault(backend='key_file'), Path(sys.argv[1]), Mode.PAPER)).hex())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # all start now
        process.stdin = None
    keys = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(keys) == 1
    assert len(bytes.fromhex(keys.pop())) == 32


def test_threads_that_start_together_get_one_key(data_dir: Path) -> None:
    """The same within one process."""
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(20):
            place = data_dir / str(attempt)
            keys = set(pool.map(lambda _, p=place: master_key(open_vault(KEY_FILE, p, Mode.PAPER)), range(8)))
            assert len(keys) == 1


def test_a_lost_master_key_is_never_replaced(data_dir: Path) -> None:
    """With a new key no stored webhook secret could be opened: it is an error instead."""
    vault = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    master_key(vault)
    vault.delete(MASTER_KEY)
    with pytest.raises(VaultError, match="was created in the vault 'key_file'"):
        master_key(vault)
    assert vault.get(MASTER_KEY) is None


def test_a_different_master_key_is_refused(data_dir: Path) -> None:
    """A key that does not belong to the data directory is refused at the start, not at the first alert."""
    vault = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    master_key(vault)
    vault.set(MASTER_KEY, b"\x01" * 32)
    with pytest.raises(VaultError, match="was sealed with"):
        master_key(vault)


def test_a_damaged_master_key_names_what_is_expected(data_dir: Path) -> None:
    """The message has what was found and expected, without quoting the key."""
    vault = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    vault.set(MASTER_KEY, b"much too short")
    with pytest.raises(VaultError) as caught:
        master_key(vault)
    assert "14 bytes" in caught.value.message
    assert "much too short" not in caught.value.message


# ------------------------------------------------------------------------------------------------------------ directory


KEY = bytes(range(32))


@pytest.mark.parametrize(
    "content",
    [KEY, KEY.hex().encode() + b"\n", base64.b64encode(KEY) + b"\n", base64.urlsafe_b64encode(KEY).rstrip(b"=")],
    ids=["raw", "hex", "base64", "base64url"],
)
def test_a_secrets_directory_comes_first(data_dir: Path, tmp_path: Path, content: bytes) -> None:
    """systemd's $CREDENTIALS_DIRECTORY with a master-key is used before every other vault, in live mode too, in any usual text form."""
    write_secret(tmp_path / "creds" / "master-key", content)
    environment = bare(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path / "creds"))
    vault = open_vault(VaultSettings(), data_dir, Mode.LIVE, environment=environment)
    assert vault.name == "directory"
    assert not vault.is_plain
    assert master_key(vault) == KEY


def test_the_configured_directory_wins_over_systemds(data_dir: Path, tmp_path: Path) -> None:
    """vault.secrets_dir is explicit; the environment is not."""
    write_secret(tmp_path / "docker" / "master-key", KEY)
    environment = bare(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path / "elsewhere"))
    vault = open_vault(
        VaultSettings(secrets_dir=str(tmp_path / "docker")), data_dir, Mode.LIVE, environment=environment
    )
    assert str(tmp_path / "docker") in vault.description


def test_a_directory_without_a_master_key_is_skipped(data_dir: Path, tmp_path: Path) -> None:
    """A unit may have credentials for other purposes."""
    write_secret(tmp_path / "creds" / "tls-key", b"x")
    environment = bare(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path / "creds"))
    vault = open_vault(VaultSettings(), data_dir, Mode.PAPER, environment=environment)
    assert vault.name == "key_file"
    assert "no master-key" in vault.description


@pytest.mark.parametrize("mode", [0o444, 0o440, 0o404, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused(data_dir: Path, tmp_path: Path, mode: int) -> None:
    """Group or world readable: refused with the fix, never silently skipped."""
    write_secret(tmp_path / "creds" / "master-key", KEY, mode)
    environment = bare(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path / "creds"))
    with pytest.raises(VaultError, match=f"mode {mode:04o}"):
        open_vault(VaultSettings(), data_dir, Mode.PAPER, environment=environment)


def posix_acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.mark.parametrize(
    ("named_user", "group_bits", "is_accepted"),
    [("us", 0, True), ("another user", 0, False), ("us", 4, False)],
)
def test_systemds_acl_is_understood(tmp_path: Path, named_user: str, group_bits: int, is_accepted: bool) -> None:
    """systemd grants a service's user access by an ACL; the mode then reads 0440 although no group may read the file."""
    path = write_secret(tmp_path / "master-key", KEY)
    user = os.geteuid() if named_user == "us" else os.geteuid() + 1
    undefined_id = 0xFFFFFFFF
    acl = posix_acl(
        (1, 4, undefined_id),
        (2, 4, user),
        (4, group_bits, undefined_id),
        (0x10, 4, undefined_id),
        (0x20, 0, undefined_id),
    )
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("this file system has no ACLs")
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    vault = DirectoryVault(tmp_path, tmp_path / "data")
    if is_accepted:
        assert vault.get(MASTER_KEY) == KEY
    else:
        with pytest.raises(VaultError, match="mode 0440"):
            vault.get(MASTER_KEY)


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("systemd-creds"), reason="needs root and systemd-creds (systemd 250 or newer)"
)
def test_a_systemd_credential_is_the_master_key(data_dir: Path, tmp_path: Path) -> None:
    """The documented recipe: base64 of 32 random bytes through systemd-creds encrypt; the unit then sees the decrypted file."""
    sealed, creds = tmp_path / "master-key.cred", tmp_path / "creds"
    creds.mkdir(mode=0o700)
    encrypt = ["systemd-creds", "encrypt", "--with-key=host", "--name=master-key", "-", str(sealed)]
    subprocess.run(encrypt, input=base64.b64encode(KEY) + b"\n", capture_output=True, timeout=60, check=True)
    assert base64.b64encode(KEY) not in sealed.read_bytes()
    decrypt = ["systemd-creds", "decrypt", "--name=master-key", str(sealed), str(creds / "master-key")]
    subprocess.run(decrypt, capture_output=True, timeout=60, check=True)
    (creds / "master-key").chmod(0o400)
    vault = open_vault(
        VaultSettings(), data_dir, Mode.LIVE, environment=bare(tmp_path, CREDENTIALS_DIRECTORY=str(creds))
    )
    assert vault.name == "directory"
    assert master_key(vault) == KEY


def test_the_exchange_key_has_a_name_that_systemd_and_docker_allow(tmp_path: Path) -> None:
    """No colon, and short enough: `orderly-secret` is for any account, `orderly-secret.<account>` for one."""
    write_secret(tmp_path / "orderly-secret", b"for all")
    write_secret(tmp_path / "orderly-secret.0xaa", b"for aa")
    vault = DirectoryVault(tmp_path, tmp_path / "data")
    assert vault.get(orderly_secret("0xaa")) == b"for aa"
    assert vault.get(orderly_secret("0xbb")) == b"for all"


def test_a_directory_is_never_written(data_dir: Path, tmp_path: Path) -> None:
    """Storing there is an error that explains how; a missing master key is not created."""
    (tmp_path / "creds").mkdir()
    settings = VaultSettings(backend="directory", secrets_dir=str(tmp_path / "creds"))
    vault = open_vault(settings, data_dir, Mode.LIVE, environment=bare(tmp_path))
    for act in (
        lambda: vault.set("orderly-secret:0xaa", b"x"),
        lambda: vault.delete(MASTER_KEY),
        lambda: master_key(vault),
    ):
        with pytest.raises(VaultError):
            act()
    assert list((tmp_path / "creds").iterdir()) == []


def test_a_directory_takes_further_secrets_sealed(data_dir: Path, tmp_path: Path) -> None:
    """Under its master key, in the data directory: what is provided comes first and stays, other keys and names open nothing."""
    creds, master = tmp_path / "creds", base64.b64encode(KEY)
    write_secret(creds / "master-key", master)
    write_secret(creds / "orderly-secret", b"provided")
    vault = DirectoryVault(creds, data_dir)
    assert vault.is_writable
    vault.set("notify-urls", b"json://host/TOKEN")
    assert DirectoryVault(creds, data_dir).get("notify-urls") == b"json://host/TOKEN"
    file = data_dir / "vault.added"
    assert (stat.S_IMODE(file.stat().st_mode), b"TOKEN" in file.read_bytes()) == (0o600, False)
    for name in (orderly_secret("0xaa"), MASTER_KEY):
        with pytest.raises(VaultError, match="put there by its provider"):
            vault.set(name, KEY)
        with pytest.raises(VaultError, match="removed there by its provider"):
            vault.delete(name)
    assert vault.get(orderly_secret("0xaa")) == b"provided"
    assert sorted(path.name for path in creds.iterdir()) == ["master-key", "orderly-secret"]
    file.write_text(file.read_text().replace("notify-urls", "orderly-pending"))
    with pytest.raises(VaultError, match="orderly-pending was sealed"):
        vault.get("orderly-pending")
    vault.delete("orderly-pending")
    assert vault.get("orderly-pending") is None
    vault.set("notify-urls", b"again")
    (creds / "master-key").chmod(0o600)
    write_secret(creds / "master-key", base64.b64encode(bytes(32)))
    with pytest.raises(VaultError, match="another master-key"):
        vault.get("notify-urls")
    file.write_text('{"secrets": [')
    with pytest.raises(VaultError, match=r"vault\.added is damaged"):
        vault.get("notify-urls")


def test_a_configured_directory_must_exist(data_dir: Path, tmp_path: Path) -> None:
    """vault.backend = "directory" never falls back to something weaker."""
    with pytest.raises(VaultError, match="CREDENTIALS_DIRECTORY"):
        open_vault(VaultSettings(backend="directory"), data_dir, Mode.PAPER, environment=bare(tmp_path))


# ---------------------------------------------------------------------------------------------------------- passphrase


def test_a_passphrase_file_is_created_and_opened_again(data_dir: Path, tmp_path: Path) -> None:
    """Prompts twice when new, once later; secrets survive a restart; the file shows neither names nor values."""
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return PASSPHRASE

    settings = VaultSettings(backend="file")
    vault = open_vault(settings, data_dir, Mode.LIVE, ask=ask, environment=bare(tmp_path))
    key = master_key(vault)
    vault.set(orderly_secret("0xaa"), b"ed25519:never-seen")
    assert len(questions) == 2

    again = open_vault(VaultSettings(), data_dir, Mode.LIVE, ask=ask, environment=bare(tmp_path))
    assert again.name == "file", "the file is found without being configured"
    assert len(questions) == 3
    assert master_key(again) == key
    assert again.get(orderly_secret("0xaa")) == b"ed25519:never-seen"
    again.delete(orderly_secret("0xaa"))
    assert vault.get(orderly_secret("0xaa")) is None, "the command line and the daemon see each other's changes"
    content = (data_dir / "vault.sealed").read_bytes()
    for secret in (key, base64.b64encode(key), PASSPHRASE.encode(), b"orderly-secret", b"never-seen"):
        assert secret not in content


def test_a_wrong_passphrase_fails_at_opening(tmp_path: Path) -> None:
    """On one line, without quoting it."""
    PassphraseVault.create(tmp_path / "vault.sealed", PASSPHRASE, **LIGHT)
    with pytest.raises(VaultError) as caught:
        PassphraseVault.open(tmp_path / "vault.sealed", "another passphrase")
    assert "does not open" in caught.value.message
    assert "another passphrase" not in caught.value.message


def test_the_passphrase_may_be_a_credential(data_dir: Path, tmp_path: Path) -> None:
    """A daemon has no terminal: vault-passphrase in the secrets directory opens the file."""
    write_secret(tmp_path / "creds" / "vault-passphrase", PASSPHRASE.encode() + b"\n")
    environment = bare(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path / "creds"))
    vault = open_vault(VaultSettings(), data_dir, Mode.LIVE, environment=environment)
    assert vault.name == "file"
    assert PassphraseVault.open(data_dir / "vault.sealed", PASSPHRASE).get("x") is None


def test_no_terminal_is_an_error_not_a_prompt(data_dir: Path, tmp_path: Path) -> None:
    """A daemon without a terminal must not wait for input that never comes."""
    PassphraseVault.create(data_dir / "vault.sealed", PASSPHRASE, **LIGHT)
    with pytest.raises(VaultError, match="vault-passphrase"):
        open_vault(VaultSettings(), data_dir, Mode.PAPER, environment=bare(tmp_path))


def test_a_short_passphrase_is_refused(data_dir: Path, tmp_path: Path) -> None:
    """argon2id slows guessing down; it does not make a short passphrase safe."""
    with pytest.raises(VaultError, match="at least 12"):
        open_vault(
            VaultSettings(backend="file"), data_dir, Mode.LIVE, ask=lambda _: "short", environment=bare(tmp_path)
        )
    assert not (data_dir / "vault.sealed").exists()


def test_two_different_passphrases_create_nothing(data_dir: Path, tmp_path: Path) -> None:
    """A typing error in a new passphrase would lock the trader out."""
    replies = iter([PASSPHRASE, PASSPHRASE + "!"])
    with pytest.raises(VaultError, match="differ"):
        open_vault(
            VaultSettings(backend="file"), data_dir, Mode.LIVE, ask=lambda _: next(replies), environment=bare(tmp_path)
        )
    assert not (data_dir / "vault.sealed").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"sealed": "AAAA"},
        {"sealed": "not base64!"},
        {"sealed": None},
        {"salt": "AAAA"},
        {"salt": 7},
        {"memory": 1 << 40},
        {"operations": 10**6},
        {"version": 2},
        {"kdf": "none"},
    ],
    ids=lambda change: "-".join(f"{key}={value}" for key, value in change.items()),
)
def test_an_altered_vault_file_is_an_error_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    """Never a traceback, and never more work than kekbridge itself would do."""
    path = tmp_path / "vault.sealed"
    content = {
        "version": 1,
        "kdf": "argon2id",
        "operations": 1,
        "memory": 8192,
        "salt": base64.b64encode(b"s" * 16).decode(),
        "sealed": base64.b64encode(b"x" * 60).decode(),
    }
    write_secret(path, json.dumps(content | change).encode(), 0o600)
    with pytest.raises(VaultError):
        PassphraseVault.open(path, PASSPHRASE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_file_that_is_no_vault_is_an_error_in_one_line(tmp_path: Path, content: bytes) -> None:
    """A truncated or foreign file is named."""
    write_secret(tmp_path / "vault.sealed", content, 0o600)
    with pytest.raises(VaultError, match=r"vault\.sealed"):
        PassphraseVault.open(tmp_path / "vault.sealed", PASSPHRASE)


# --------------------------------------------------------------------------------------------------------------- moving


def test_move_secrets(data_dir: Path) -> None:
    """After a move the new vault holds everything, the old one nothing, and the next start finds the new one."""
    old = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    key = master_key(old)
    old.set(orderly_secret("0xaa"), b"secret")
    new = open_vault(VaultSettings(backend="file"), data_dir, Mode.PAPER, ask=lambda _: PASSPHRASE)
    move_secrets(old, new, [orderly_secret("0xaa"), orderly_secret("never there")])
    assert old.get(MASTER_KEY) is None
    assert old.get(orderly_secret("0xaa")) is None
    found = open_vault(VaultSettings(), data_dir, Mode.PAPER, ask=lambda _: PASSPHRASE)
    assert found.name == "file"
    assert master_key(found) == key
    assert found.get(orderly_secret("0xaa")) == b"secret"


def test_a_failed_move_deletes_nothing(data_dir: Path, tmp_path: Path) -> None:
    """The target is read only."""
    old = open_vault(KEY_FILE, data_dir, Mode.PAPER)
    key = master_key(old)
    target = open_vault(VaultSettings(backend="directory", secrets_dir=str(tmp_path)), data_dir, Mode.PAPER)
    with pytest.raises(VaultError):
        move_secrets(old, target, [])
    assert master_key(old) == key


# --------------------------------------------------------------------------------------------------------------- sealer


def test_sealed_secrets_open_with_their_master_key_only() -> None:
    """A stolen database without the vault is worthless, and an altered value is refused."""
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"whs_secret")
    assert b"whs_secret" not in sealed
    assert sealer.open(sealed) == b"whs_secret"
    assert sealer.seal(b"whs_secret") != sealed, "a fresh nonce each time"
    for broken in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:20], b"", b"\x00" * 80):
        with pytest.raises(VaultError):
            sealer.open(broken)
    with pytest.raises(VaultError):
        Sealer(b"\x02" * 32).open(sealed)


def test_the_lookup_depends_on_key_and_master() -> None:
    """Stable for the same apiKey, different for any other, and useless without the master key; junk is no error."""
    assert Sealer(KEY).lookup("wh_test_a") == Sealer(KEY).lookup("wh_test_a")
    assert Sealer(KEY).lookup("wh_test_a") != Sealer(KEY).lookup("wh_test_b")
    assert Sealer(KEY).lookup("wh_test_a") != Sealer(b"\x02" * 32).lookup("wh_test_a")
    assert len(Sealer(KEY).lookup("\ud800 lone surrogate \U0001f600" * 1000)) == 32


def test_nothing_prints_or_pickles_a_key(data_dir: Path) -> None:
    """repr and str of everything that holds a key show none of it, and a Sealer refuses to be pickled."""
    import pickle

    sealer = Sealer(KEY)
    passphrase_vault = PassphraseVault.create(data_dir / "vault.sealed", PASSPHRASE, **LIGHT)
    passphrase_vault.set("name", b"value-in-vault")
    for thing in (sealer, passphrase_vault, open_vault(KEY_FILE, data_dir, Mode.PAPER)):
        for text in (repr(thing), str(thing), f"{thing!s}"):
            assert KEY.hex() not in text
            assert repr(KEY) not in text
            assert "value-in-vault" not in text
            assert PASSPHRASE not in text
    with pytest.raises(TypeError):
        pickle.dumps(sealer)


def test_a_master_key_of_another_size_is_refused() -> None:
    """32 bytes, nothing else; the message has no key in it."""
    with pytest.raises(VaultError, match="31 bytes"):
        Sealer(b"k" * 31)
