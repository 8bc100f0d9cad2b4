"""Redaction of stored messages: secrets, control characters and size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.redaction import clip, redact, shorten_secret
from kekbridge.formatting import holds_credential

SECRET = "wh_live_0123456789abcdefghij"
ODD = "oddSecret0123456789"  # a secret that no pattern matches
_TEXTS = st.lists(
    st.one_of(
        st.sampled_from([SECRET, ODD, "whs_abcdefgh", "ed25519:abcdefgh", "wh", "\x00", "\u202e", "x" * 101]),
        st.text(max_size=9),
    ),
    max_size=4,
).map("".join)


@given(_TEXTS, st.sampled_from([None, ODD, SECRET]))
def test_no_secret_and_no_control_character_is_stored(text: str, secret: str | None) -> None:
    """Neither in values nor in names, whether or not the text takes the fast path."""
    stored = redact({"comment": text, text: "1"}, secret=secret)
    for shown in (*stored, *(value for value in stored.values() if isinstance(value, str))):
        assert shown.isprintable()
        assert len(shown) <= 500
        assert SECRET[:13] not in shown
        assert secret is None or secret not in shown
    if text.isascii() and text.isprintable() and not holds_credential(text) and ODD not in text and len(text) <= 64:
        assert stored["comment"] == text
        assert text in stored


def test_a_name_is_redacted_by_the_secret_of_its_own_message() -> None:
    """The cache of shown names does not carry over from one message to another."""
    assert list(redact({ODD: 1}, secret=None)) == [ODD]
    assert list(redact({ODD: 1}, secret=ODD)) == [shorten_secret(ODD)]
    assert list(redact({ODD: 1}, secret=None)) == [ODD]


def test_long_texts_are_cut_and_the_budget_holds() -> None:
    """At most 500 characters of a text and 16 KiB of a message are stored; of the last texts only the mark may remain."""
    assert redact({"a": "x" * 501}, secret=None)["a"] == clip("x" * 501, 500)
    stored = redact({f"n{number}": "y" * 90 for number in range(400)}, secret=None)
    assert sum(len(name) + len(value) + 8 for name, value in stored.items()) <= 16_384 + 100
    assert list(stored)[-1] == "…"
