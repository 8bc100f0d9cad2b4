"""Write settings into a TOML file and keep its comments: a new file is config.example.toml with every default commented out.

Only single lines `key = value` are replaced or added; the file is checked like every settings file before it takes the old one's place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from kekbridge.documents import example_text
from kekbridge.errors import ConfigError

#: Value of a setting in a file.
Value = bool | int | float | str | Sequence[str] | Mapping[str, str]

_SECTION: Final = re.compile(r"\[([\w.]+)\]\s*(?:#.*)?$", re.ASCII)
_SETTING: Final = re.compile(r"(\w+ = .*)$", re.ASCII)


def new_text() -> str:
    """The example with every setting commented out, so that defaults of later versions apply."""
    lines = example_text().splitlines()
    return "".join(f"# {line}\n" if _SETTING.match(line) else f"{line}\n" for line in lines)


def with_settings(text: str, changes: Mapping[str, Value]) -> str:
    """The text with these settings (by dotted names such as `server.port`); everything else stays as it is."""
    lines = text.splitlines()
    for dotted, value in changes.items():
        section, _, key = dotted.rpartition(".")
        _put(lines, section, key, f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def save(path: Path, changes: Mapping[str, Value]) -> None:
    """Write settings into a file, which may not exist yet. Raises ConfigError if they are wrong or the file cannot be written."""
    from kekbridge.config import load_settings

    new = path.with_name(f".{path.name}.new")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else new_text()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        like = (path if path.exists() else path.parent).stat()
        mode = (0o644 if like.st_mode & 0o077 else 0o600) if not path.exists() else like.st_mode & 0o777
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(with_settings(text, changes))
            file.flush()
            os.fsync(file.fileno())
        try:
            load_settings(new, environment={})
            new.chmod(mode)
            if os.geteuid() == 0:  # the bridge that reads it may be another user's
                os.chown(new, like.st_uid, like.st_gid)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    except ConfigError as error:
        raise ConfigError(error.message.replace(str(new), str(path)), field=error.field) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(
            f"settings file {path} cannot be written: {reason}; use sudo, or name another with --config"
        ) from None


def _put(lines: list[str], section: str, key: str, line: str) -> None:
    """Replace the setting's line, else the first comment that shows it, else add it at the end of its section."""
    begin, end = _bounds(lines, section)
    if begin is None:
        lines += ["", f"[{section}]", line]
        return
    for prefix in ("", "# ", "#"):
        for index in range(begin, end):
            if lines[index].startswith(f"{prefix}{key} ") and lines[index].removeprefix(
                f"{prefix}{key}"
            ).lstrip().startswith("="):
                if lines[index] != f"# {line}":  # a default that the example shows stays a comment
                    lines[index : index + _height(lines, index)] = [line]
                return
    while end > begin and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, line)


def _bounds(lines: list[str], section: str) -> tuple[int | None, int]:
    """First and past-the-last line of a section's settings; (None, …) if there is no such section."""
    headers = [(index, match[1]) for index, text in enumerate(lines) if (match := _SECTION.match(text))]
    ends = [*(index for index, _ in headers), len(lines)][1:]
    if not section:
        return 0, headers[0][0] if headers else len(lines)
    for (index, name), end in zip(headers, ends, strict=True):
        if name == section:
            return index + 1, end
    return None, len(lines)


def _height(lines: list[str], index: int) -> int:
    """How many lines a setting takes: more than one if its list goes on."""
    text = lines[index]
    if text.startswith("#") or not text.partition("=")[2].strip().startswith("[") or "]" in text:
        return 1
    return next((number - index + 1 for number in range(index, len(lines)) if "]" in lines[number]), 1)


def _toml(value: Value) -> str:
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)  # a basic string of TOML has JSON's escapes
    if isinstance(value, Mapping):
        pairs = (f"{_toml(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return f"[{', '.join(json.dumps(item, ensure_ascii=False) for item in value)}]"
