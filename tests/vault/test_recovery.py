"""The recovery code: complete, checked against typing errors, and the only way to the master key in a backup."""

from __future__ import annotations

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.errors import VaultError
from kekbridge.vault import BackupKey, Sealer

MASTER = bytes(range(32))
masters = st.binary(min_size=32, max_size=32)


@given(masters)
def test_the_code_brings_the_same_key_back(master: bytes) -> None:
    """And with it the master key that is sealed in a backup."""
    key = BackupKey.from_master(master)
    again = BackupKey.from_code(key.code)
    assert again.id == key.id
    assert again.code == key.code
    assert again.mac().hexdigest() == key.mac().hexdigest()
    assert again.open_master(key.sealed_master or b"") == master


@pytest.mark.parametrize(
    ("old", "new"), [("-", ""), ("-", " "), ("0", "O"), ("0", "o"), ("1", "I"), ("1", "l")], ids=repr
)
def test_how_it_is_typed_does_not_matter(old: str, new: str) -> None:
    """Case, dashes and spaces, and the letters that look like digits."""
    keys = (BackupKey.from_master(bytes([number]) * 32) for number in range(99))
    key = next(key for key in keys if {"0", "1"} <= set(key.code))
    typed = key.code.replace(old, new)
    assert typed != key.code
    for text in (typed, typed.lower(), f" {typed}\n"):
        assert BackupKey.from_code(text).id == key.id


def id_of(text: str) -> str:
    """The id of the key that a code stands for; a reason if it is none."""
    try:
        return BackupKey.from_code(text).id
    except VaultError as error:
        return error.message


@given(place=st.integers(0, 64), character=st.sampled_from(string.ascii_uppercase + string.digits))
def test_a_typing_error_is_found(place: int, character: str) -> None:
    """Any one character replaced is the same code, or an error that does not quote it; never another key."""
    key = BackupKey.from_master(MASTER)
    found = id_of(key.code[:place] + character + key.code[place + 1 :])
    assert found == key.id or ("recovery code" in found and key.code[:11] not in found)


@pytest.mark.parametrize("text", ["", "x", "é" * 55, "U" * 55, "0" * 55, "0" * 54, "0" * 56])
def test_what_is_no_code_is_refused(text: str) -> None:
    """With the length that is expected, or the typing error."""
    with pytest.raises(VaultError, match="recovery code"):
        BackupKey.from_code(text)


def test_keys_of_different_masters_have_nothing_in_common() -> None:
    """Neither code, MAC nor seal; and the backup's key says nothing of the keys that seal webhooks."""
    one, other = BackupKey.from_master(MASTER), BackupKey.from_master(b"m" * 32)
    assert one.id != other.id
    assert one.mac().digest() != other.mac().digest()
    with pytest.raises(VaultError, match="cannot be opened"):
        other.open_master(one.sealed_master or b"")
    assert MASTER not in (one.sealed_master or b"")


def test_a_code_must_fit_the_master_key_that_it_opens() -> None:
    """A forger who knows one code cannot put another master key under it."""
    key = BackupKey.from_master(MASTER)
    forged = bytes(key._box.encrypt(b"z" * 32))
    with pytest.raises(VaultError, match="not the one"):
        key.open_master(forged)


def test_it_does_not_show_itself() -> None:
    """Not in a repr, not in a pickle; the sealer hands it out, not the key that it comes from."""
    key = Sealer(MASTER).backup_key
    assert key.id == BackupKey.from_master(MASTER).id
    assert repr(key) == f"BackupKey({key.id})"
    with pytest.raises(TypeError):
        pickle.dumps(key)
