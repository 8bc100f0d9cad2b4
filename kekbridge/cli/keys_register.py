"""`kekbridge keys register`: adds the generated key to the wallet's account, signed by the wallet (EIP-712).

First the account, where the wallet has none, then the key. Who signs, and how, is wallet_prompt.py's.
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
    from kekbridge.vault import OpenVault


_BROKER = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)

WalletAddress = Annotated[
    str | None, typer.Option("--wallet", metavar="0x…", help="The wallet's address.", show_default=False)
]
SignHere = Annotated[
    bool, typer.Option("--sign", help="Ask for the wallet's private key, hidden, and sign here (extra `wallet`).")
]
Broker = Annotated[
    str | None,
    typer.Option("--broker", metavar="ID", help="Default: exchange.broker_id.", show_default=False),
]
Chain = Annotated[
    int | None,
    typer.Option(
        "--chain",
        metavar="ID",
        min=1,
        help="Chain of the wallet. Default: Arbitrum, or its test network.",
        show_default=False,
    ),
]
Scope = Annotated[str, typer.Option("--scope", metavar="LIST", help="What the key may do.")]
Days = Annotated[int, typer.Option("--days", metavar="N", min=1, max=365, help="For how long.")]


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What the key shall be."""

    broker_id: str
    chain_id: int
    scope: str
    days: int


def register(
    context: typer.Context,
    wallet: WalletAddress = None,
    is_signed_here: SignHere = False,
    mode: Venue = None,
    broker: Broker = None,
    chain: Chain = None,
    scope: Scope = "read,trading",
    days: Days = 365,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Add the key of `keys generate` to your account; your wallet signs it. A wallet without an account gets one first.

    With --wallet the message is printed (eth_signTypedData_v4) and its signature read back; with --sign the wallet's key is asked for,
    hidden, and never kept. On a terminal you are asked which.
    """
    from kekbridge.cli import render
    from kekbridge.wallet import typed_data

    place = key_session(context, data_dir, config, mode, None, needs_account=False)
    wanted = KeyRequest(
        broker_id=_check_broker(broker or place.workspace.settings.exchange.broker_id),
        chain_id=chain or typed_data.CHAINS[place.mode.value],
        scope=_check_scope(scope),
        days=days,
    )
    vault = place.vault
    secret, is_pending = _secret_to_register(place, vault)
    signing_wallet = choose_wallet(wallet, is_signed_here=is_signed_here)
    shown = asyncio.run(_register(place, wanted, signing_wallet, secret))
    if is_pending:
        _keep(place, vault, shown["accountId"], secret, shown["orderlyKey"])
    if as_json:
        render.as_json(shown)
        return
    render.pairs([(name, shown[key]) for name, key in _SHOWN])
    render.note(
        f'To trade with it, set  mode = "{place.mode.value}"  and  [exchange] account_id = "{shown["accountId"]}"'
    )
    render.note("Tie it to this machine:  kekbridge keys restrict-ip --here")


_SHOWN = (
    ("account", "accountId"),
    ("wallet", "wallet"),
    ("broker", "brokerId"),
    ("public key", "orderlyKey"),
    ("scopes", "scopes"),
    ("expires", "expiresAt"),
)


async def _register(place: KeySession, wanted: KeyRequest, wallet: Wallet, secret: str) -> dict[str, Any]:
    """The whole conversation with the exchange; returns what it then says about the key."""
    from kekbridge.exchange.orderly.key_management import NO_ACCOUNT
    from kekbridge.exchange.orderly.signing import Signer
    from kekbridge.wallet import typed_data

    signer = Signer(NO_ACCOUNT, secret)
    async with place.desk(signer) as desk:
        account_id = await _account(desk, wanted, wallet)
        at = desk.time_ms()
        typed = typed_data.add_orderly_key(
            broker_id=wanted.broker_id,
            chain_id=wanted.chain_id,
            orderly_key=signer.orderly_key,
            scope=wanted.scope,
            timestamp_ms=at,
            expires_ms=at + wanted.days * typed_data.DAY_MS,
        )
        await desk.add_key(typed["message"], wallet.sign(typed), wallet.address)
        key = await _added(desk, account_id, signer.orderly_key)
        owner = await desk.owner(account_id)
    return {
        "accountId": account_id,
        "wallet": owner.address if owner else wallet.address,
        "brokerId": owner.broker_id if owner else wanted.broker_id,
        "orderlyKey": signer.orderly_key,
        "scopes": sorted(key.scopes),
        "expiresAt": key.expires_at,
    }


async def _account(desk: KeyManagement, wanted: KeyRequest, wallet: Wallet) -> str:
    """The wallet's account at the broker, registered now if there is none. Raises ConfigError when it cannot be this wallet's."""
    from kekbridge.cli import render
    from kekbridge.errors import ConfigError
    from kekbridge.wallet import signing, typed_data

    account_id = await desk.account_of(wallet.address, wanted.broker_id)
    if account_id is None:
        render.note(f"{wallet.address} has no account at {wanted.broker_id} yet; it is registered first.")
        nonce = await desk.registration_nonce()
        typed = typed_data.registration(
            broker_id=wanted.broker_id, chain_id=wanted.chain_id, timestamp_ms=desk.time_ms(), nonce=nonce
        )
        account_id = await desk.register_account(typed["message"], wallet.sign(typed), wallet.address)
    if signing.is_available() and account_id.lower() != signing.account_id(wallet.address, wanted.broker_id):
        raise ConfigError(
            f"the exchange names the account {account_id[:80]}, which is not that of {wallet.address} at {wanted.broker_id};"
            " no key was added"
        )
    return account_id


async def _added(desk: KeyManagement, account_id: str, orderly_key: str) -> KeyInfo:
    """What the exchange says about the key that it just took. Raises ExchangeUnavailable when it does not know it."""
    from kekbridge.errors import ExchangeUnavailable

    key = await desk.key(account_id, orderly_key)
    if key is None:
        raise ExchangeUnavailable(
            "exchange_unreachable",
            f"the exchange took {orderly_key} and does not show it yet; run `kekbridge keys register` again in a minute",
        )
    return key


def _secret_to_register(place: KeySession, vault: OpenVault) -> tuple[str, bool]:
    """The generated key, or the one that a read-only vault holds for the account; and whether it still waits for its account."""
    from kekbridge.cli import exchange_keys
    from kekbridge.errors import NotFound
    from kekbridge.vault import orderly_secret

    pending = vault.get(exchange_keys.PENDING)
    if pending is not None:
        return pending.decode(), True
    placed = None if vault.is_writable else vault.get(orderly_secret(place.account_id))
    if placed is None:
        raise NotFound("key_missing", "there is no key to register; make one with `kekbridge keys generate`")
    return placed.decode().strip(), False


def _keep(place: KeySession, vault: OpenVault, account_id: str, secret: str, orderly_key: str) -> None:
    """The key belongs to its account now: under its name first, and only then no longer pending."""
    from kekbridge.cli import exchange_keys
    from kekbridge.vault import orderly_secret

    vault.set(orderly_secret(account_id), secret.encode())
    vault.delete(exchange_keys.PENDING)
    place.remember(orderly_key, account_id)


def _check_broker(text: str) -> str:
    from kekbridge.errors import ConfigError

    if not _BROKER.fullmatch(text):
        raise ConfigError(
            f"broker id: found {text[:60]!r}, expected lower-case letters, digits, _ and -, such as kek_ai"
        )
    return text


def _check_scope(text: str) -> str:
    """Scopes in the exchange's own order. Raises ConfigError for an unknown one, or when trading would be impossible."""
    from kekbridge.errors import ConfigError
    from kekbridge.wallet.typed_data import SCOPES

    given = {part.strip() for part in text.split(",")}
    if not given <= set(SCOPES) or not {"read", "trading"} <= given:
        raise ConfigError(f"--scope: found {text[:60]!r}, expected read,trading (and asset only if it must move funds)")
    return ",".join(scope for scope in SCOPES if scope in given)


T = TypeVar("T")

_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Wallet:
    """Who signs: an address, and its private key if that was entered (else the signature is)."""

    address: str
    private_key: str | None = field(default=None, repr=False)

    def sign(self, typed: dict[str, Any]) -> str:
        """The wallet's signature over typed data; checked where the extra `wallet` is installed. Raises ConfigError."""
        from kekbridge.wallet import signing

        if self.private_key is not None:
            return signing.sign(typed, self.private_key)
        _print_typed_data(typed)
        return _asked(lambda: self._read_signature(typed))

    def _read_signature(self, typed: dict[str, Any]) -> str:
        from kekbridge.wallet import signing

        signature = signing.check_signature(read_line(f"Signature of {typed['primaryType']} by {self.address}"))
        if signing.is_available():
            found = signing.signer_of(typed, signature)
            if found.lower() != self.address.lower():
                raise ConfigError(
                    f"the signature is of {found}, not of {self.address}, or the message was changed; nothing was sent"
                )
        return signature


def choose_wallet(address: str | None, *, is_signed_here: bool) -> Wallet:
    """The wallet that the options name; without them the one that is asked for on a terminal. Raises ConfigError."""
    if address is not None and is_signed_here:
        raise ConfigError("give --wallet 0x… (you sign there) or --sign (you enter its key here), not both")
    if address is not None:
        return _of_address(address)
    if is_signed_here:
        return _asked(_of_key)
    if not sys.stdin.isatty():
        raise ConfigError(
            "name the wallet that signs: --wallet 0x… (you sign there), or --sign (you enter its key here)"
        )
    if _wants_to_sign_here():
        return _asked(_of_key)
    return _asked(lambda: _of_address(read_line("Address of the wallet (0x…)")))


def _wants_to_sign_here() -> bool:
    """Which of the two ways; the one that shows kekbridge no key is offered first, and is the only one without the extra."""
    from kekbridge.cli import render
    from kekbridge.wallet import signing

    if not signing.is_available():
        render.note("You sign in your wallet (signing here needs `pip install 'kekbridge[wallet]'`).")
        return False
    render.note("Who signs?")
    render.note("  1  your wallet: you get a message to sign there, and paste its signature here")
    render.note("  2  this command: you enter the wallet's private key, hidden; it is used once and kept nowhere")

    def choice() -> bool:
        found = read_line("1 or 2")
        if found not in ("1", "2"):
            raise ConfigError(f"found {found[:20]!r}, expected 1 or 2")
        return found == "2"

    return _asked(choice)


def _of_address(text: str) -> Wallet:
    from kekbridge.wallet import signing

    return Wallet(signing.check_address(text))


def _of_key() -> Wallet:
    from kekbridge.wallet import signing

    private_key = read_secret("Private key of the wallet (not kept)")
    return Wallet(signing.address_of(private_key), private_key)


def _asked(question: Callable[[], T]) -> T:
    """The answer; somebody at a terminal gets three tries, a script one."""
    from kekbridge.cli import render

    for _ in range(_TRIES - 1 if sys.stdin.isatty() else 0):
        try:
            return question()
        except ConfigError as error:
            render.note(f"{error.message}; try again")
    return question()


def _print_typed_data(typed: dict[str, Any]) -> None:
    """The message on stdout, alone on its line, for whoever passes it to a wallet; what to do with it on stderr."""
    from kekbridge.cli import render

    render.note(
        f"Sign this with your wallet (eth_signTypedData_v4), then enter the signature. It is {typed['primaryType']}:"
    )
    sys.stdout.write(json.dumps(typed, separators=(",", ":")) + "\n")
    sys.stdout.flush()
