"""Fixtures for command line tests: a clean environment, a data directory, and a function that runs a command."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.main import run_command
from kekbridge.daemon.control_socket import SERVICE_ROOT_VARIABLE
from tests.cli.processes import Served, serving_as_service


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one command."""

    #: Exit code.
    code: int
    #: Text on stdout.
    out: str
    #: Text on stderr.
    err: str

    @property
    def data(self) -> Any:
        """The JSON on stdout, which must be one value on one line."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a data directory that does not exist yet, set in an environment without the machine's own settings."""
    for name in list(os.environ):
        if name.startswith("KEKBRIDGE_") or name in ("DBUS_SESSION_BUS_ADDRESS", "CREDENTIALS_DIRECTORY"):
            monkeypatch.delenv(name)
    directory = tmp_path / "data"
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(directory))
    monkeypatch.setenv(SERVICE_ROOT_VARIABLE, str(tmp_path / "no-service"))
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    return directory


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Path]:
    """Where the service is, instead of `/`: short enough for the name of a socket, and not closed to other users."""
    with tempfile.TemporaryDirectory(prefix="kb-") as path:
        Path(path).chmod(0o755)
        monkeypatch.setenv(SERVICE_ROOT_VARIABLE, path)
        yield Path(path)


@pytest.fixture
def service(root: Path) -> Iterator[Served]:
    """The service: data and runtime directory as its unit has them."""
    with serving_as_service(root) as bridge:
        yield bridge


@pytest.fixture(autouse=True)
def as_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process name themselves in the line to type with sudo: as `kekbridge`, however pytest was started."""
    monkeypatch.setattr(sys, "argv", ["kekbridge"])


@pytest.fixture
def run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Function that runs one command line in this process, as the entry point does."""

    def run_arguments(*arguments: str) -> Result:
        capsys.readouterr()
        code = run_command(list(arguments))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run_arguments
