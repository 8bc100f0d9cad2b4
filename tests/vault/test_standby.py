"""What is sealed for a standby opens there and nowhere else; a word with a typing error is refused before anything is sealed."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kekbridge.errors import VaultError
from kekbridge.vault.standby import new_private_key, open_sealed, request_text, seal

PRIVATE = bytes(range(32))
WORD = request_text(PRIVATE)


@settings(max_examples=50, deadline=None)
@given(secret=st.binary(max_size=3000))
def test_what_is_sealed_opens_on_the_standby(secret: bytes) -> None:
    """Any bytes, also when a mail program has wrapped the lines in spaces and CRLF; each sealing is another text."""
    text = seal(f"  {WORD}\n", secret)
    assert open_sealed(PRIVATE, text) == secret
    assert open_sealed(PRIVATE, "Hi,\r\n" + text.replace("\n", "  \r\n") + "bye") == secret
    assert seal(WORD, secret) != text


def test_another_machine_cannot_open_it() -> None:
    """The error says what to do and quotes nothing."""
    with pytest.raises(VaultError, match="for another machine"):
        open_sealed(new_private_key(), seal(WORD, b"master"))


MISTYPED = (
    "",
    "kb-standby-",
    WORD[:-1],
    WORD.replace(WORD[20], "1" if WORD[20] != "1" else "2"),
    WORD.removeprefix("kb-standby-"),
    WORD.upper(),
    "kb-standby-0OIl",
    "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj",
)


@pytest.mark.parametrize("word", MISTYPED)
def test_a_mistyped_word_seals_nothing(word: str) -> None:
    """The checksum finds every single error; nothing is sealed to a key that nobody has."""
    with pytest.raises(VaultError, match="replica prepare"):
        seal(word, b"master")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_text_is_refused(data: st.DataObject) -> None:
    """Cut, or with one character exchanged: an error, never other bytes."""
    text = seal(WORD, b"master key")
    at = data.draw(st.integers(0, len(text) - 2))
    changed = text[:at] if data.draw(st.booleans()) else text[:at] + "#" + text[at + 1 :]
    assume("".join(changed.split()) != "".join(text.split()))  # else only a line break was exchanged
    with pytest.raises(VaultError) as refused:
        open_sealed(PRIVATE, changed)
    assert "master key" not in refused.value.message


def test_the_word_is_not_the_private_key() -> None:
    """It is printed on a screen."""
    assert PRIVATE.hex() not in WORD
    assert new_private_key() != new_private_key()
