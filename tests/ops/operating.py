"""A context for operations as in a command: a database, a vault and a clock of the test, and an exchange that only records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kekbridge.config import Settings, load_settings
from kekbridge.errors import ConfigError
from kekbridge.exchange.base import Exchange, KeyInfo
from kekbridge.exchange.orderly.key_management import NO_ACCOUNT
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.ops.operation import ExchangeKeys, RunningBridge, WalletCalls
from kekbridge.vault import OpenVault, Sealer, master_key
from tests.fresh_database import open_database

ACCOUNT = "0x" + "1" * 64


class MemoryVault:
    """A vault in memory."""

    name = "file"
    is_writable = True
    title = "vault of the test"

    def __init__(self, *, is_plain: bool = False) -> None:
        self.is_plain = is_plain
        self.secrets: dict[str, bytes] = {}

    def is_provided(self, name: str) -> bool:
        return False

    def get(self, name: str) -> bytes | None:
        return self.secrets.get(name)

    def set(self, name: str, value: bytes) -> None:
        self.secrets[name] = value

    def delete(self, name: str) -> None:
        self.secrets.pop(name, None)


@dataclass
class RecordingExchange:
    """The exchange's side of keys: says what the test wants, and records what it was asked."""

    checked: tuple[Check, ...] = ()
    #: Calls that change something, oldest first.
    calls_made: list[tuple[object, ...]] = field(default_factory=list)

    def public_key(self, secret: str) -> str:
        return Signer(NO_ACCOUNT, secret).orderly_key

    def wallet_calls(self, mode: Mode) -> AbstractAsyncContextManager[WalletCalls]:
        raise ConfigError("the exchange of this test knows no wallets")

    async def checks(self, mode: Mode, account_id: str, secret: str) -> tuple[Check, ...]:
        Signer(account_id, secret)
        return self.checked

    @asynccontextmanager
    async def calls(self, mode: Mode, account_id: str, secret: str) -> AsyncIterator[RecordingExchange]:
        yield self

    async def keys(self) -> tuple[KeyInfo, ...]:
        return ()

    async def own_address(self) -> str:
        return "203.0.113.7"

    async def restrict(self, orderly_key: str, addresses: tuple[str, ...]) -> None:
        self.calls_made.append(("restrict", orderly_key, addresses))

    async def allow_everywhere(self, orderly_key: str) -> None:
        self.calls_made.append(("allow", orderly_key))

    async def remove(self, orderly_key: str) -> None:
        self.calls_made.append(("remove", orderly_key))


class Desk:
    """An ops.operation.OperatorContext without a daemon."""

    bridge: RunningBridge | None = None
    may_write = True

    def __init__(self, data_dir: Path, *, mode: Mode = Mode.PAPER, vault: MemoryVault | None = None) -> None:
        self.mode = mode
        self.data_dir = data_dir
        self.settings: Settings = load_settings(environment={}, overrides={"mode": mode.value})
        self.secrets = vault or MemoryVault()
        self.vault = OpenVault(self.secrets, "chosen by the test", data_dir)
        self.exchange = RecordingExchange()
        self.keys: ExchangeKeys = self.exchange
        self.database = open_database(data_dir)
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def open_exchange(self) -> AbstractAsyncContextManager[Exchange]:
        raise ConfigError("the desk has no exchange")

    def report(self, line: str) -> None:
        """Nobody listens."""

    @property
    def sealer(self) -> Sealer:
        return Sealer(master_key(self.vault))
