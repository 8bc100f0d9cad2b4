"""Fields of forms: what was entered is kept and escaped, what is wrong is read with its input, labels stand for options."""

from __future__ import annotations

import pytest

from kekbridge.admin.fields import Field, error_of, field_element, fields_element, in_labels, not_saved

LABELS = {"--max-notional": "Largest order value", "--require-timestamp": "Timestamp required"}


@pytest.mark.parametrize(
    "field",
    [
        Field(name="size", label="Size", value='"><b>', error="<i>wrong", help="In <coins>"),
        Field(name="size", label="Size", value='"><b>', error="<i>wrong", help="In <coins>", rows=3),
    ],
    ids=["line", "area"],
)
def test_an_entry_is_kept_as_text(field: Field) -> None:
    """Never as markup; label, error and help belong to the input for those who cannot see the page, too."""
    shown = str(field_element(field))
    assert "<b>" not in shown
    assert "<i>" not in shown
    assert "<coins>" not in shown
    assert 'for="field-size"' in shown
    assert 'aria-describedby="field-size-error field-size-help"' in shown
    assert 'aria-invalid="true"' in shown


def test_a_choice_that_does_not_exist_stays_until_it_is_corrected() -> None:
    """A list would otherwise show its first choice, as if that had been entered."""
    field = Field(name="unit", label="Unit", value="pounds", choices=(("", "coins"), ("usd", "USDC")), error="unknown")
    assert '<option value="pounds" selected>pounds</option>' in str(field_element(field))
    assert "pounds" not in str(field_element(Field(name="unit", label="Unit", choices=(("", "coins"),))))


def test_the_first_wrong_field_has_the_focus() -> None:
    """Only the first: a page has one focus."""
    fields = [Field(name="a", label="A"), Field(name="b", label="B", error="x"), Field(name="c", label="C", error="y")]
    shown = str(fields_element(fields))
    assert shown.count("autofocus") == 1
    assert 'id="field-b" name="b" autofocus' in shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--max-notional: found 'x'", "“Largest order value”: found 'x'"),
        ("use a webhook with --no-require-timestamp", "use a webhook with “Timestamp required: no”"),
        ("run `kekbridge webhook edit NAME --max-notional 5`", "run `kekbridge webhook edit NAME --max-notional 5`"),
        ("add --unheard-of", "add --unheard-of"),
    ],
)
def test_labels_stand_for_options(text: str, words: str) -> None:
    """A page has no options; a command that it names stays one."""
    assert in_labels(text, LABELS) == words


def test_an_error_under_its_field_does_not_repeat_its_name() -> None:
    """The label is right above it."""
    assert error_of("--max-notional: found 'x', expected 1", "--max-notional", LABELS) == "Found 'x', expected 1"


def test_a_form_says_how_much_is_wrong() -> None:
    """Nothing wrong, nothing said."""
    assert not_saved(0) is None
    assert "1 field is wrong." in str(not_saved(1))
    assert "2 fields are wrong." in str(not_saved(2))
    assert "<p>no order could pass</p>" in str(not_saved(0, "no order could pass"))
