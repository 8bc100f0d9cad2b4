"""`kekbridge keys register`: register the generated key for the wallet's account, signed by the wallet (EIP-712).

A wallet without an account at the broker gets one first. `Wallet` signs here with a private key, or prints the message to sign
elsewhere and reads the signature.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from kekbridge.cli.key_session import KeySession, Venue, key_session, read_line, read_secret
from kekbridge.cli.options import ConfigFile, DataDir, Json
from kekbridge.errors import ConfigError

if TYPE_CHECKING:
    from kekbridge.exchange.base import KeyInfo
    from kekbridge.exchange.orderly.key_management import KeyManagement

T = TypeVar("T")

_ATTEMPTS: Final = 3
_BROKER_ID: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)

WalletAddress = Annotated[
    str | None,
    typer.Option("--wallet", metavar="0x…", help="Address of the wallet; you sign in it.", show_default=False),
]
SignHere = Annotated[
    bool, typer.Option("--sign", help="Sign here: hidden prompt for the wallet's private key (extra `wallet`).")
]
Broker = Annotated[
    str | None,
    typer.Option("--broker", metavar="ID", help="Broker. Default: exchange.broker_id.", show_default=False),
]
Chain = Annotated[
    int | None,
    typer.Option(
        "--chain",
        metavar="ID",
        min=1,
        help="Chain of the wallet. Default: Arbitrum, or its testnet.",
        show_default=False,
    ),
]
Scope = Annotated[str, typer.Option("--scope", metavar="LIST", help="Scopes of the key.")]
Days = Annotated[int, typer.Option("--days", metavar="N", min=1, max=365, help="Days until the key expires.")]


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """The key to register."""

    #: Broker of the account, such as kek_ai.
    broker_id: str
    #: Chain id that the wallet signs for.
    chain_id: int
    #: Scopes, comma-separated, in the exchange's order.
    scope: str
    #: Days until the key expires, 1 to 365.
    days: int


def register(
    ctx: typer.Context,
    wallet: WalletAddress = None,
    sign_here: SignHere = False,
    mode: Venue = None,
    broker: Broker = None,
    chain: Chain = None,
    scope: Scope = "read,trading",
    days: Days = 365,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Register the generated key; your wallet signs it.

    A wallet without an account gets one first. --wallet prints the message to sign (eth_signTypedData_v4) and reads the signature; --sign
    reads the wallet's private key from a hidden prompt and never stores it. Without either, a terminal asks which.
    """
    from kekbridge.cli import render
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.vault_operations import AdoptPendingKey, ShowPendingKey
    from kekbridge.wallet import typed_data

    session = key_session(ctx, data_dir, config, mode, None, needs_account=False)
    request = KeyRequest(
        broker_id=_check_broker(broker or session.broker_id),
        chain_id=chain or typed_data.CHAINS[session.mode.value],
        scope=_check_scope(scope),
        days=days,
    )
    pending = run_operation(session.context, ShowPendingKey(mode=session.mode, account_id=session.account_id))
    signing_wallet = _choose_wallet(wallet, sign_here=sign_here)
    registered = asyncio.run(_register(session, request, signing_wallet, pending["orderlyKey"]))
    if pending["isPending"]:
        adopt = AdoptPendingKey(
            mode=session.mode, account_id=registered["accountId"], orderly_key=registered["orderlyKey"]
        )
        run_operation(session.context, adopt)
    if as_json:
        render.as_json(registered)
        return
    render.pairs([(name, registered[key]) for name, key in _ROWS])
    render.note(
        f'To trade with it, set  mode = "{session.mode.value}"  and  [exchange] account_id = "{registered["accountId"]}"'
    )
    render.note("Restrict it to this machine:  kekbridge keys restrict-ip --here")


_ROWS = (
    ("account", "accountId"),
    ("wallet", "wallet"),
    ("broker", "brokerId"),
    ("public key", "orderlyKey"),
    ("scopes", "scopes"),
    ("expires", "expiresAt"),
)


async def _register(session: KeySession, request: KeyRequest, wallet: Wallet, orderly_key: str) -> dict[str, Any]:
    """Register account and key with the exchange; return the result for JSON. The key's secret stays in the vault."""
    from kekbridge.wallet import typed_data

    async with session.wallet_calls() as management:
        account_id = await _find_or_register_account(management, request, wallet)
        at = management.time_ms()
        typed = typed_data.add_orderly_key(
            broker_id=request.broker_id,
            chain_id=request.chain_id,
            orderly_key=orderly_key,
            scope=request.scope,
            timestamp_ms=at,
            expires_ms=at + request.days * typed_data.DAY_MS,
        )
        await management.add_key(typed["message"], wallet.sign(typed), wallet.address)
        key = await _find_registered(management, account_id, orderly_key)
        owner = await management.owner(account_id)
    return {
        "accountId": account_id,
        "wallet": owner.address if owner else wallet.address,
        "brokerId": owner.broker_id if owner else request.broker_id,
        "orderlyKey": orderly_key,
        "scopes": sorted(key.scopes),
        "expiresAt": key.expires_at,
    }


async def _find_or_register_account(management: KeyManagement, request: KeyRequest, wallet: Wallet) -> str:
    """Return the wallet's account at the broker, registering one if needed. Raises ConfigError if it cannot belong to this wallet."""
    from kekbridge.cli import render
    from kekbridge.wallet import signing, typed_data

    account_id = await management.account_of(wallet.address, request.broker_id)
    if account_id is None:
        render.note(f"{wallet.address} has no account at {request.broker_id} yet; registering one first.")
        nonce = await management.registration_nonce()
        typed = typed_data.registration(
            broker_id=request.broker_id, chain_id=request.chain_id, timestamp_ms=management.time_ms(), nonce=nonce
        )
        account_id = await management.register_account(typed["message"], wallet.sign(typed), wallet.address)
    if signing.is_available() and account_id.lower() != signing.account_id(wallet.address, request.broker_id):
        raise ConfigError(
            f"the exchange returned account {account_id[:80]}, which does not belong to {wallet.address} at {request.broker_id};"
            " no key was registered"
        )
    return account_id


async def _find_registered(management: KeyManagement, account_id: str, orderly_key: str) -> KeyInfo:
    """Return the exchange's record of the new key. Raises ExchangeUnavailable when it does not list the key."""
    from kekbridge.errors import ExchangeUnavailable

    key = await management.key(account_id, orderly_key)
    if key is None:
        raise ExchangeUnavailable(
            "exchange_unreachable",
            f"the exchange accepted {orderly_key} but does not list it yet; run `kekbridge keys register` again in a minute",
        )
    return key


def _check_broker(text: str) -> str:
    if not _BROKER_ID.fullmatch(text):
        raise ConfigError(
            f"broker id: found {text[:60]!r}, expected lower-case letters, digits, _ and -, such as kek_ai"
        )
    return text


def _check_scope(text: str) -> str:
    """Return the scopes in the exchange's order. Raises ConfigError for an unknown one, or if read or trading is missing."""
    from kekbridge.wallet.typed_data import SCOPES

    given = {part.strip() for part in text.split(",")}
    if not given <= set(SCOPES) or not {"read", "trading"} <= given:
        raise ConfigError(
            f"--scope: found {text[:60]!r}, expected read,trading (add asset only if the key must move funds)"
        )
    return ",".join(scope for scope in SCOPES if scope in given)


@dataclass(frozen=True, slots=True)
class Wallet:
    """The wallet that signs, here or elsewhere."""

    #: Checksummed address, 0x and 40 hex digits.
    address: str
    #: Private key as hex, to sign here. None: the person signs elsewhere and enters the signature.
    private_key: str | None = field(default=None, repr=False)

    def sign(self, typed: dict[str, Any]) -> str:
        """Return the signature over typed data; one entered is verified if the extra `wallet` is installed. Raises ConfigError."""
        from kekbridge.wallet import signing

        if self.private_key is not None:
            return signing.sign(typed, self.private_key)
        _print_typed_data(typed)
        return _with_retries(lambda: self._read_signature(typed))

    def _read_signature(self, typed: dict[str, Any]) -> str:
        from kekbridge.wallet import signing

        signature = signing.check_signature(read_line(f"Signature of {typed['primaryType']} by {self.address}"))
        if signing.is_available():
            signer = signing.signer_of(typed, signature)
            if signer.lower() != self.address.lower():
                raise ConfigError(
                    f"the signature is by {signer}, not by {self.address}, or the message was changed; nothing was sent"
                )
        return signature


def _choose_wallet(address: str | None, *, sign_here: bool) -> Wallet:
    """Return the wallet named by the options, else ask on a terminal. Raises ConfigError."""
    if address is not None and sign_here:
        raise ConfigError("give --wallet 0x… (sign in the wallet) or --sign (sign here with its key), not both")
    if address is not None:
        return _wallet_at(address)
    if sign_here:
        return _with_retries(_wallet_from_key)
    if not sys.stdin.isatty():
        raise ConfigError("no wallet given; use --wallet 0x… (sign in the wallet) or --sign (sign here with its key)")
    if _prompt_sign_here():
        return _with_retries(_wallet_from_key)
    return _with_retries(lambda: _wallet_at(read_line("Address of the wallet (0x…)")))


def _prompt_sign_here() -> bool:
    """Ask how to sign; signing in the wallet comes first, and is the only choice without the extra `wallet`."""
    from kekbridge.cli import render
    from kekbridge.wallet import signing

    if not signing.is_available():
        render.note("Sign in your wallet. (Signing here needs `pip install 'kekbridge[wallet]'`.)")
        return False
    render.note("How do you want to sign?")
    render.note("  1  in your wallet: sign a printed message there, paste the signature here")
    render.note("  2  here: enter the wallet's private key at a hidden prompt; it is never stored")

    def read_choice() -> bool:
        choice = read_line("1 or 2")
        if choice not in ("1", "2"):
            raise ConfigError(f"found {choice[:20]!r}, expected 1 or 2")
        return choice == "2"

    return _with_retries(read_choice)


def _wallet_at(text: str) -> Wallet:
    from kekbridge.wallet import signing

    return Wallet(signing.check_address(text))


def _wallet_from_key() -> Wallet:
    from kekbridge.wallet import signing

    private_key = read_secret("Private key of the wallet (not stored)")
    return Wallet(signing.address_of(private_key), private_key)


def _with_retries(question: Callable[[], T]) -> T:
    """Return the answer to a question: three attempts on a terminal, one in a script."""
    from kekbridge.cli import render

    for _ in range(_ATTEMPTS - 1 if sys.stdin.isatty() else 0):
        try:
            return question()
        except ConfigError as error:
            render.note(f"{error.message}; try again")
    return question()


def _print_typed_data(typed: dict[str, Any]) -> None:
    """Print the message to sign on stdout, on a line of its own, and the instructions on stderr."""
    from kekbridge.cli import render

    render.note(
        f"Sign this {typed['primaryType']} message in your wallet (eth_signTypedData_v4), then enter the signature:"
    )
    sys.stdout.write(json.dumps(typed, separators=(",", ":")) + "\n")
    sys.stdout.flush()
