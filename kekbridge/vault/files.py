"""Private files: replaced atomically, readable by their owner only; and a lock between processes.

Mode 0600 from the first byte, in a directory of mode 0700. Shared by the vaults and the TLS certificates.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from kekbridge.errors import VaultError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# Linux stores a POSIX ACL as a version word and entries of (tag, permissions, id); tags from linux/posix_acl.h.
_ACL_ATTRIBUTE = "system.posix_acl_access"
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_OTHER = 0x02, 0x04, 0x08, 0x20


def make_private_directory(directory: Path) -> None:
    """Create the directory with mode 0700 if it does not exist. Raises VaultError if that fails."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise VaultError(f"the data directory {directory} cannot be created: {error.strerror}") from None


@contextlib.contextmanager
def exclusive_lock(directory: Path, lock_name: str = "vault.lock") -> Iterator[None]:
    """Hold a lock of a data directory, so that processes that start together run the body one after another.

    The kernel releases it when the holder dies. Not re-entrant: locks held at the same time need different names.
    """
    make_private_directory(directory)
    descriptor = os.open(directory / lock_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file by `content`, flushed, mode 0600; a crash leaves the old or the new file. Raises VaultError."""
    make_private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_directory(path.parent)
    except OSError as error:
        raise VaultError(f"{path} cannot be written: {error.strerror}") from None


def read_private(path: Path, *, max_bytes: int = 1 << 20) -> bytes | None:
    """The file's content, None if there is no file. Raises VaultError if it is too large or readable by others than its owner."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EISDIR):
            return None
        raise VaultError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise VaultError(f"{path} is not a regular file")
            if _others_can_read(path, status):
                mode = stat.S_IMODE(status.st_mode)
                raise VaultError(
                    f"{path} has mode {mode:04o}: others can read it; run `chmod 600 {path}`"
                    " (Docker: give the secret `mode: 0400` and the daemon's uid)"
                )
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise VaultError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise VaultError(f"{path} is over {max_bytes} bytes: no secret of kekbridge is that large")
    return content


def _others_can_read(path: Path, status: os.stat_result) -> bool:
    if not status.st_mode & _OTHERS:
        return False
    if status.st_mode & stat.S_IRWXO:
        return True
    # systemd grants a service's user access by an ACL; the group bits are then the ACL's mask (0440), not the group's.
    return not _acl_gives_only_us(path)


def _acl_gives_only_us(path: Path) -> bool:
    try:
        acl = os.getxattr(path, _ACL_ATTRIBUTE)
    except (OSError, AttributeError):
        return False
    for tag, permissions, owner in struct.iter_unpack("<HHI", acl[4:]):
        if not permissions:
            continue
        if tag in (_ACL_GROUP_OBJ, _ACL_GROUP, _ACL_OTHER) or (tag == _ACL_USER and owner != os.geteuid()):
            return False
    return True


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
