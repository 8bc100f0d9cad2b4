"""In which form kekbridge runs, and the environment of the programs that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from kekbridge import __version__
from kekbridge.cli import form as running
from tests.paths import ROOT


def test_a_package_is_no_file() -> None:
    """Neither frozen nor started from an archive."""
    assert running.form() == running.PACKAGE
    assert running.program_file() is None


def test_a_zipapp_knows_its_file(tmp_path: Path) -> None:
    """Python's own loader says where it read the program; shiv starts in the same way."""
    source = tmp_path / "source"
    source.mkdir()
    code = "from kekbridge.cli.form import program_file\nprint(program_file())\nfrom kekbridge.cli.main import run\nrun()\n"
    (source / "__main__.py").write_text(code)
    file = tmp_path / "kek bridge.pyz"
    zipapp.create_archive(source, file)
    done = subprocess.run(
        [sys.executable, str(file), "--version"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    named, version = done.stdout.splitlines()
    assert named == str(file)
    assert version.startswith(f"kekbridge {__version__} (zipapp")


def test_the_version_says_what_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The form comes first, as in older versions; a clone, a container and Python's version follow."""
    python = ".".join(map(str, sys.version_info[:3]))
    monkeypatch.setattr(running, "_CONTAINER_MARKS", (str(tmp_path / "mark"),))
    monkeypatch.delenv("container", raising=False)
    assert running.description() == f"Python package from a clone, Python {python}"
    monkeypatch.setattr(running, "_PROJECT", tmp_path)
    assert running.description() == f"Python package, Python {python}"
    (tmp_path / "mark").touch()
    assert running.description() == f"Python package in a container, Python {python}"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert running.description() == f"one-file executable in a container, Python {python}"


@pytest.mark.parametrize(("before", "after"), [(None, None), ("/usr/local/lib", "/usr/local/lib")])
def test_programs_do_not_load_the_executables_libraries(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str | None
) -> None:
    """What the executable's loader set is undone; a package's environment is left alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/unpacked/_MEIx")
    monkeypatch.setenv("SSL_CERT_DIR", "/mine")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    running.prepare_executable()
    assert os.environ["LD_LIBRARY_PATH"] == "/unpacked/_MEIx"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    if before is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", before)
    running.prepare_executable()
    assert os.environ.get("LD_LIBRARY_PATH") == after
    assert running.form() == running.EXECUTABLE
    assert "SSL_CERT_FILE" not in os.environ


def test_the_executable_finds_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this machine, wherever it keeps them; without any, those that are packed. What the operator set counts."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "_MEIPASS", "/unpacked", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    running.prepare_executable()
    assert os.environ["SSL_CERT_FILE"] == "/mine.pem"
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    running.prepare_executable()
    found = os.environ["SSL_CERT_FILE"]
    assert Path(found).is_file() or found == "/unpacked/certifi/cacert.pem"
