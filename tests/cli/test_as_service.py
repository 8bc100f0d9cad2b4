"""Root's commands about a stopped service run as the service; on a machine without one, nothing changes.

tests/system/test_service.py runs them on a real systemd.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import typer

from kekbridge.cli.as_service import is_service, stopped_service
from kekbridge.cli.options import GlobalOptions
from kekbridge.daemon.control_socket import service_place


def test_without_an_installed_service_a_command_runs_here(data_dir: Path, monkeypatch: Any) -> None:
    """Neither with a data directory that is named nor without one is a service meant that is not installed."""
    ctx = cast("typer.Context", SimpleNamespace(obj=GlobalOptions()))
    assert stopped_service(ctx, data_dir) is None
    monkeypatch.delenv("KEKBRIDGE_DATA_DIR")
    assert stopped_service(ctx, None) is None
    assert is_service(service_place().data_dir)
    assert not is_service(data_dir)
