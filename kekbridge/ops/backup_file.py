"""The file of a backup: a zip of few bounded files, whose last bytes authenticate all others.

What is read here may come from a stranger. Sizes are checked before anything is unpacked, and nothing is believed before the MAC is.
"""

from __future__ import annotations

import hmac
import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Final

from kekbridge.errors import ConfigError
from kekbridge.vault.recovery import BackupKey

# The first bytes of every SQLite file.
_DATABASE: Final = b"SQLite format 3\0"
# The zip's comment, which is the end of the file: a mark, and the HMAC-SHA256 of all bytes before it in hex.
_MARK: Final = b"kekbridge-mac:"
_MAC_LENGTH: Final = 64
_CHUNK: Final = 1 << 20
_MOST_FILES: Final = 8
_MOST_DIRECTORY_BYTES: Final = 64 * 1024
_MOST_SMALL_BYTES: Final = 1 << 20
# A database shrinks to a tenth or so; only a zip bomb is packed more densely than this.
_MOST_DENSE: Final = 100
_ALWAYS_ALLOWED_BYTES: Final = 16 << 20
# End of the central directory, of its 64-bit form, and the locator of the latter (PKWARE's APPNOTE 4.3.14 to 4.3.16).
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64: Final = struct.Struct("<4sLQL")
_LONGEST_COMMENT: Final = 1 << 16


def damaged(file: Path, what: str) -> ConfigError:
    """The error for a file that is no backup of kekbridge, or not a whole one."""
    return ConfigError(f"{file} is not a usable kekbridge backup: {what}; use another one")


def reserve_mac(archive: zipfile.ZipFile) -> None:
    """Make room for the MAC at the end of a zip that is being written."""
    archive.comment = _MARK + b"0" * _MAC_LENGTH


def write_mac(path: Path, key: BackupKey) -> None:
    """Authenticate a complete zip with room for the MAC."""
    with path.open("r+b") as file:
        mac = _mac(file, key)
        file.seek(-_MAC_LENGTH, os.SEEK_END)
        file.write(mac)


def has_mac(path: Path) -> bool:
    """True if the file claims to be authenticated, as everything is that version 0.2 or later wrote. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _MAC_LENGTH - len(_MARK), 0))
            return file.read(len(_MARK)) == _MARK
    except OSError as error:
        raise ConfigError(f"the backup {path} cannot be read: {error.strerror}") from None


def is_authentic(path: Path, key: BackupKey) -> bool:
    """True if every byte is as it was written under this key."""
    if not has_mac(path):
        return False
    with path.open("rb") as file:
        expected = _mac(file, key)
        return hmac.compare_digest(file.read(_MAC_LENGTH), expected)


def _mac(file: IO[bytes], key: BackupKey) -> bytes:
    """The MAC of everything but the last bytes, where the file is left."""
    mac = key.mac()
    left = file.seek(0, os.SEEK_END) - _MAC_LENGTH
    file.seek(0)
    while left > 0:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            break
        mac.update(chunk)
        left -= len(chunk)
    return mac.hexdigest().encode()


def is_database(path: Path) -> bool:
    """True for a database file by itself, which is no backup. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(len(_DATABASE)) == _DATABASE
    except OSError as error:
        raise ConfigError(f"the backup {path} cannot be read: {error.strerror}") from None


def open_archive(path: Path, large: str) -> zipfile.ZipFile:
    """Open a backup whose sizes are within bounds; `large`: the one file that may be large. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            _check_directory(file, path)
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise ConfigError(f"the backup {path} cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError):
        raise damaged(path, "it is not a zip file, or was truncated") from None
    try:
        _check_sizes(archive.infolist(), path, large)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuse a list of files that alone would take long to read. Python's zipfile reads the whole list when it opens a file."""
    size = file.seek(0, os.SEEK_END)
    start = max(size - _LONGEST_COMMENT - _END.size, 0)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile
    _, _, _, _, count, directory_bytes, _, _ = _END.unpack_from(tail, at)
    locator = start + at - _LOCATOR_64.size
    if locator >= 0:
        file.seek(locator)
        mark, _, offset, _ = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
        if mark == b"PK\6\7":
            # zipfile looks right before the locator, wherever it points to.
            for place in {offset, locator - _END_64.size}:
                file.seek(min(place, size))
                record = file.read(_END_64.size)
                if len(record) == _END_64.size and record[:4] == b"PK\6\6":
                    count = max(count if count != 0xFFFF else 0, _END_64.unpack(record)[7])
                    directory_bytes = max(
                        directory_bytes if directory_bytes != 0xFFFFFFFF else 0, _END_64.unpack(record)[8]
                    )
    if count > _MOST_FILES or directory_bytes > _MOST_DIRECTORY_BYTES:
        raise damaged(path, f"it lists {count} files in {directory_bytes} bytes, expected at most {_MOST_FILES}")


def _check_sizes(infos: list[zipfile.ZipInfo], path: Path, large: str) -> None:
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise damaged(path, "it holds two files of the same name")
    for info in infos:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise damaged(path, f"{info.filename[:60]!r} is encrypted or compressed in an unknown way")
        most = _MOST_SMALL_BYTES
        if info.filename == large:
            most = max(info.compress_size * _MOST_DENSE, _ALWAYS_ALLOWED_BYTES)
        if info.file_size > most:
            raise damaged(path, f"{info.filename[:60]!r} would be {info.file_size:,} bytes, expected at most {most:,}")
