"""A private machine for tests: this one's files under a layer that is thrown away, in namespaces of its own, with systemd as first process.

Needs root with CAP_SYS_ADMIN, overlayfs, a cgroup2 hierarchy and systemd. Nothing that is done inside reaches the machine of the tests:
files, users, services, network and processes are its own, and /sys and /proc/sys are read-only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.paths import ROOT
from tests.waiting import DEADLINE_S

_SYSTEMD = Path("/lib/systemd/systemd")
# What a start of the service pulls in, and what has no business in here.
_MASKED = (
    *("systemd-tmpfiles-setup", "systemd-tmpfiles-setup-dev", "systemd-tmpfiles-clean", "systemd-udevd"),
    *("systemd-udev-trigger", "systemd-sysctl", "systemd-modules-load", "systemd-timesyncd", "systemd-random-seed"),
)
# Arguments: the directory of the machine, and directories that are on other file systems than `/`. `pivot_root` and not chroot: the kernel
# gives no user namespace (PrivateUsers=) in a chroot. Shared mounts, as on a real machine: systemd hands credentials over as mounts.
_BOOT = """\
set -eu
work=$1; shift
root=$work/root
mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$work"
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
for path in "$@"; do
  mkdir -p "$root$path"
  mount --rbind "$path" "$root$path"
done
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/etc/systemd/system"
for unit in $MASKED; do
  ln -s /dev/null "$root/etc/systemd/system/$unit.service"
done
printf '[Unit]\\nDefaultDependencies=no\\nRequires=systemd-journald.service\\n' >"$root/etc/systemd/system/private.target"
: >"$root/etc/machine-id"
ip link set lo up
cd "$root"
mkdir .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
cd /
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --system --unit=private.target --show-status=no
""".replace("{systemd}", str(_SYSTEMD))
_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
# It ends with the process of the tests, however that ends.
_UNSHARE = ("setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """A booted machine; `run` runs a command in it as root."""

    def __init__(self, first_process: int) -> None:
        self._first_process = first_process

    def run(
        self, *command: str, typed: str = "", user: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return its result; `typed` is on its stdin, `user` runs it with that user's groups."""
        home = f"/home/{user}" if user else "/root"
        variables = {"PATH": _PATH, "HOME": home, "LANG": "C.UTF-8", **(environment or {})}
        switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        inside = ["env", "-i", "-C", "/", *(f"{name}={value}" for name, value in variables.items()), *switch, *command]
        return subprocess.run(
            ["nsenter", f"--target={self._first_process}", *_NAMESPACES, "--root", *inside],
            input=typed,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE_S,
            check=False,
            cwd="/",
        )

    def output(self, *command: str) -> str:
        """Output of a command that must succeed, without the blanks around it."""
        done = self.run(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()


@contextmanager
def private_machine(directory: Path) -> Iterator[Machine]:
    """Boot a machine with its files below `directory`. Raises OSError if this one does not allow it."""
    directory.mkdir(exist_ok=True)
    group = _new_cgroup()
    devices = {path: path.stat().st_dev for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix))}
    elsewhere = [str(path) for path, device in devices.items() if device != Path("/").stat().st_dev]
    try:
        process = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _BOOT, "boot", str(directory), *elsewhere],
            env={"PATH": _PATH, "MASKED": " ".join(_MASKED)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None,
        )
        try:
            yield _booted(process)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    finally:
        _remove_cgroup(group)


def why_no_machine() -> str:
    """Why this machine can boot no private one; empty if nothing is known to prevent it."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("unshare", "nsenter", "pivot_root", "ip", "setpriv") if shutil.which(name) is None]
    if missing or not _SYSTEMD.exists():
        return f"needs {', '.join(missing) or 'systemd'}"
    try:
        _remove_cgroup(_new_cgroup())
    except OSError as error:
        return f"needs a writable cgroup2: {error}"
    return ""


def _booted(process: subprocess.Popen[str]) -> Machine:
    """Wait for systemd to accept commands."""
    deadline = time.monotonic() + DEADLINE_S
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stdout is not None
            raise OSError(f"the private machine did not boot: {process.stdout.read().strip()}")
        with suppress(OSError, ValueError, IndexError):
            machine = Machine(int(children.read_text().split()[0]))
            if machine.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"):
                return machine
        time.sleep(0.1)
    raise OSError("the private machine did not boot in time")


def _new_cgroup() -> Path:
    """A control group below this process's own, for the machine's first process. Raises OSError."""
    mounted = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [fields[4] for fields in mounted if fields[fields.index("-") + 1] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not places or not own:
        raise OSError("there is none")
    group = Path(places[0] + own[0].rstrip("/")) / f"kekbridge-test-{os.getpid()}"
    group.mkdir()
    return group


def _remove_cgroup(group: Path) -> None:
    """Remove it and what systemd made in it, once its processes are gone."""
    deadline = time.monotonic() + DEADLINE_S
    while group.exists():
        for directory, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
