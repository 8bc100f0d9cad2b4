"""Backups are consistent, sealed and verified; a restore sends no order twice; nightly backups keep the newest files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import resource
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.config import BackupSettings
from kekbridge.errors import ConfigError
from kekbridge.model import Order
from kekbridge.ops import backup, backup_file
from kekbridge.ops.backup import NightlyBackup, directory_of
from kekbridge.store import journal, orders
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.vault import BackupKey, OpenVault, Sealer, master_key
from kekbridge.vault.passphrase import PassphraseVault
from tests.ops.conftest import Clock
from tests.store.factories import NOW
from tests.stored import book_on, store_order
from tests.system.forked import forked_bridge, run_cli, run_forked
from tests.system.harness import Process, call, clean_environment, wait_until

# An order without an answer is given up sooner than by default, but not while it is delayed.
SOONER = {
    "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0",
    "KEKBRIDGE_EXCHANGE_RECV_WINDOW_MS": "3000",
    "KEKBRIDGE_EXCHANGE_REQUEST_TIMEOUT_S": "3",
    "KEKBRIDGE_QUEUE_CLOCK_TOLERANCE_S": "0.2",
}
KEY = BackupKey.from_master(bytes(range(32)))
SLOW_FIRST_ORDER = {
    "fault": "delay",
    "delay_ms": 2500,
    "when": "before",
    "path": "/v1/order",
    "method": "POST",
    "count": 1,
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with one webhook and its secrets."""
    directory = tmp_path / "data"
    run_cli("webhook", "create", "w", data_dir=directory)
    return directory


def test_a_disk_without_room_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    """Also when SQLite notices it first; nothing is left of what was written, under any name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))  # a file that grows further fails as on a full disk
    try:
        with pytest.raises(ConfigError, match="cannot be written: "):
            backup.make(data_dir, tmp_path / "b.zip", now=NOW, key=KEY)
        with pytest.raises(ConfigError, match="free space, or set backup"):
            backup.make_unnamed(data_dir, tmp_path / "backups", now=NOW, key=KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {"data", "backups"}
    assert list((tmp_path / "backups").iterdir()) == []


def test_an_unnamed_backup_has_no_name(data_dir: Path, tmp_path: Path) -> None:
    """It is complete and readable while it is open, and in no directory at any time after it was made."""
    made, file = backup.make_unnamed(data_dir, tmp_path / "backups", now=NOW, key=KEY)
    assert list((tmp_path / "backups").iterdir()) == []
    saved = tmp_path / made.file.name
    with file:
        saved.write_bytes(file.read())
    assert backup.inspect(saved, KEY).files == made.files
    assert made.bytes == saved.stat().st_size


def test_a_backup_opens_nothing(data_dir: Path, tmp_path: Path) -> None:
    """Neither key, secret nor the key that opens them is in the file, which is its owner's only."""
    shown = json.loads(run_cli("webhook", "show", "w", "--secret", "--json", data_dir=data_dir))
    file = tmp_path / "b.zip"
    run_cli("backup", str(file), data_dir=data_dir)
    assert file.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(file) as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
        assert set(archive.namelist()) == {"manifest.json", FILE_NAME, "vault.json", "master-key.sealed"}
    for secret in (shown["apiKey"], shown["apiSecret"]):
        assert secret.encode() not in everything
    for key in (data_dir / "vault").iterdir():
        assert key.read_bytes() not in everything
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["b.zip"]


def test_backup_and_restore(data_dir: Path, tmp_path: Path) -> None:
    """With the same master key a restored webhook opens again; existing data is moved aside, after a confirmation."""
    secret = json.loads(run_cli("webhook", "show", "w", "--secret", "--json", data_dir=data_dir))["apiSecret"]
    file = tmp_path / "b.zip"
    run_cli("backup", str(file), data_dir=data_dir)
    fresh = tmp_path / "fresh"
    fresh.mkdir(mode=0o700)
    shutil.copytree(data_dir / "vault", fresh / "vault")
    run_cli("restore", str(file), data_dir=fresh)
    assert secret in run_cli("webhook", "show", "w", "--secret", data_dir=fresh)

    run_cli("webhook", "create", "later", data_dir=data_dir)
    assert run_cli("restore", str(file), data_dir=data_dir, stdin="", check=False).strip() == ""  # not confirmed
    assert "later" in run_cli("webhook", "list", data_dir=data_dir)
    restored = json.loads(run_cli("restore", str(file), "--yes", "--json", data_dir=data_dir))
    assert "later" not in run_cli("webhook", "list", data_dir=data_dir)
    assert "later" in run_cli("webhook", "list", data_dir=_as_data(Path(restored["movedAside"]), tmp_path))


def _as_data(moved_aside: Path, tmp_path: Path) -> Path:
    """A data directory from what a restore moved aside."""
    return Path(shutil.copytree(moved_aside, tmp_path / "aside"))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def _foreign(data: bytes) -> bytes:
    """A zip of something else that tries to write outside."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("manifest.json", '{"format": 1, "files": {"../../evil": "00"}}')
        archive.writestr("../../evil", data)
    return out.getvalue()


@pytest.mark.parametrize("key", [KEY, None], ids=["with the key", "unauthenticated"])
@pytest.mark.parametrize("damage", [_cut, _flip, bytes.lower, _foreign])
def test_a_damaged_backup_replaces_nothing(
    data_dir: Path, tmp_path: Path, damage: Callable[[bytes], bytes], key: BackupKey | None
) -> None:
    """Truncated, one bit flipped, altered in transfer or another zip: a one-line error, and the data directory is unchanged."""
    file = tmp_path / "b.zip"
    backup.make(data_dir, file, now=datetime.now(UTC), key=KEY)
    before = sorted(path.name for path in data_dir.iterdir())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=r"b\.zip"):
        backup.restore(file, data_dir, now=datetime.now(UTC), key=key)
    assert sorted(path.name for path in data_dir.iterdir()) == before
    assert not list(tmp_path.parent.rglob("evil"))


def test_every_byte_is_authenticated(data_dir: Path, tmp_path: Path) -> None:
    """One changed bit anywhere, in the zip's own tables and in the MAC, too, is found; so are appended bytes."""
    file = tmp_path / "b.zip"
    backup.make(data_dir, file, now=NOW, key=KEY)
    whole = file.read_bytes()
    assert backup_file.is_authentic(file, KEY)
    step = max(len(whole) // 400, 1)
    for at in {*range(0, len(whole), step), *range(len(whole) - 120, len(whole))}:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert not backup_file.is_authentic(file, KEY), at
    for altered in (whole + b"x", b"x" + whole, whole[:-1], whole[1:]):
        file.write_bytes(altered)
        assert not backup_file.is_authentic(file, KEY)


def _rewritten(file: Path, *, key: BackupKey | None, members: dict[str, bytes], **manifest: object) -> None:
    """Rewrite a backup with other members and a manifest that fits them, as someone who knows the format would."""
    with zipfile.ZipFile(file) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    old = json.loads(kept.pop("manifest.json"))
    kept |= members
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in kept.items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps({**old, "files": digests, **manifest}))
        for name, content in kept.items():
            archive.writestr(name, content)
        if key is not None:
            backup_file.reserve_mac(archive)
    if key is not None:
        backup_file.write_mac(file, key)


def test_a_missing_directory_is_not_created(data_dir: Path, tmp_path: Path) -> None:
    """A typing error, or a disk that is not mounted, is an error: a backup beside the data would look like one elsewhere."""
    with pytest.raises(ConfigError, match="does not exist; create it, or name another file"):
        backup.make(data_dir, tmp_path / "not-mounted" / "b.zip", now=NOW, key=KEY)
    assert not (tmp_path / "not-mounted").exists()


@pytest.mark.parametrize("content", [b"my notes\n", b"PK\3\4", None], ids=["text", "cut", "another zip"])
def test_a_file_that_is_no_backup_is_not_replaced(data_dir: Path, tmp_path: Path, content: bytes | None) -> None:
    """The trader's notes are left as they are; nothing is written beside them either."""
    file = tmp_path / "notes"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("holiday.txt", "sun")
    else:
        file.write_bytes(content)
    before, beside = file.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"no backup of kekbridge, expected .*; name another file"):
        backup.make(data_dir, file, now=NOW, key=KEY)
    assert (file.read_bytes(), sorted(tmp_path.iterdir())) == (before, beside)


def test_what_is_no_file_is_not_replaced(data_dir: Path, tmp_path: Path) -> None:
    """As root, a rename would put a backup in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(ConfigError, match="name another file"):
            backup.make(data_dir, path, now=NOW, key=KEY)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_earlier_backup_is_replaced(data_dir: Path, tmp_path: Path) -> None:
    """A cron job writes to the same name every day: over a backup of version 0.1 and an empty file of mktemp, too."""
    file = tmp_path / "b.zip"
    file.touch()
    backup.make(data_dir, file, now=NOW, key=KEY)
    _rewritten(file, key=None, members={})
    for _ in range(2):
        backup.make(data_dir, file, now=NOW, key=KEY)
        assert backup_file.is_authentic(file, KEY)


def test_a_forged_backup_is_refused(data_dir: Path, tmp_path: Path) -> None:
    """Its checksums fit, but nobody without the key can write its MAC: neither with another key nor with none."""
    file = tmp_path / "b.zip"
    for key, expected in ((BackupKey.from_master(b"a" * 32), "not written under this key|changed"), (None, "no MAC")):
        backup.make(data_dir, file, now=NOW, key=KEY)
        _rewritten(file, key=key, members={"config.toml": b'[exchange]\nbase_url = "https://evil.example"\n'})
        with pytest.raises(ConfigError, match=expected):
            backup.restore(file, data_dir, now=NOW, key=KEY)
        assert not (data_dir / "config.toml").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM webhooks; END",
        "CREATE VIEW v AS SELECT * FROM orders",
        "CREATE TABLE extra (a)",
        "CREATE INDEX extra ON orders (client_order_id)",
        "DROP INDEX {index}",
        "DROP TRIGGER {trigger}",
        "ALTER TABLE orders ADD COLUMN more TEXT",
    ],
)
def test_a_foreign_schema_is_refused(data_dir: Path, tmp_path: Path, statement: str) -> None:
    """A trigger of a stranger would run at the first write; it is refused before anything is replaced, or the trigger can run."""
    file, copy = tmp_path / "b.zip", tmp_path / "copy.db"
    backup.make(data_dir, file, now=NOW, key=KEY)
    with zipfile.ZipFile(file) as archive:
        copy.write_bytes(archive.read(FILE_NAME))
    with closing(sqlite3.connect(copy)) as connection:
        of_kind = (
            "SELECT name FROM sqlite_schema WHERE type = ? AND sql IS NOT NULL AND name NOT LIKE '%sqlite%' LIMIT 1"
        )
        names = {kind: connection.execute(of_kind, (kind,)).fetchone() for kind in ("index", "trigger")}
        if "{trigger}" in statement and names["trigger"] is None:
            pytest.skip("the schema has no trigger")
        connection.execute(statement.format(**{kind: row[0] for kind, row in names.items() if row is not None}))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _rewritten(file, key=KEY, members={FILE_NAME: copy.read_bytes()})
    before = (data_dir / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match=r"kekbridge\.db"):
        backup.restore(file, data_dir, now=NOW, key=KEY)
    assert (data_dir / FILE_NAME).read_bytes() == before
    assert not [path for path in data_dir.iterdir() if path.name.startswith((".restore", "before-restore"))]


def test_another_machine_needs_the_recovery_code(data_dir: Path, tmp_path: Path) -> None:
    """The code alone restores the backup there, and opens the sealed secrets: the master key comes along."""
    shown = json.loads(run_cli("webhook", "show", "w", "--secret", "--json", data_dir=data_dir))
    code = json.loads(run_cli("backup", "key", "--json", data_dir=data_dir))["recoveryCode"]
    file, elsewhere = tmp_path / "b.zip", tmp_path / "elsewhere"
    run_cli("backup", str(file), data_dir=data_dir)
    for wrong in ("", "12345", code[:-1] + ("0" if code[-1] != "0" else "1"), BackupKey.from_master(b"x" * 32).code):
        assert run_cli("restore", str(file), data_dir=elsewhere, stdin=wrong + "\n", check=False) == ""
        assert not (elsewhere / FILE_NAME).exists()
    restored = json.loads(run_cli("restore", str(file), "--json", data_dir=elsewhere, stdin=f" {code.lower()}\n"))
    assert restored["restored"]["isAuthenticated"] is True
    assert json.loads(run_cli("webhook", "show", "w", "--secret", "--json", data_dir=elsewhere)) == shown
    run_cli("backup", str(tmp_path / "next.zip"), data_dir=elsewhere)
    run_cli("restore", str(tmp_path / "next.zip"), "--yes", data_dir=data_dir)  # the same key on both machines


def test_the_master_key_for_a_service_needs_the_recovery_code(data_dir: Path, tmp_path: Path) -> None:
    """With it the key is written as a credential holds it, and opens the backup there without a question; with another code nothing."""
    code = json.loads(run_cli("backup", "key", "--json", data_dir=data_dir))["recoveryCode"]
    file, elsewhere, secrets = tmp_path / "b.zip", tmp_path / "elsewhere", tmp_path / "secrets"
    run_cli("backup", str(file), data_dir=data_dir)
    other = BackupKey.from_master(b"x" * 32).code
    assert run_cli("restore", str(file), "--master-key", data_dir=elsewhere, stdin=other + "\n", check=False) == ""
    secrets.mkdir(mode=0o700)
    (secrets / "master-key").touch(mode=0o600)
    (secrets / "master-key").write_text(
        run_cli("restore", str(file), "--master-key", data_dir=elsewhere, stdin=code + "\n")
    )
    assert not (elsewhere / FILE_NAME).exists()
    environment = {"KEKBRIDGE_VAULT_BACKEND": "directory", "KEKBRIDGE_VAULT_SECRETS_DIR": str(secrets)}
    environment = {**clean_environment(), **environment, "KEKBRIDGE_DATA_DIR": str(elsewhere)}
    done = run_forked("restore", str(file), environment=environment)
    assert done.returncode == 0, done.stderr
    shown = run_forked("webhook", "show", "w", "--secret", "--json", environment=environment)
    assert shown.stdout == run_cli("webhook", "show", "w", "--secret", "--json", data_dir=data_dir)


def test_a_master_key_is_never_overwritten(data_dir: Path, tmp_path: Path) -> None:
    """Restoring another bridge's backup into a directory in use would lose the key of the data that is there."""
    other = tmp_path / "other"
    run_cli("webhook", "create", "v", data_dir=other)
    code = json.loads(run_cli("backup", "key", "--json", data_dir=other))["recoveryCode"]
    file = tmp_path / "b.zip"
    run_cli("backup", str(file), data_dir=other)
    assert run_cli("restore", str(file), "--yes", data_dir=data_dir, stdin=code + "\n", check=False) == ""
    assert "w" in run_cli("webhook", "list", data_dir=data_dir)


def test_the_recovery_code_is_shown_once(data_dir: Path) -> None:
    """And again only on request; it is never in the data directory."""
    code = run_cli("backup", "key", data_dir=data_dir).strip()
    assert run_cli("backup", "key", data_dir=data_dir, check=False) == ""
    assert run_cli("backup", "key", "--again", data_dir=data_dir).strip() == code
    for path in data_dir.rglob("*"):
        assert not path.is_file() or code.encode() not in path.read_bytes()


@pytest.mark.parametrize("is_old", [True, False], ids=["0.1", "without its code"])
def test_without_a_proof_a_restore_asks(data_dir: Path, tmp_path: Path, *, is_old: bool) -> None:
    """A backup of version 0.1, or without its code, is restored with --unauthenticated after a question that --yes does not answer."""
    file, elsewhere = tmp_path / "b.zip", tmp_path / "elsewhere"
    backup.make(data_dir, file, now=NOW, key=KEY)
    if is_old:
        _rewritten(file, key=None, members={}, format=1)
    arguments = ("restore", str(file), "--yes", "--json")
    assert run_cli(*arguments, data_dir=elsewhere, stdin="", check=False) == ""
    assert run_cli(*arguments, "--unauthenticated", data_dir=elsewhere, stdin="n\n", check=False).strip() == ""
    assert not (elsewhere / FILE_NAME).exists()
    restored = json.loads(run_cli(*arguments, "--unauthenticated", data_dir=elsewhere, stdin="y\n"))
    assert restored["restored"]["isAuthenticated"] is False
    assert "w" in run_cli("webhook", "list", data_dir=elsewhere)


def test_the_refusal_of_a_newer_database_names_a_command_that_works(data_dir: Path) -> None:
    """The copy of before a newer version's migration brings the webhooks back, without a proof: it lies beside the database."""
    copy = data_dir / "before-migration-9999_later.db"
    shutil.copyfile(data_dir / FILE_NAME, copy)
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as newer, newer:
        newer.execute("DELETE FROM webhook_keys")
        newer.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('kekbridge', '9999_later', '')"
        )
    with pytest.raises(ConfigError) as refused:
        Database.open(data_dir)
    (command,) = re.findall(r"`kekbridge (restore .*)`", refused.value.message)
    assert str(copy) in command
    elsewhere = data_dir.with_name("copy.db")
    shutil.copyfile(copy, elsewhere)
    with (
        pytest.raises(ConfigError, match=r"is a database, expected a file that `kekbridge backup` wrote, or a copy"),
        backup.copy_as_backup(elsewhere, data_dir),
    ):
        pass
    restored = json.loads(run_cli(*shlex.split(command), "--yes", "--json", data_dir=data_dir))
    assert restored["restored"]["file"] == str(copy)
    assert len(json.loads(run_cli("webhook", "show", "w", "--json", data_dir=data_dir))["keys"]) == 1
    assert not list(data_dir.glob(".restore*"))


def test_a_sealed_vault_comes_along(tmp_path: Path) -> None:
    """With the vault `file` the backup brings the whole vault, encrypted by the passphrase: no other vault is written."""
    data_dir, file = tmp_path / "data", tmp_path / "b.zip"
    Database.open(data_dir).close_now()
    vault = OpenVault(PassphraseVault.create(data_dir / "vault.sealed", "five random words here"), "", data_dir)
    key = Sealer(master_key(vault)).backup_key
    backup.make(data_dir, file, now=NOW, key=key)
    assert backup.brings_its_vault(file)
    assert key.open_master(backup.sealed_master_key(file) or b"") == master_key(vault)
    backup.restore(file, tmp_path / "fresh", now=NOW, key=BackupKey.from_code(key.code))
    opened = PassphraseVault.open(tmp_path / "fresh" / "vault.sealed", "five random words here")
    assert master_key(OpenVault(opened, "", tmp_path / "fresh")) == master_key(vault)


def test_queued_orders_are_unknown_after_a_restore(tmp_path: Path) -> None:
    """An order queued in the backup may have been sent since: it becomes unknown and not claimable; the hash chain stays valid."""
    data_dir = tmp_path / "data"
    database = Database.open(data_dir)
    with database.transaction() as connection:
        store_order(book_on(connection))
    database.close_now()
    file = tmp_path / "b.zip"
    backup.make(data_dir, file, now=NOW, key=KEY)
    backup.restore(file, data_dir, now=NOW, key=KEY)
    database = Database.open(data_dir)
    with database.snapshot() as connection:
        (order,) = orders.unfinished(connection)
        assert order.status.value == "unknown"
        assert journal.verify(connection) is None
        assert journal.list_events(connection)[-1].kind == "restored"
    database.close_now()


@pytest.mark.parametrize("is_sent_after_the_backup", [True, False])
def test_a_restore_under_a_running_trade_sends_nothing_twice(tmp_path: Path, *, is_sent_after_the_backup: bool) -> None:
    """One order in flight and one queued at the backup, sent afterwards or not: the exchange never gets one twice."""
    with forked_bridge(tmp_path, environment=SOONER) as bridge:
        call(f"{bridge.paper_url}/paper/faults", SLOW_FIRST_ORDER)
        # An order with its own leverage waits for its predecessor.
        sent = [bridge.send(alertId=f"b{number}", quantity="0.002", leverage="10") for number in range(2)]
        assert [status for status, _ in sent] == [202, 202]
        ids = [str(answer["clientOrderId"]) for _, answer in sent]
        file = tmp_path / "b.zip"
        run_cli("backup", str(file), data_dir=bridge.data_dir)
        with zipfile.ZipFile(file) as archive:
            archive.extract(FILE_NAME, tmp_path)
        queued = [order.client_order_id for order in _orders_in(tmp_path) if order.status.value == "queued"]
        if is_sent_after_the_backup:
            assert run_cli("restore", str(file), "--yes", data_dir=bridge.data_dir, check=False) == ""
            wait_until(lambda: set(bridge.orders_received()) >= set(ids), what="both orders at the exchange")
        bridge.daemon.kill()
        run_cli("restore", str(file), "--yes", data_dir=bridge.data_dir)
        bridge.start_daemon()
        bridge.wait_ready()
        wait_until(lambda: not bridge.cli("orders", "--open"), what="all orders final")
        received = bridge.orders_received()
        assert set(received.values()) <= {1}
        assert queued == [ids[1]]
        found = {order["clientOrderId"]: order["status"] for order in bridge.cli("orders")}
        assert found == {name: "filled" if received[name] else "unknown" for name in ids}
        assert received[ids[1]] == is_sent_after_the_backup


def _orders_in(directory: Path) -> tuple[Order, ...]:
    database = Database.open(directory)
    try:
        with database.snapshot() as connection:
            return orders.unfinished(connection)
    finally:
        database.close_now()


def test_restore_refuses_while_a_daemon_runs(tmp_path: Path) -> None:
    """Exit code 4, like a second daemon; the running one keeps its files."""
    daemon = Process(
        ["serve", "--port", "0", "--json", "--data-dir", str(tmp_path / "data")],
        environment={
            "KEKBRIDGE_PAPER_PORT": "0",
            "KEKBRIDGE_PAPER_PRICES": "static",
            "KEKBRIDGE_VAULT_BACKEND": "key_file",
        },
    )
    daemon.start()
    try:
        file = tmp_path / "b.zip"
        run_cli("backup", str(file), data_dir=tmp_path / "data")
        done = subprocess.run(
            [sys.executable, "-m", "kekbridge", "restore", str(file), "--yes", "--data-dir", str(tmp_path / "data")],
            env=clean_environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 4
        assert daemon.is_alive
    finally:
        daemon.kill()


# ------------------------------------------------------------------------------------------------------------- nightly


async def test_the_newest_nightly_backups_are_kept(database: Database, tmp_path: Path, clock: Clock) -> None:
    """While the store is open; files 0600 in a directory 0700; every checksum matches."""
    settings = BackupSettings(keep=2, dir=str(tmp_path / "elsewhere"))
    nightly = NightlyBackup(database, settings, tmp_path / "data", clock, KEY)
    for _ in range(4):
        await nightly.run()
        clock.move(days=1)
    directory = directory_of(settings, tmp_path / "data")
    found = sorted(directory.iterdir())
    assert [path.name for path in found] == ["kekbridge-20260117T100000Z.zip", "kekbridge-20260118T100000Z.zip"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert backup.inspect(path, KEY).file == path


async def test_other_files_are_kept(database: Database, tmp_path: Path, clock: Clock) -> None:
    """Backups made by hand are never deleted; unfinished files of the job are, after a day."""
    settings = BackupSettings(keep=1)
    nightly = NightlyBackup(database, settings, tmp_path / "data", clock, KEY)
    directory = directory_of(settings, tmp_path / "data")
    directory.mkdir()
    unfinished = directory / ".kekbridge-20260101T033000Z.zip.00aa.db"
    mine = [
        directory / name for name in ("kekbridge-before-update.zip", "notes.txt", "kekbridge-20260101T033000Z.zip.old")
    ]
    for path in (unfinished, *mine):
        path.touch()
        old = (clock() - timedelta(days=9)).timestamp()
        os.utime(path, (old, old))
    await nightly.run()
    clock.move(days=1)
    await nightly.run()
    assert all(path.exists() for path in mine)
    assert not unfinished.exists()
    assert len(list(directory.iterdir())) == len(mine) + 1


async def test_an_unwritable_directory_is_a_one_line_error(database: Database, tmp_path: Path, clock: Clock) -> None:
    """The job fails with a message that names the file."""
    (tmp_path / "file").touch()
    nightly = NightlyBackup(
        database, BackupSettings(dir=str(tmp_path / "file" / "backups")), tmp_path / "data", clock, KEY
    )
    with pytest.raises(ConfigError, match=r"the backup .* cannot be written"):
        await nightly.run()
