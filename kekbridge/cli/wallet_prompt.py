"""Who signs for `keys register`: the trader's wallet, whose signature is pasted, or a private key that is typed hidden, used and dropped.

Named by options, or asked for on a terminal, where a slip of the hand may be mended. No key is ever kept or shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from kekbridge.cli.key_session import read_line, read_secret
from kekbridge.errors import ConfigError

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
