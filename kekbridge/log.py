"""Structured logging: one line per event, as key=value text or JSON, without secrets and control characters.

Records of libraries pass the same steps: clean, render, write. This module decides how a line looks, not what is logged; pure packages
must not import it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, TextIO

import msgspec

from kekbridge.formatting import REDACTED, SHORTEST_BARE_KEY, escape_unprintable, has_secret_prefix, redact_secrets

_MAX_TEXT = 2_000
_MAX_TRACEBACK = 20_000
_MAX_DEPTH = 6

# Compared without case, dashes and underscores: apiKey, api_key and Api-Key are the same.
_SECRET_NAMES = frozenset(
    {
        "apikey",
        "apisecret",
        "authorization",
        "cookie",
        "masterkey",
        "orderlysecret",
        "orderlysignature",
        "passphrase",
        "password",
        "passwd",
        "privatekey",
        "secret",
        "secretkey",
        "signature",
        "signingkey",
        "token",
        "webhooksignature",
        "xapikey",
        "xwebhooksignature",
    }
)

# Constants, since `bool | int | float` inside a function is built on each call.
_PLAIN = (bool, int, float)
_PLAIN_TYPES = frozenset({bool, int, float, type(None)})
_BYTES = (bytes, bytearray, memoryview)
_LISTS = (list, tuple, set, frozenset)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Logger:
    """Logs events under a name: `info("order", client_order_id=...)`. Names of fields are ours; values may come from outside."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **fields: object) -> None:
        """Log what only a developer needs."""
        if _output.threshold <= logging.DEBUG:
            _output.write("debug", self._name, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what happens in normal operation."""
        if _output.threshold <= logging.INFO:
            _output.write("info", self._name, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what the operator should know."""
        if _output.threshold <= logging.WARNING:
            _output.write("warning", self._name, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what the operator must act on."""
        _output.write("error", self._name, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        _output.write("error", self._name, event, {**fields, "exception": traceback.format_exc()})


def get_logger(name: str) -> Logger:
    """Return a logger whose lines contain its name. It uses the configuration in force, also if it was created before `configure`."""
    return Logger(name)


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Write all records of `level` and above to `stream` (default: stderr). Before this call only warnings and errors are, as text.

    `format`: "text" (key=value), "json", or "auto" (text on a terminal, else JSON). Records of libraries are written from warning on, at
    level debug from info on: their debug lines quote headers and bodies.
    """
    global _output
    out = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not out.isatty())
    threshold = _LEVELS[level]
    _output = _Output(threshold, _render_json if as_json else _render_text, out)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Forward):
            root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(max(threshold, logging.INFO if threshold == logging.DEBUG else logging.WARNING))
    logging.captureWarnings(capture=True)


class _Output:
    """Cleans, renders and writes events; without a stream to the stderr of the moment."""

    def __init__(self, threshold: int, render: Callable[[dict[str, Any]], str], stream: TextIO | None) -> None:
        self.threshold = threshold
        self._render = render
        self._stream = stream

    def write(self, level: str, name: str, event: str, fields: Mapping[str, object]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = self._render(_clean({"at": at, "level": level, "logger": name, "event": event, **fields}))
        stream = sys.stderr if self._stream is None else self._stream
        if not line.isascii():
            encoding = getattr(stream, "encoding", None) or "utf-8"
            line = line.encode(encoding, "backslashreplace").decode(encoding)
        try:
            # One write per line, so that threads do not mix lines; flushed, so that a killed daemon loses none.
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed pipe behind the log must not stop an order


class _Forward(logging.Handler):
    """Passes records of libraries on, so that they are cleaned and rendered like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            fields: dict[str, object] = {}
            if record.exc_info and record.exc_info[0]:
                fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
            if level >= _output.threshold:
                _output.write(logging.getLevelName(level).lower(), record.name, record.getMessage(), fields)
        except Exception:  # logging must never break the code that logs
            self.handleError(record)


def _clean(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event without secrets and control characters, with values that JSON has; itself if it is so already."""
    if _is_harmless(event):
        return event
    text = event.pop("exception", None)
    cleaned = {_clean_name(name): _clean_value(name, value, 0) for name, value in event.items()}
    if text:
        cleaned["exception"] = escape_unprintable(redact_secrets(str(text)[-_MAX_TRACEBACK:].rstrip("\n")), keep="\n")
    return cleaned


def _is_harmless(event: Mapping[str, Any]) -> bool:
    """True if cleaning would change nothing, as for nearly all of our events: short plain values under harmless names."""
    if not _are_harmless_names(tuple(event)):
        return False
    texts: list[str] = []
    for value in event.values():
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is list:
            for inner in value:
                if type(inner) is not str:
                    return False
                texts.append(inner)
        elif kind not in _PLAIN_TYPES:
            return False
    text = " ".join(texts)
    return text.isprintable() and not has_secret_prefix(text) and max(map(len, texts)) < SHORTEST_BARE_KEY


def _clean_value(name: str, value: object, depth: int) -> object:
    if value is None:
        return value
    if type(value) is str:  # most values of most lines
        return REDACTED if _is_secret_name(name) else _clean_text(value)
    if isinstance(value, _PLAIN):
        return value
    if _is_secret_name(name):
        return REDACTED
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, _BYTES):
        return f"<{len(value)} bytes>"
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {_clean_name(str(key)): _clean_value(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, _LISTS):
        return [_clean_value(name, inner, depth + 1) for inner in value]
    return _clean_text(value if isinstance(value, str) else str(value))


def _clean_text(text: str) -> str:
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "…"
    return escape_unprintable(redact_secrets(text))


# Names are mostly those of our own calls; names from messages are soon evicted.
@lru_cache(maxsize=512)
def _clean_name(name: str) -> str:
    return escape_unprintable(redact_secrets(name))


@lru_cache(maxsize=512)
def _is_secret_name(name: str) -> bool:
    return name.lower().replace("_", "").replace("-", "") in _SECRET_NAMES


@lru_cache(maxsize=512)
def _are_harmless_names(names: tuple[str, ...]) -> bool:
    """True if no name is a secret's, is changed by cleaning, or is the traceback's."""
    return all(name != "exception" and not _is_secret_name(name) and _clean_name(name) == name for name in names)


def _render_json(event: dict[str, Any]) -> str:
    return _encode(event).decode()


def _render_text(event: dict[str, Any]) -> str:
    head = f"{event.pop('at')} {event.pop('level'):<7} {event.pop('logger')}: {event.pop('event')}"
    text = event.pop("exception", None)
    fields = "".join(f" {_text_of(key)}={_text_of(value)}" for key, value in event.items() if value is not None)
    return f"{head}{fields}" + (f"\n{text}" if text else "")


def _text_of(value: object) -> str:
    """A value on a text line: bare if it is one word, else as JSON, so that a space or quote cannot forge a field."""
    if isinstance(value, str):
        return value if value and not re.search(r'[\s"=]', value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)


_output = _Output(logging.WARNING, _render_text, None)
