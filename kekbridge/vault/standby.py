"""Hand secrets to a second machine: it names a public key, and what is sealed to that key opens on that machine only.

The public key is printed for a person to copy, with a checksum. The sealed text may be copied over any channel: libsodium's sealed box
(X25519, XSalsa20-Poly1305). It does not prove who sealed it, so the second machine shows what it was given before it uses it.
"""

from __future__ import annotations

import base64
import binascii
import textwrap
from typing import Final

import base58
import nacl.exceptions
from nacl.public import PrivateKey, PublicKey, SealedBox

from kekbridge.errors import VaultError

#: Name in the vault of the standby's private key.
STANDBY_KEY: Final = "standby-key"
#: Name in the vault of the other machine's master key, which opens what its database has sealed.
OTHER_MASTER_KEY: Final = "primary-master-key"
_REQUEST: Final = "kb-standby-"
_BEGIN: Final = "-----BEGIN KEKBRIDGE STANDBY-----"
_END: Final = "-----END KEKBRIDGE STANDBY-----"
_WIDTH: Final = 72
#: No sealed text is longer; characters.
MOST_CHARACTERS: Final = 200_000


def new_private_key() -> bytes:
    """A new private key, 32 bytes."""
    return bytes(PrivateKey.generate())


def request_text(private_key: bytes) -> str:
    """The public key for the other machine, as one word with a checksum. It is no secret."""
    public = bytes(PrivateKey(private_key).public_key)
    return _REQUEST + base58.b58encode_check(public).decode("ascii")


def seal(request: str, secret: bytes) -> str:
    """Seal bytes to the machine that made a request, as text. Raises VaultError for a mistyped request."""
    word = request.strip()
    try:
        public = base58.b58decode_check(word.removeprefix(_REQUEST)) if word.startswith(_REQUEST) else b""
    except ValueError:
        public = b""
    if len(public) != PublicKey.SIZE:
        raise VaultError(
            f"found {word[:60]!r}, expected the word that `kekbridge replica prepare` prints on the standby ({_REQUEST}…)"
        )
    sealed = SealedBox(PublicKey(public)).encrypt(secret)
    lines = textwrap.wrap(base64.b64encode(sealed).decode("ascii"), _WIDTH)
    return "\n".join((_BEGIN, *lines, _END)) + "\n"


def open_sealed(private_key: bytes, text: str) -> bytes:
    """Open what `seal` returned, on the machine that made the request. Raises VaultError, without quoting it."""
    _, begin, rest = text.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end or len(text) > MOST_CHARACTERS:
        raise VaultError(
            f"the sealed text is not whole: expected all lines from {_BEGIN} to {_END}, as `kekbridge replica seal` prints them"
        )
    try:
        return SealedBox(PrivateKey(private_key)).decrypt(base64.b64decode("".join(body.split()), validate=True))
    except (nacl.exceptions.CryptoError, binascii.Error, ValueError):
        raise VaultError(
            "the sealed text cannot be opened here: it was sealed for another machine, or changed on its way; seal it again with the word"
            " that `kekbridge replica prepare` prints on this machine"
        ) from None
