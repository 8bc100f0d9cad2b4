"""No blocking call on the event loop while an alert is handled: password hash, DNS lookup, synchronous HTTP, sleep, flush."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from tests.bridge import Bridge

# C functions that would block the event loop, by name.
SLOW_CALLS = frozenset(
    {
        "crypto_pwhash",
        "crypto_pwhash_str",
        "crypto_pwhash_str_verify",
        "scrypt",
        "pbkdf2_hmac",
        "hashpw",
        "checkpw",
        "getaddrinfo",
        "gethostbyname",
        "gethostbyname_ex",
        "getfqdn",
        "sleep",
        "fork_exec",
        "system",
        "fsync",
        "fdatasync",
    }
)
SLOW_MODULES = ("requests", "urllib.request", "http.client", "subprocess", "nacl.pwhash", "argon2", "bcrypt", "keyring")


@contextmanager
def watched() -> Iterator[tuple[set[str], set[str]]]:
    """Collect the names of the C functions and modules that this thread enters inside the block."""
    calls: set[str] = set()
    modules: set[str] = set()

    def record(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            calls.add(getattr(argument, "__name__", ""))
        elif event == "call":
            modules.add(str(frame.f_globals.get("__name__", "")))

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        yield calls, modules
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("fields", [{}, {"stopLoss": "5%", "quantity": "0.02"}, {"action": "close", "quantity": None}])
async def test_handling_an_alert_never_blocks_the_loop(bridge: Bridge, fields: dict[str, Any]) -> None:
    """Receiving, deciding, signing, sending and recording an order calls no slow function on the loop's thread.

    The first alerts create what is created once; the last is recorded from its first byte to its stored fill.
    """
    await bridge.send()
    await bridge.send(quantity="0.01")
    with watched() as (calls, modules):
        _, answer = await bridge.send(**fields)
        await bridge.until_stored(answer, "filled")
    assert threading.current_thread() is threading.main_thread()
    assert "crypto_sign" in calls  # the order was signed on this thread
    assert "kekbridge.execution.submitter" in modules
    assert not calls & SLOW_CALLS
    assert not [name for name in modules if name.startswith(SLOW_MODULES)]


def test_slow_calls_are_detected() -> None:
    """The names are those that Python reports: a password hash, a resolver and a sleep are detected."""
    import socket
    import time

    from nacl import pwhash

    with watched() as (calls, modules):
        pwhash.argon2id.kdf(32, b"secret", b"0" * 16, opslimit=1, memlimit=8192)
        socket.getaddrinfo("127.0.0.1", 1)
        time.sleep(0)
    assert calls >= {"crypto_pwhash", "getaddrinfo", "sleep"}
    assert any(name.startswith("nacl.pwhash") for name in modules)
