"""Log lines contain no secrets and cannot be forged or broken by outside text."""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import UTC, datetime
from decimal import Decimal
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge import log
from kekbridge.formatting import escape_unprintable, redact_secrets
from kekbridge.model import Mode
from kekbridge.webhooks.registry import new_credentials
from tests.standard_webhooks import standard_webhooks_secret

API_KEY, API_SECRET = new_credentials(Mode.LIVE)
ED25519_SECRET = "3yZe7d9sT4L1f8qWmKp2xVbNcRgHjUe5oAiD6QwXzYt"  # base58, 43 characters, made up
TEMPLATE_SIGNATURE = "v1:action,apiKey,quantity,symbol:" + "ab" * 32


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "secret",
    [
        API_KEY,
        API_SECRET,
        standard_webhooks_secret(API_SECRET),
        f"ed25519:{ED25519_SECRET}",
        ED25519_SECRET,
        TEMPLATE_SIGNATURE,
        "sha256=" + "0f" * 32,
    ],
    ids=["api_key", "api_secret", "standard_webhooks", "ed25519", "base58", "template_signature", "hmac"],
)
def test_credentials_are_redacted_everywhere(secret: str, form: str) -> None:
    """Credentials are shortened in messages, values, nested values and exception texts."""
    stream = io.StringIO()
    log.configure("debug", form, stream)
    logger = log.get_logger("test")
    logger.info(f"got {secret}", plain=f"x {secret} y", nested={"inner": [secret, {"deep": secret}]}, **{secret: 1})
    try:
        raise ValueError(f"cannot use {secret}")
    except ValueError:
        logger.exception("failed")
    logging.getLogger("some.library").warning("header: %s", secret)
    core = secret.rpartition(":")[2].rpartition("_")[2].rpartition("=")[2] or secret
    written = stream.getvalue()
    assert written.count("\n") >= 3
    assert core[6:] not in written


@pytest.mark.parametrize(
    "name",
    ["apiKey", "api_key", "X-Api-Key", "signature", "secret", "Authorization", "passphrase", "orderly-signature"],
)
def test_values_under_secret_names_are_never_shown(name: str) -> None:
    """A value under a secret's name is redacted, whatever it looks like, also inside a payload."""
    stream = io.StringIO()
    log.configure("info", "json", stream)
    log.get_logger("test").info("event", **{name: "hunter2"}, payload={name: "hunter2", "symbol": "BTCUSDT"})
    assert "hunter2" not in stream.getvalue()
    assert lines_of(stream)[0]["payload"] == {name: "[redacted]", "symbol": "BTCUSDT"}


def test_tracebacks_have_no_locals() -> None:
    """A traceback has no values of variables, which may be keys."""
    stream = io.StringIO()
    log.configure("info", "text", stream)
    unrelated = "value-" + "of-a-local"
    try:
        raise RuntimeError(str(len(unrelated)))
    except RuntimeError:
        log.get_logger("test").exception("failed")
    assert "RuntimeError: 16" in stream.getvalue()
    assert "value-of-a-local" not in stream.getvalue()


@given(st.text(alphabet=st.characters(), max_size=200))
def test_outside_text_cannot_add_lines_or_escapes(text: str) -> None:
    """One event is one line, without control, direction or surrogate characters."""
    for form in ("text", "json"):
        stream = io.StringIO()
        log.configure("info", form, stream)
        log.get_logger("test").info("event", comment=text, **{"k" + text: 1})
        written = stream.getvalue()
        assert written.endswith("\n")
        assert written.count("\n") == 1
        assert not [c for c in written[:-1] if ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000]


def test_a_value_cannot_forge_a_field() -> None:
    """In text lines a value with spaces, quotes or equals signs is quoted."""
    stream = io.StringIO()
    log.configure("info", "text", stream)
    log.get_logger("test").info("event", comment='x http_status=200 "admin"')
    assert r'comment="x http_status=200 \"admin\""' in stream.getvalue()


def test_symbols_and_ids_stay_readable() -> None:
    """Ids, symbols, amounts and account ids, which operators search for, are not redacted."""
    stream = io.StringIO()
    log.configure("info", "json", stream)
    account = "0x" + "1f" * 32
    log.get_logger("test").info(
        "order",
        client_order_id="kb-01JQXW8M5E3N2C7V9B4K6T0R00",
        symbol="PERP_BTC_USDC",
        account=account,
        price=Decimal("65000.10"),
    )
    line = lines_of(stream)[0]
    assert line["client_order_id"] == "kb-01JQXW8M5E3N2C7V9B4K6T0R00"
    assert line["symbol"] == "PERP_BTC_USDC"
    assert line["account"] == account
    assert line["price"] == "65000.10"
    assert line["logger"] == "test"


def test_libraries_log_from_warning_on() -> None:
    """At level info, libraries log warnings only: their lower lines quote headers."""
    stream = io.StringIO()
    log.configure("info", "json", stream)
    log.get_logger("ours").debug("no")
    log.get_logger("ours").info("yes")
    logging.getLogger("theirs").info("no")
    logging.getLogger("theirs").warning("yes")
    assert [(line["logger"], line["event"]) for line in lines_of(stream)] == [("ours", "yes"), ("theirs", "yes")]


def test_before_configure_only_warnings_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that does not configure logging keeps stdout for its result; warnings go to stderr, redacted."""
    logger = log.get_logger("test")
    logger.info("quiet")
    logger.warning("loud", text=API_SECRET)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "quiet" not in captured.err
    assert "warning test: loud" in captured.err
    assert API_SECRET[12:] not in captured.err


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_lower_levels_are_not_written(level: str) -> None:
    """Lines of the chosen level and above are written, each with its level; an exception is an error."""
    stream = io.StringIO()
    log.configure(level, "json", stream)
    logger = log.get_logger("test")
    for write in (logger.debug, logger.info, logger.warning, logger.error):
        write("event")
    names = ["debug", "info", "warning", "error"]
    assert [line["level"] for line in lines_of(stream)] == names[names.index(level) :]
    logger.exception("failed")
    assert lines_of(stream)[-1]["level"] == "error"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Decimal("1E-8"), "0.00000001"),
        (Decimal("NaN"), "NaN"),
        (2**70, 2**70),
        (float("nan"), None),
        (float("inf"), None),
        (0.1, 0.1),
        (True, True),
        (Mode.LIVE, "live"),
        (b"secret", "<6 bytes>"),
        ((1, "a"), [1, "a"]),
        ({"a": {"b": Decimal("1.50")}}, {"a": {"b": "1.50"}}),
        (datetime(2026, 11, 22, tzinfo=UTC), "2026-11-22 00:00:00+00:00"),
        (OSError(2, "gone"), "[Errno 2] gone"),
    ],
    ids=repr,
)
def test_values_of_json_lines(value: object, written: object) -> None:
    """Every value becomes a JSON value: decimals in plain notation, bytes as their length, anything else as text."""
    stream = io.StringIO()
    log.configure("info", "json", stream)
    log.get_logger("test").info("event", value=value)
    assert lines_of(stream)[0]["value"] == written


def test_configuring_twice_does_not_write_twice() -> None:
    """A library's record is written to the last stream, once."""
    first, second = io.StringIO(), io.StringIO()
    log.configure("info", "json", first)
    log.configure("info", "json", second)
    logging.getLogger("theirs").error("once")
    assert first.getvalue() == ""
    assert len(lines_of(second)) == 1


def test_a_closed_stream_does_not_break_the_caller() -> None:
    """A full disk or a closed pipe must never stop an order."""
    stream = io.StringIO()
    log.configure("info", "json", stream)
    stream.close()
    log.get_logger("test").info("lost")


def test_an_ascii_terminal_gets_escapes_instead_of_an_error() -> None:
    """With LANG=C stderr cannot encode every character; the line is written with escapes."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    log.configure("info", "text", stream)
    log.get_logger("test").info("event", comment="größer")
    assert b"gr\\xf6\\xdfer" in raw.getvalue()


_PIECES = st.sampled_from(
    [
        API_KEY,
        API_KEY[:15],
        ED25519_SECRET,
        ED25519_SECRET[:42],
        "v1,",
        "whs_",
        "sha256=" + "0f" * 12,
        '"',
        "\\",
        "\x7f",
        "\u202e",
        "a b",
    ]
)


@given(texts=st.lists(st.lists(st.one_of(_PIECES, st.text(max_size=12)), max_size=5).map("".join), max_size=4))
def test_json_lines_contain_the_redacted_texts(texts: list[str]) -> None:
    """Lines that are encoded without cleaning, since nothing in them needs it, are what cleaning would give."""
    stream = io.StringIO()
    log.configure("debug", "json", stream)
    log.get_logger("test").info("plain", first="".join(texts), texts=texts, number=1, nothing=None)
    log.get_logger("test").info("plain", first="".join(texts), apiKey="".join(texts))
    plain, secret = lines_of(stream)
    first = escape_unprintable(redact_secrets("".join(texts)))
    assert (plain["first"], plain["texts"]) == (first, [escape_unprintable(redact_secrets(text)) for text in texts])
    assert (plain["number"], plain["nothing"]) == (1, None)
    assert (secret["first"], secret["apiKey"]) == (first, "[redacted]")
    assert list(plain)[:4] == ["at", "level", "logger", "event"]


def test_a_hot_line_costs_few_calls() -> None:
    """A line of the daemon's normal operation is encoded directly: at most eight Python functions are called for it."""
    log.configure("info", "json", io.StringIO())
    logger = log.get_logger("test")
    called: list[str] = []

    def record(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    def write() -> None:
        logger.info("alert", alert_id="01JQXW8M5E3N2C7V9B4K6T0R00", http_status=202, code=None, orders=["kb-1"], ms=1.5)

    write()  # fills the cache of names
    sys.setprofile(record)
    try:
        write()
    finally:
        sys.setprofile(None)
    assert len(called) - 1 <= 8, called
