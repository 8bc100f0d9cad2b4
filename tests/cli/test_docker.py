"""`kekbridge docker`: what it writes is complete, private where it must be, and never replaces what is there."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import yaml

from kekbridge import __version__
from kekbridge.cli.program_copy import RunningProgram
from kekbridge.vault.sealing import decode_master_key
from tests.paths import ROOT

WHEEL = f"kekbridge-{__version__}-py3-none-any.whl"
PINNED = re.compile(r"^([a-z][^ =]*)==(\S+).*\n((?:    --hash.*\n)+)", re.MULTILINE)


def test_print_shows_both_files_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    """Each under a comment with its name; --json has them by name. Nothing asks for a directory."""
    shown = run("docker", "--print")
    assert shown.code == 0
    assert shown.out.startswith("# Dockerfile\nARG BASE=")
    assert "\n# compose.yaml\n" in shown.out
    assert shown.err == ""
    assert set(run("docker", "--print", "--json").data) == {"Dockerfile", "compose.yaml"}
    assert list(tmp_path.iterdir()) == []


def test_it_writes_all_that_a_build_needs(run: Any, tmp_path: Path) -> None:
    """Every file that Dockerfile and Compose file name; the wheel by its hash; the key for the container's user only."""
    target = tmp_path / "bridge"
    done = run("docker", str(target), "--json")
    assert {Path(path).relative_to(target).as_posix() for path in done.data["written"]} == {
        "Dockerfile", "compose.yaml", ".dockerignore", "kekbridge.toml", "requirements.txt", "secrets/master-key", WHEEL,
    }  # fmt: skip
    dockerfile = (target / "Dockerfile").read_text()
    assert f"COPY requirements.txt {WHEEL} /build/" in dockerfile
    digest = hashlib.sha256((target / WHEEL).read_bytes()).hexdigest()
    requirements = (target / "requirements.txt").read_text()
    assert requirements.endswith(f"\n./{WHEEL} --hash=sha256:{digest}\n")
    key = target / "secrets" / "master-key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(decode_master_key(key.read_bytes(), "-")) == 32
    assert run("config", "check", "--config", str(target / "kekbridge.toml")).code == 0


def test_the_wheel_is_what_runs(tmp_path: Path) -> None:
    """Installed from it, the package has every file of this one, and its command; written twice, the bytes are the same."""
    first, second = (RunningProgram().write_wheel(_made(tmp_path / name)) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as wheel:
        names = set(wheel.namelist())
        record = wheel.read(f"kekbridge-{__version__}.dist-info/RECORD").decode()
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "kekbridge").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files | {"kekbridge/config.example.toml"} <= names
    assert {line.split(",")[0] for line in record.splitlines()} == names
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target",
         str(tmp_path / "packages"), str(first)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    done = subprocess.run(
        [str(tmp_path / "packages" / "bin" / "kekbridge"), "--version"],
        env={"PYTHONPATH": str(tmp_path / "packages")}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"kekbridge {__version__} (Python package")
    assert "clone" not in done.stdout


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_nothing_is_replaced(run: Any, tmp_path: Path) -> None:
    """A second run changes no byte, and names what is there and the way on."""
    target = tmp_path / "bridge"
    run("docker", str(target))
    before = _contents(target)
    again = run("docker", str(target))
    assert again.code == 2
    assert "secrets/master-key" in again.err
    assert "--upgrade" in again.err
    assert _contents(target) == before


def test_upgrade_replaces_the_program_only(run: Any, tmp_path: Path) -> None:
    """Ports, settings and the key are the trader's; the old version's wheel goes."""
    target = tmp_path / "bridge"
    assert run("docker", str(target), "--upgrade").code == 3  # nothing to upgrade there
    run("docker", str(target))
    (target / "compose.yaml").write_text("services: {}\n")
    (target / "kekbridge-0.0.1-py3-none-any.whl").write_bytes(b"old")
    (target / "Dockerfile").write_text("FROM old\n")
    key = (target / "secrets" / "master-key").read_bytes()
    done = run("docker", str(target), "--upgrade", "--json")
    assert done.code == 0
    assert [path.name for path in target.glob("*.whl")] == [WHEEL]
    assert (target / "Dockerfile").read_text() != "FROM old\n"
    assert yaml.safe_load((target / "compose.yaml").read_text()) == {"services": {}}
    assert (target / "secrets" / "master-key").read_bytes() == key


def test_settings_are_taken_along(run: Any, tmp_path: Path) -> None:
    """Those that --config names, as they are."""
    file = tmp_path / "k.toml"
    file.write_text('mode = "testnet"  # mine\n')
    run("docker", str(tmp_path / "bridge"), "--config", str(file))
    assert (tmp_path / "bridge" / "kekbridge.toml").read_text() == file.read_text()


def test_without_a_directory_it_says_what_to_type(run: Any) -> None:
    """Neither a directory nor --print: one line, exit code 2."""
    done = run("docker")
    assert done.code == 2
    assert "`kekbridge docker bridge`" in done.err


def test_the_image_has_the_packages_that_are_tested() -> None:
    """Its pinned list has all that kekbridge needs, in the versions and with the hashes of .ci/lock.txt."""
    ours, tested = (
        {match[1]: (match[2], match[3]) for match in PINNED.finditer(path.read_text())}
        for path in (ROOT / "kekbridge" / "cli" / "requirements.txt", ROOT / ".ci" / "lock.txt")
    )
    of_the_daemon = set(RunningProgram()._distributions) - {"acme", "eth-account"}
    assert {"aiohttp", "pydantic", "typer"} <= of_the_daemon & ours.keys()
    assert {name: pinned for name, pinned in ours.items() if tested.get(name, pinned) != pinned} == {}


def _contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
