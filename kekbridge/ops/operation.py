"""What an operation of the operator is: its name, its parameters, how it is run, and on what.

An operation runs in the daemon, which is asked over the control socket or by a web page, or in a command while no daemon runs. It is the
same code on the same kind of context, so its errors and results are the same, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import msgspec

from kekbridge.config import Settings
from kekbridge.errors import ConfigError
from kekbridge.exchange.base import Exchange, KeyInfo
from kekbridge.execution.book import Book
from kekbridge.execution.manual_orders import ManualOrders
from kekbridge.ingress.lockout import Lockout
from kekbridge.model import Mode
from kekbridge.model.check import Check
from kekbridge.store.database import Database
from kekbridge.vault import OpenVault, Sealer

COMMAND_LINE: Final = "command line"


class KeyCalls(Protocol):
    """Calls at the exchange about the keys of one account."""

    async def keys(self) -> tuple[KeyInfo, ...]: ...

    async def own_address(self) -> str: ...

    async def restrict(self, orderly_key: str, addresses: tuple[str, ...]) -> None: ...

    async def allow_everywhere(self, orderly_key: str) -> None: ...

    async def remove(self, orderly_key: str) -> None: ...


class WalletCalls(Protocol):
    """Public and wallet-signed calls at the exchange: accounts and keys of a wallet. `message`: the fields that were signed."""

    def time_ms(self) -> int:
        """Unix ms for a wallet's message: our clock, corrected if it is far from the exchange's."""

    async def account_of(self, address: str, broker_id: str) -> str | None:
        """The account id of a wallet at a broker; None if it is not registered."""

    async def key(self, account_id: str, orderly_key: str) -> KeyInfo | None:
        """A registered key; None if the account has no such key."""

    async def own_address(self) -> str: ...

    async def registration_nonce(self) -> int: ...

    async def register_account(self, message: Mapping[str, object], signature: str, address: str) -> str:
        """Register the account; return its id."""

    async def add_key(self, message: Mapping[str, object], signature: str, address: str) -> str:
        """Add a key to the account; return it."""


class ExchangeKeys(Protocol):
    """The exchange's side of its keys. Secrets are given, never returned."""

    def public_key(self, secret: str) -> str:
        """The public key of a secret. Raises VaultError for a malformed one, without quoting it."""

    def calls(self, mode: Mode, account_id: str, secret: str) -> AbstractAsyncContextManager[KeyCalls]:
        """Calls signed with an account's key. Raises ConfigError for a malformed account id."""

    def wallet_calls(self, mode: Mode) -> AbstractAsyncContextManager[WalletCalls]:
        """Calls that no exchange key signs."""

    async def checks(self, mode: Mode, account_id: str, secret: str) -> tuple[Check, ...]:
        """Check the key with the exchange: reachable, clock, key, scopes, expiry, addresses, account, markets."""


class RunningBridge(Protocol):
    """What only a running daemon has."""

    @property
    def exchange(self) -> Exchange: ...

    @property
    def book(self) -> Book:
        """The trading states that decisions see."""

    @property
    def manual_orders(self) -> ManualOrders: ...

    @property
    def lockout(self) -> Lockout: ...

    async def state(self) -> dict[str, Any]:
        """The live state, as JSON."""

    async def examine(self) -> tuple[Check, ...]:
        """The checks of `kekbridge doctor`, made by the daemon: with its settings, its rights and its open vault."""

    async def run_job(self, name: str) -> None:
        """Run a scheduled job now. Raises NotFound for an unknown one."""


class OperatorContext(Protocol):
    """What operations work on."""

    @property
    def settings(self) -> Settings: ...

    @property
    def mode(self) -> Mode:
        """The mode in force."""

    @property
    def data_dir(self) -> Path: ...

    @property
    def database(self) -> Database: ...

    @property
    def vault(self) -> OpenVault:
        """The open vault; its calls may block. Only for operations with `opens_vault`."""

    @property
    def sealer(self) -> Sealer:
        """Seals and opens webhook credentials. Only for operations with `opens_vault`."""

    @property
    def keys(self) -> ExchangeKeys: ...

    @property
    def clock(self) -> Callable[[], datetime]:
        """Current time, UTC."""

    @property
    def bridge(self) -> RunningBridge | None:
        """The daemon that runs the operation; None in a command."""

    @property
    def may_write(self) -> bool:
        """False in a command beside a daemon that hangs and holds the lock: the database is only read."""

    def open_exchange(self) -> AbstractAsyncContextManager[Exchange]:
        """A started client of the account in force: the daemon's own, or one that is closed at the end of the block.

        Only for operations with `opens_vault`. Raises ConfigError for another account than the data directory's, VaultError.
        """

    def report(self, line: str) -> None:
        """What a long operation does, on one line: for the daemon's log, or a command's stderr."""


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One operation with its parameters. Subclasses add fields and `run`; `__post_init__` checks what a type cannot say."""

    #: Its name: `POST /operations/NAME` at the control socket.
    operation: ClassVar[str]
    #: It changes the database or the vault: without a daemon, a command runs it under the daemon's lock.
    writes: ClassVar[bool] = False
    #: It may create the data directory.
    creates: ClassVar[bool] = False
    #: Without a database there is nothing for it to do, and a command says so before it opens the vault.
    needs_data: ClassVar[bool] = True
    #: It uses the vault, which may ask for a passphrase when a command opens it.
    opens_vault: ClassVar[bool] = False
    #: Only a running daemon can do it.
    needs_daemon: ClassVar[bool] = False
    #: The daemon's log says that it was run. False for what commands ask for several times a second.
    is_logged: ClassVar[bool] = True
    #: How long a command waits for the daemon's answer, in seconds.
    answer_within_s: ClassVar[float] = 10.0

    def run(self, context: OperatorContext) -> Coroutine[Any, Any, Any]:
        """Do it; return what `to_jsonable` can convert. Raises KekbridgeError."""
        raise NotImplementedError


def bridge_of(context: OperatorContext) -> RunningBridge:
    """The daemon that runs an operation with `needs_daemon`. Raises ConfigError in a command."""
    if context.bridge is None:
        raise ConfigError(f"no bridge runs on {context.data_dir}; start it with `kekbridge serve`")
    return context.bridge


def decode(kind: type[Operation], body: bytes) -> Operation:
    """Read an operation's parameters from JSON. Raises ConfigError: the parameter, what was found and what is expected."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"operation {kind.operation}: {in_words(str(error), kind)}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ConfigError(
            f"operation {kind.operation}: found no JSON, expected an object with its parameters"
        ) from None


_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"contains unknown field `([^`]*)`")
_EXPECTED: Final = re.compile(r"Expected (?P<expected>.+?)(?:, got (?P<found>.+?))?(?: - at `\$\.?(?P<place>.*)`)?$")
_PLACE: Final = re.compile(r"- at `\$\.?(.*)`$")


def in_words(error: str, kind: type[msgspec.Struct]) -> str:
    """A decoder's message in our words. Values are not quoted: they may be secret."""
    parameters = ", ".join(field.encode_name for field in msgspec.structs.fields(kind)) or "none"
    if missing := _MISSING.search(error):
        return f"{missing[1]} is missing; expected {parameters}"
    if unknown := _UNKNOWN.search(error):
        return f"{unknown[1][:40]!r} is not a parameter; expected {parameters}"
    if wrong := _EXPECTED.search(error):
        found, expected = wrong["found"] or "another value", wrong["expected"]
        return f"{wrong['place'] or 'body'}: found {found}, expected {expected}".replace("`", "")
    place = _PLACE.search(error)
    return f"{place[1] if place else 'body'}: found a value that is not accepted"
