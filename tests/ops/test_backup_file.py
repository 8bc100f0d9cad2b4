"""A file that claims to be a backup costs next to nothing before it is believed: sizes are bounded, every byte is authenticated."""

from __future__ import annotations

import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kekbridge.errors import ConfigError
from kekbridge.ops import backup_file
from kekbridge.vault import BackupKey
from tests.examples import examples

KEY = BackupKey.from_master(b"k" * 32)
LARGE = "kekbridge.db"


def written(path: Path, members: dict[str, bytes], *, key: BackupKey | None = KEY) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if key is not None:
            backup_file.reserve_mac(archive)
    if key is not None:
        backup_file.write_mac(path, key)
    return path


def test_a_written_file_is_authentic(tmp_path: Path) -> None:
    """Under its key only, and any zip program reads it."""
    file = written(tmp_path / "b.zip", {"a": b"1", LARGE: b"2" * 1000})
    assert backup_file.has_mac(file)
    assert backup_file.is_authentic(file, KEY)
    assert not backup_file.is_authentic(file, BackupKey.from_master(b"l" * 32))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None


def test_a_file_without_a_mac_is_never_authentic(tmp_path: Path) -> None:
    """A zip of version 0.1, an empty file, a short one."""
    assert not backup_file.is_authentic(written(tmp_path / "old.zip", {"a": b"1"}, key=None), KEY)
    for content in (b"", b"x", b"kekbridge-mac:", b"kekbridge-mac:" + b"0" * 64):
        (tmp_path / "short").write_bytes(content)
        assert not backup_file.is_authentic(tmp_path / "short", KEY)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_keeps_it_authentic(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes replaced, removed or inserted anywhere."""
    file = written(tmp_path / "b.zip", {"a": b"1", LARGE: b"content" * 30})
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    removed = data.draw(st.integers(0, 40))
    inserted = data.draw(st.binary(max_size=40))
    changed = whole[:at] + inserted + whole[at + removed :]
    file.write_bytes(changed)
    assert backup_file.is_authentic(file, KEY) == (changed == whole)


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """A broken zip is one line for the operator, never a traceback."""
    file = written(tmp_path / "b.zip", {"a": b"1", LARGE: b"content" * 30})
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(data.draw(st.sampled_from([bytes(whole), bytes(whole[: len(whole) // 2]), bytes(whole[40:])])))
    with suppress(ConfigError):
        backup_file.open_archive(file, LARGE).close()


def bomb(path: Path, name: str, size: int) -> Path:
    """A file of zeros, packed to a thousandth of its size."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open(name, "w") as member,
    ):
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("name", [LARGE, "config.toml"])
def test_a_zip_bomb_is_refused_unread(tmp_path: Path, name: str) -> None:
    """By the sizes that it declares; what it declares too small is never unpacked beyond that."""
    file = bomb(tmp_path / "bomb.zip", name, 64 << 20)
    assert file.stat().st_size < 1 << 20
    with pytest.raises(ConfigError, match="would be 67,108,864 bytes"):
        backup_file.open_archive(file, LARGE)


def test_a_bomb_that_lies_is_read_as_far_as_it_says(tmp_path: Path) -> None:
    """Its declared size is changed to a harmless one: reading ends there."""
    file = bomb(tmp_path / "bomb.zip", LARGE, 64 << 20)
    file.write_bytes(file.read_bytes().replace(struct.pack("<L", 64 << 20), struct.pack("<L", 1000)))
    with backup_file.open_archive(file, LARGE) as archive, archive.open(LARGE) as member:
        with pytest.raises(zipfile.BadZipFile):
            member.read()
        assert member.tell() <= 1000


def test_a_list_of_many_files_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A million empty files take minutes to list; also where only the 64-bit table has their number."""
    file = written(tmp_path / "many.zip", {f"{number}": b"" for number in range(2000)}, key=None)
    with pytest.raises(ConfigError, match="2000 files"):
        backup_file.open_archive(file, LARGE)
    content = file.read_bytes()
    end = content.rfind(b"PK\5\6")
    directory_bytes, offset = struct.unpack_from("<2L", content, end + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2000, 2000, directory_bytes, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    classic = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    file.write_bytes(content[:end] + record + locator + classic)
    with pytest.raises(ConfigError, match="2000 files"):
        backup_file.open_archive(file, LARGE)


def test_an_ordinary_large_database_passes(tmp_path: Path) -> None:
    """More than the allowance for any file, packed to a twentieth as databases are."""
    line = b"%020d some text that repeats in every row of the table;"
    content = b"".join(line % number for number in range(20 << 20 >> 6))
    file = written(tmp_path / "b.zip", {LARGE: content})
    with backup_file.open_archive(file, LARGE) as archive:
        assert archive.read(LARGE) == content


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """One would be checked and the other unpacked."""
    file = tmp_path / "b.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(LARGE, b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(LARGE, b"2")
    with pytest.raises(ConfigError, match="same name"):
        backup_file.open_archive(file, LARGE)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path: Path, method: int) -> None:
    """kekbridge writes none, and they are denser bombs."""
    file = tmp_path / "b.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(LARGE, b"1" * 1000)
    with pytest.raises(ConfigError, match="unknown way"):
        backup_file.open_archive(file, LARGE)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """It names the file and the reason."""
    for call in (backup_file.has_mac, lambda path: backup_file.open_archive(path, LARGE)):
        with pytest.raises(ConfigError, match=r"nowhere\.zip cannot be read: No such file"):
            call(tmp_path / "nowhere.zip")
