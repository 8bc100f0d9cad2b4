"""`kekbridge keys register`: register the generated key for the wallet's account, signed by the wallet (EIP-712).

A wallet without an account at the broker gets one first. `Wallet` signs here with a private key, or prints the message to sign
elsewhere and reads the signature.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

import typer

from kekbridge.cli.key_session import KeySession, Venue, key_session, read_line, read_secret
from kekbridge.cli.options import ConfigFile, DataDir, Json
from kekbridge.errors import ConfigError

T = TypeVar("T")

_ATTEMPTS: Final = 3
_SCOPE: Final = "read,trading"
_MOST_DAYS: Final = 365

WalletAddress = Annotated[
    str | None,
    typer.Option("--wallet", metavar="0x…", help="Address of the wallet; you sign in it.", show_default=False),
]
SignHere = Annotated[
    bool, typer.Option("--sign", help="Sign here: hidden prompt for the wallet's private key (extra `wallet`).")
]
Browser = Annotated[
    bool, typer.Option("--browser", help="Sign in a wallet of your browser: prints a link to a page on this machine.")
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
Days = Annotated[int, typer.Option("--days", metavar="N", min=1, max=_MOST_DAYS, help="Days until the key expires.")]


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """The key to register."""

    #: Broker of the account, such as kek_ai.
    broker_id: str
    #: Chain id that the wallet signs for; None: the venue's usual one.
    chain_id: int | None
    #: Scopes, comma-separated, in the exchange's order.
    scope: str
    #: Days until the key expires, 1 to 365.
    days: int


def register(
    ctx: typer.Context,
    wallet: WalletAddress = None,
    sign_here: SignHere = False,
    browser: Browser = False,
    mode: Venue = None,
    broker: Broker = None,
    chain: Chain = None,
    scope: Scope = _SCOPE,
    days: Days = _MOST_DAYS,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Register the generated key; your wallet signs it.

    A wallet without an account gets one first. --wallet prints the message to sign (eth_signTypedData_v4) and reads the signature; --sign
    reads the wallet's private key from a hidden prompt and never stores it. --browser generates a key, too, and prints a link to a page on
    this machine where a wallet of your browser signs. Without any of them, a terminal asks which.
    """
    from kekbridge.cli.context import keep_vaults_open
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.key_registration import check_scope
    from kekbridge.ops.vault_operations import ShowPendingKey

    session = key_session(ctx, data_dir, config, mode, None, needs_account=False)
    request = KeyRequest(broker_id=broker or session.broker_id, chain_id=chain, scope=check_scope(scope), days=days)
    with keep_vaults_open():
        if browser:
            if wallet or sign_here or chain or (request.scope, days) != (_SCOPE, _MOST_DAYS):
                raise ConfigError(
                    "with --browser, wallet and days are chosen on the page; only --broker can be given with it"
                )
            registered = _register_in_browser(session, request)
        else:
            show = ShowPendingKey(mode=session.mode, account_id=session.account_id)
            run_operation(session.context, show)  # without one there is nothing to ask
            registered = _register(session, request, _choose_wallet(wallet, sign_here=sign_here))
    _print(session, registered, as_json=as_json)


_ROWS = (
    ("account", "accountId"),
    ("wallet", "wallet"),
    ("broker", "brokerId"),
    ("public key", "orderlyKey"),
    ("scopes", "scopes"),
    ("expires", "expiresAt"),
)


def _print(session: KeySession, registered: dict[str, Any], *, as_json: bool) -> None:
    """Print what was registered, and what comes next."""
    from kekbridge.cli import render

    if as_json:
        render.as_json(registered)
        return
    render.pairs([(name, registered[key]) for name, key in _ROWS])
    render.note(
        f'To trade with it, set  mode = "{session.mode.value}"  and  [exchange] account_id = "{registered["accountId"]}"'
    )
    render.note("Restrict it to this machine:  kekbridge keys restrict-ip --here")


def _register_in_browser(session: KeySession, request: KeyRequest) -> dict[str, Any]:
    """Serve the page of a wallet until it has registered a key; return the result for JSON."""
    import asyncio

    from kekbridge.admin.wallet_server import WalletServer
    from kekbridge.cli import render
    from kekbridge.cli.context import now
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.operation import Operation
    from kekbridge.ops.vault_operations import ShowVault

    run_operation(session.context, ShowVault())  # asks for a passphrase here and now, if it needs one

    async def run(operation: Operation) -> Any:
        return await asyncio.to_thread(run_operation, session.context, operation)

    async def serve() -> dict[str, Any]:
        server = WalletServer(run, session.mode, request.broker_id, clock=now)
        try:
            link = await server.start(session.context.settings.admin.port)
            render.note(
                f"Open this link in the browser that has your wallet (it works once; from elsewhere, through an SSH tunnel):\n{link}"
            )
            return await server.registered()
        finally:
            await server.close()

    registered = asyncio.run(serve())
    return {name: registered[name] for _, name in _ROWS}


def _register(session: KeySession, request: KeyRequest, wallet: Wallet) -> dict[str, Any]:
    """Have the wallet sign, first for a new account if it has none, then for the key; return the result for JSON."""
    from kekbridge.cli import render
    from kekbridge.wallet.typed_data import REGISTRATION

    messages = _prepare(session, request, wallet)
    if messages and messages[0]["primaryType"] == REGISTRATION:
        render.note(f"{wallet.address} has no account at {request.broker_id} yet; registering one first.")
        # On its own: its nonce is valid for two minutes, which may not suffice to sign two messages elsewhere.
        _send(session, request, wallet, messages[:1])
        messages = _prepare(session, request, wallet)
    registered = _send(session, request, wallet, messages)
    return {name: registered[name] for _, name in _ROWS}


def _prepare(session: KeySession, request: KeyRequest, wallet: Wallet) -> list[dict[str, Any]]:
    """The messages that the wallet has to sign."""
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.key_registration import PrepareKey

    operation = PrepareKey(
        mode=session.mode,
        wallet=wallet.address,
        broker_id=request.broker_id,
        chain_id=request.chain_id,
        scope=request.scope,
        days=request.days,
    )
    messages: list[dict[str, Any]] = run_operation(session.context, operation)["messages"]
    return messages


def _send(session: KeySession, request: KeyRequest, wallet: Wallet, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Have the messages signed, and send them."""
    from kekbridge.cli.control import run_operation
    from kekbridge.ops.key_registration import RegisterKey, SignedMessage

    signed = tuple(SignedMessage(message=each["message"], signature=wallet.sign(each)) for each in messages)
    operation = RegisterKey(mode=session.mode, wallet=wallet.address, broker_id=request.broker_id, signed=signed)
    result: dict[str, Any] = run_operation(session.context, operation)
    return result


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
