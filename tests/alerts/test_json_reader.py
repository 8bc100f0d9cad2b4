"""Bounds of the JSON parser: nesting, size, text."""

from __future__ import annotations

import sys

import pytest

from kekbridge.alerts.json_reader import read_document
from kekbridge.errors import Unreadable


def test_deep_nesting_is_refused_under_a_raised_recursion_limit() -> None:
    """It is refused before parsing: with a high recursion limit 65,000 brackets would crash the process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(Unreadable) as caught:
            read_document(b"[" * 65_000)
    finally:
        sys.setrecursionlimit(limit)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("inner", ["1", '"x"', "[[[[[[[[[", ""])
def test_a_message_has_at_most_eleven_levels_around_a_value(inner: str) -> None:
    """Brackets inside texts do not count."""
    value = f'"{inner}"' if inner.startswith("[") else inner
    depth = 11 if value else 12  # the innermost may be empty
    read_document(f"{'[' * depth}{value}{']' * depth}".encode())
    with pytest.raises(Unreadable, match="nested too deeply"):
        read_document(f"{'[' * (depth + 1)}{value}{']' * (depth + 1)}".encode())


@pytest.mark.parametrize("body", ['{"a":"\\ud800"}', '{"\\udfff":1}', '[{"a":["x\\ud83d"]}]'])
def test_a_lone_surrogate_is_refused(body: str) -> None:
    """Only an escape can contain one: the body itself is UTF-8. A surrogate pair is a character."""
    with pytest.raises(Unreadable) as caught:
        read_document(body.encode())
    assert caught.value.code == "invalid_encoding"
    assert read_document(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("unit", ['"",', "1,", '"a",', '{"a":1},{"a":2,"b":3,"c":4},'])
def test_thousands_of_values_are_refused_before_parsing(unit: str) -> None:
    """Many small values are the costliest 64 KiB: more than 4,000 commas are refused before parsing."""
    whole = '{"x":[' + unit * (60_000 // len(unit)) + "1]}"
    with pytest.raises(Unreadable, match="commas") as caught:
        read_document(whole.encode())
    assert caught.value.code == "invalid_json"
    assert len(read_document(b'{"x":[' + b"1," * 4000 + b"1]}")["x"]) == 4001  # type: ignore[call-overload]


def test_a_long_field_name_is_refused() -> None:
    """The message shows the beginning of the name, with control characters escaped."""
    with pytest.raises(Unreadable, match="65,000 characters") as caught:
        read_document(b'{"\\u001b[2J' + b"q" * 64_996 + b'":1}')
    assert len(caught.value.message) < 200
    assert "\x1b" not in caught.value.message


def test_an_object_with_too_many_fields_is_refused() -> None:
    """Each field costs time on the event loop, and no alert has that many."""
    body = "{" + ",".join(f'"k{number}":1' for number in range(257)) + "}"
    with pytest.raises(Unreadable, match="257 fields"):
        read_document(body.encode())


# What was sent, what the refusal has to name, and what it must not advise.
DAMAGE = [
    ('{"quantity":0,005}', "a comma inside a number", "comma before"),
    ('{"price":65,000.5,"a":1}', "a comma inside a number", "comma before"),
    ('{"price":65, 000.5,"a":1}', "a comma inside a number", "comma before"),
    ('{"timestamp":1,795,889,173,106,"a":1}', "a comma inside a number", "comma before"),
    ('{"quantity":1 000,"a":1}', "a space inside a number", "comma is missing"),
    ('{"q":.005}', "a number begins with a digit", "0.005"),
    ('{"q":+5}', "a number begins with a digit", "5}"),
    ('{"q":005}', "a number cannot begin with 0", "write 5"),
    ('{"q":5%}', "percents in quotes", "comma"),
    ('{"q":5usd}', "write numbers plain", "comma"),
    ('{"q":}', "the value is missing", "0"),
    ('{"price":,"q":1}', "the value is missing", "comma"),
    ("{apiKey:x,action:buy,quantity:0.005}", "a shell removed them", "comma"),
    ("'{\"a\":1}'", "the Windows shell", "use double"),
    ("{&quot;a&quot;:1}", "&quot;", "comma"),
    ('{"r":True}', "write true in lower case", "quotes"),
    ('{"r":None}', "write null in lower case", "quotes"),
    ('{"s":undefined}', "undefined is no value", "quotes"),
    ('{"s":nan,"a":1}', "nan is no value", "quotes"),
    ('{"a":buy,"b":1}', "a text without quotes", "comma"),
    ('{"s":BTCUSDT.P}', "a text without quotes", "comma"),
    ('{"s":{{ticker}},"a":1}', "a placeholder without quotes", "paste"),
    ('{"s":"x", "q": {{plot_0}}}', "a placeholder without quotes", "paste"),
    ('{{"a":"buy"}}', "the braces around the message are doubled", "placeholder"),
    ("{   BTCUSDT.P,\n buy}", "a name without quotes", "comma"),
    ('"apiKey":"x","action":"buy"}', "the opening brace { is missing", "after the"),
    ('{"a":1,"b":"x"', "the closing brace } is missing", "quote"),
    ('{"a":"b', "the quote at the end of a text is missing", "comma"),
    ("payload=%7B%22a%22", "form-encoded", "key=value"),
    ('{\u00a0"a":1}', "U+00A0 (no-break space)", "quotes"),
    ('{"a":\u00a01}', "U+00A0", "quotes"),
    ('{"a":1\u200b}', "U+200B (zero width space)", "comma"),
    ('{"a":1}\u200b', "U+200B", "after the end"),
    ('{"a":1} #bot', "text after the end of the message", "comma"),
    ('{"a":[1,2,]}', "ends in a comma: remove it", "inside a number"),
    ('{"a":"\\d"}', "a backslash", "comma"),
]


@pytest.mark.parametrize(("body", "named", "unnamed"), DAMAGE, ids=[row[0] for row in DAMAGE])
def test_each_damage_is_named(body: str, named: str, unnamed: str) -> None:
    """The cause, not its consequence; and nothing that would make another number of what was meant."""
    with pytest.raises(Unreadable) as caught:
        read_document(body.encode())
    assert caught.value.code == "invalid_json"
    hint = caught.value.message.split(": ", 1)[-1].partition("; ")
    assert named in caught.value.message
    assert unnamed not in (hint[2] or hint[0])


def test_a_signal_code_is_a_message() -> None:
    """WunderTrading's alerts are plain text; other text is none."""
    assert read_document(b"ENTER-LONG_Bybit_ETHUSDT_my bot_15M_8e34") == {
        "code": "ENTER-LONG_Bybit_ETHUSDT_my bot_15M_8e34"
    }
    for text in (b"ENTER-LONG", b"ENTER-LONG_x\n{}", b"enter long now", b"EXIT-ALL_" + b"a" * 300):
        with pytest.raises(Unreadable):
            read_document(text)
