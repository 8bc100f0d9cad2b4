"""Structured logging: one line per event, as key=value text or JSON, without secrets and control characters.

Records of libraries pass the same processors. This module decides how a line looks, not what is logged; pure packages must not import it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, TextIO

from kekbridge.formatting import REDACTED, SHORTEST_BARE_KEY, escape_unprintable, has_secret_prefix, redact_secrets

# structlog imports rich for coloured tracebacks if it is installed. Ours are plain, and rich would cost a sixth of the daemon's start time
# and 3 MiB, so it is hidden during this import. The command line imports rich itself.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _rich is None:
        del sys.modules["rich"]
    else:
        sys.modules["rich"] = _rich

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

_FIRST = ("at", "level", "logger", "event")
_JSON = json.JSONEncoder(ensure_ascii=False, default=str)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose lines contain its name. The only access to structlog.

    A logger uses the configuration in force at its first line, also if it was created before `configure`.
    """
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Write all records of `level` and above to `stream` (default: stderr).

    `format`: "text" (key=value), "json", or "auto" (text on a terminal, else JSON). Records of libraries are written from warning on, at
    level debug from info on: their debug lines quote headers and bodies.
    """
    out = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not out.isatty())
    threshold = _LEVELS[level]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            _render_json if as_json else _render_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=partial(_LineWriter, out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Forward):
            root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(max(threshold, logging.INFO if threshold == logging.DEBUG else logging.WARNING))
    logging.captureWarnings(capture=True)


class _LineWriter:
    """Writes rendered lines; `name` is the logger's."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        # One write per line, so that threads do not mix lines; flushed, so that a killed daemon loses none.
        if not line.isascii():
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            line = line.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed pipe behind the log must not stop an order

    debug = info = warning = warn = error = critical = exception = msg


class _Forward(logging.Handler):
    """Passes records of libraries to structlog, so that they are redacted and rendered like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            structlog.get_logger(record.name).log(level, record.getMessage(), exc_info=exc_info)
        except Exception:  # logging must never break the code that logs
            self.handleError(record)


def _stamp(logger: _LineWriter, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["at"] = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    if logger.name:
        event["logger"] = logger.name
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, name, event)  # a plain traceback, without values of locals
    return event


def _clean(event: Mapping[str, Any]) -> dict[str, Any]:
    event = dict(event)
    traceback = event.pop("exception", None)
    cleaned = {_clean_name(str(key)): _clean_value(str(key), value, 0) for key, value in event.items()}
    if traceback:
        text = redact_secrets(str(traceback)[-_MAX_TRACEBACK:])
        cleaned["exception"] = escape_unprintable(text, keep="\n")
    return cleaned


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


def _render_json(_logger: object, _name: str, event: Mapping[str, Any]) -> str:
    if _is_plain(event):
        line = _in_order(event)
        if line.isprintable() and "\\" not in line and not has_secret_prefix(line):
            return line  # redaction would not change it
    return _in_order(_clean(event))


def _in_order(event: Mapping[str, Any]) -> str:
    first = {key: event[key] for key in _FIRST if key in event}
    return _JSON.encode(first | dict(event))


def _is_plain(event: Mapping[str, Any]) -> bool:
    """True if the event has only short plain values under harmless names, as nearly all of our events.

    Cleaning can then change characters only, and the rendered line shows whether it would: escapes contain a backslash, credentials
    begin with a known prefix.
    """
    if not _are_plain_names(tuple(event)):
        return False
    for value in event.values():
        kind = type(value)
        if kind is str:
            if len(value) >= SHORTEST_BARE_KEY:
                return False
        elif kind is list:
            for inner in value:
                if type(inner) is not str or len(inner) >= SHORTEST_BARE_KEY:
                    return False
        elif kind not in _PLAIN_TYPES:
            return False
    return True


@lru_cache(maxsize=512)
def _are_plain_names(names: tuple[str, ...]) -> bool:
    """True if no name is a secret's, is changed by cleaning, or is the traceback's."""
    return all(
        type(name) is str and name != "exception" and not _is_secret_name(name) and _clean_name(name) == name
        for name in names
    )


def _render_text(_logger: object, _name: str, event: Mapping[str, Any]) -> str:
    event = _clean(event)
    traceback = event.pop("exception", None)
    logger = event.pop("logger", "")
    head = f"{event.pop('at', '')} {event.pop('level', ''):<7} {logger}{': ' if logger else ''}{event.pop('event', '')}"
    fields = "".join(f" {_text_of(key)}={_text_of(value)}" for key, value in event.items() if value is not None)
    return f"{head}{fields}" + (f"\n{traceback}" if traceback else "")


def _text_of(value: object) -> str:
    """A value on a text line: bare if it is one word, else as JSON, so that a space or quote cannot forge a field."""
    if isinstance(value, str):
        return value if value and not re.search(r'[\s"=]', value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)
