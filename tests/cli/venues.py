"""A paper exchange that commands can reach, on a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from nacl.pwhash import argon2id

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PaperSettings
from kekbridge.vault.base import SEALED_FILE
from kekbridge.vault.passphrase import PassphraseVault

PASSPHRASE = "five random words are enough"


class Venue:
    """A running paper exchange; its state can be read from the test's thread."""

    def __init__(self, exchange: PaperExchange, loop: asyncio.AbstractEventLoop) -> None:
        self.exchange = exchange
        self.base_url = exchange.base_url
        self._loop = loop

    def key(self, orderly_key: str) -> Any:
        """Return the record of a registered key, or None."""

        async def read() -> Any:
            return self.exchange.exchange.state.keys.get(orderly_key)

        return asyncio.run_coroutine_threadsafe(read(), self._loop).result(20)


@contextmanager
def running_venue(directory: Path, **settings: Any) -> Iterator[Venue]:
    """Run a paper exchange with static prices on a free port, which can verify wallets at once.

    It would import what that needs with the first registration: on a busy machine for longer than a command waits for its answer.
    """
    with suppress(ImportError):  # without the extra `wallet` it verifies none
        import_module("eth_account.messages")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    exchange = PaperExchange(directory, settings=PaperSettings(prices="static", rate_limits=False, **settings))
    try:
        asyncio.run_coroutine_threadsafe(exchange.start(), loop).result(20)
        yield Venue(exchange, loop)
    finally:
        asyncio.run_coroutine_threadsafe(exchange.close(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def live_environment(tmp_path: Path, base_url: str) -> dict[str, str]:
    """Return an environment for live mode at an exchange, with an encrypted vault in `tmp_path/data` that opens by itself.

    The vault has argon2id's minimum cost: tests/vault covers the real one.
    """
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    passphrase = secrets / "vault-passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    passphrase.chmod(0o600)
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700, exist_ok=True)
    PassphraseVault.create(
        data_dir / SEALED_FILE, PASSPHRASE, operations=argon2id.OPSLIMIT_MIN, memory=argon2id.MEMLIMIT_MIN
    )
    return {
        "KEKBRIDGE_MODE": "live",
        "KEKBRIDGE_EXCHANGE_BASE_URL": base_url,
        "KEKBRIDGE_EXCHANGE_ACCOUNT_ID": PAPER_ACCOUNT_ID,
        "KEKBRIDGE_VAULT_BACKEND": "file",
        "KEKBRIDGE_VAULT_SECRETS_DIR": str(secrets),
    }
