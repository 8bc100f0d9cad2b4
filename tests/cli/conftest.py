"""Fixtures for command line tests: a clean environment, a data directory, and a function that runs a command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.main import run_command


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
    monkeypatch.setenv("KEKBRIDGE_TEST_SERVICE_ROOT", str(tmp_path / "no-service"))
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    return directory


@pytest.fixture
def run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Function that runs one command line in this process, as the entry point does."""

    def run_arguments(*arguments: str) -> Result:
        capsys.readouterr()
        code = run_command(list(arguments))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run_arguments
