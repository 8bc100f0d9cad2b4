"""The process that listens on a port."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from kekbridge.connections.port_owner import port_owner
from tests.system.harness import free_port


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_owner_of_a_port_is_named(family: int, host: str) -> None:
    """Name and number of the process, for both families of addresses."""
    name = Path("/proc/self/comm").read_text("utf-8").strip()
    with socket.create_server((host, 0), family=family) as listening:
        assert port_owner(listening.getsockname()[1]) == f"{name} (process {os.getpid()})"


def test_what_cannot_be_seen_is_another_process(tmp_path: Path) -> None:
    """A free port, a system without /proc, and an owner that is not visible raise nothing."""
    assert port_owner(free_port()) == "another process"
    assert port_owner(1, proc=tmp_path) == "another process"
    (tmp_path / "net").mkdir()
    rows = "  sl  local_address rem_address   st\n   0: 0100007F:0001 00000000:0000 0A 0:0 0:0 0 0 0 777 1\n"
    (tmp_path / "net" / "tcp").write_text(rows, "ascii")
    assert port_owner(1, proc=tmp_path) == "another process"
