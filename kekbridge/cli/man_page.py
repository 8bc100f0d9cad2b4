"""The manual page kekbridge(1): every command from its help, exit codes, variables and files from the documents' tables.

`kekbridge docs --man` prints it; the wheel installs it from docs/kekbridge.1. Only macros of man(7), and ASCII only: groff and mandoc read
it, whatever the locale.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

from kekbridge import __version__
from kekbridge.documents import find_document
from kekbridge.errors import NotFound

# Options of many commands: described once, and only named at each command.
_COMMON: Final = ("--data-dir", "--config", "--json", "--utc", "--yes")
_OF_THE_ROOT: Final = ("--data-dir", "--config")
_HELP: Final = "--help"
_VERBATIM: Final = "\b"
_WIDTH: Final = 78


class _Entry(NamedTuple):
    path: str
    command: Any
    context: Any


def man_page() -> str:
    """The page as roff."""
    from typer.main import get_command

    from kekbridge.cli.app import app

    root, *entries = _walk(get_command(app), "kekbridge", None)
    lines = [
        f'.TH KEKBRIDGE 1 "{_date()}" "kekbridge {__version__}" "User Commands"',
        ".nh",
        ".ad l",
        ".SH NAME",
        r"kekbridge \- bridge from TradingView alerts to an Orderly perpetual futures exchange",
        ".SH SYNOPSIS",
        r".B kekbridge",
        r"[\fIOPTION\fP]... \fICOMMAND\fP [\fIARGUMENT\fP]...",
        ".SH DESCRIPTION",
        *_paragraphs(root.command.help),
        *_paragraphs(
            "Without settings it trades on paper: `kekbridge serve` starts it, and prints the address for alerts, a message to try, and"
            " the address of the web pages.\n\nThe documents are part of the program: `kekbridge docs` lists them."
        ),
        ".SH OPTIONS",
        *(line for each in _parameters(root) for line in _option(each, root)),
        ".PP",
        "Many commands also have the first two, and some of these:",
        *_common_options(entries),
        ".SH COMMANDS",
    ]
    for entry in entries:
        lines += _command(entry)
    lines += [".SH EXIT STATUS", *_table(_rows("answers", "Exit codes"))]
    lines += [".SH ENVIRONMENT"]
    lines += _paragraphs(
        "Every setting has a variable: `KEKBRIDGE_SERVER_PORT` is `port` in the section `[server]` of the settings file."
    )
    lines += _table(_rows("settings", "Environment variables"))
    lines += [".SH FILES"]
    lines += _paragraphs("Files without a directory are in the data directory; `kekbridge config path` prints it.")
    lines += _table(_rows("settings", "Files"))
    lines += [".SH EXAMPLES", *_paragraphs(root.command.epilog)]
    lines += [".SH SEE ALSO"]
    lines += _paragraphs(
        "`kekbridge docs`, `man`(1), `systemctl`(1), `journalctl`(1), `systemd-creds`(1), `systemd.exec`(5)"
    )
    # A heading begins a paragraph itself.
    kept = [line for before, line in pairwise(["", *lines]) if line != ".PP" or before[:3] not in (".SH", ".SS")]
    return "\n".join(kept) + "\n"


def _date() -> str:
    """Day of this version's release, as the changelog has it."""
    try:
        text = find_document("changelog").text
    except NotFound:
        return ""
    found = re.search(rf"^## {re.escape(__version__)} \((\d{{4}}-\d\d-\d\d)\)", text, re.MULTILINE)
    return found[1] if found else ""


def _walk(command: Any, path: str, parent: Any) -> Iterator[_Entry]:
    """A command and every one below it, in the order of the help."""
    import typer

    context = typer.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    yield _Entry(path, command, context)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        below = command.get_command(context, name)
        if not below.hidden:
            yield from _walk(below, f"{path} {name}", context)


def _parameters(entry: _Entry) -> list[Any]:
    return [each for each in entry.command.get_params(entry.context) if not getattr(each, "hidden", False)]


def _common_options(entries: Iterable[_Entry]) -> list[str]:
    """Each common option once, as the first command describes it that has it."""
    found: dict[str, _Entry] = {}
    options: dict[str, Any] = {}
    for entry in entries:
        for each in _parameters(entry):
            if each.opts[0] in _COMMON and each.opts[0] not in found:
                found[each.opts[0]], options[each.opts[0]] = entry, each
    return [line for name in _COMMON if name not in _OF_THE_ROOT for line in _option(options[name], found[name])]


def _command(entry: _Entry) -> list[str]:
    parameters = _parameters(entry)
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each.param_type_name == "option" and each.opts[0] != _HELP]
    common = [each.opts[0] for each in options if each.opts[0] in _COMMON]
    names = " ".join(_argument_name(each) for each in arguments)
    lines = [f'.SS "{_escape(f"{entry.path} {names}".strip())}"', *_paragraphs(entry.command.help)]
    for each in arguments:
        lines += [".TP", rf"\fI{_escape(_metavar(each))}\fP", *_prose(each.help)] if each.help else []
    for each in options:
        lines += [] if each.opts[0] in _COMMON else _option(each, entry)
    if common:
        lines += [".PP", f"Also: {', '.join(_bold(name) for name in common)}."]
    return [*lines, *_paragraphs(entry.command.epilog)]


def _option(parameter: Any, entry: _Entry) -> list[str]:
    names, text = parameter.get_help_record(entry.context)
    return [".TP", _bold(names), *_prose(text)]


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper()).strip("[]{}.").replace("]...", "")


def _argument_name(argument: Any) -> str:
    name = _metavar(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _rows(topic: str, heading: str) -> list[tuple[str, str]]:
    """The rows of the first table below a heading of a document."""
    section = find_document(topic).text.split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", section, re.MULTILINE)
    return [row for row in rows[1:] if not set(row[0]) <= {"-", "|"}]


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for name, text in rows:
        lines += [".TP", _inline(name), *_prose(text)]
    return lines


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a help text; what it marks with \\b keeps its lines."""
    lines: list[str] = []
    for paragraph in (text or "").split("\n\n"):
        if not paragraph.strip():
            continue
        if paragraph.startswith(_VERBATIM):
            first, *kept = paragraph.removeprefix(_VERBATIM).strip("\n").split("\n")
            title = [".PP", _inline(first)] if first.endswith(":") else [".PP"]
            shown = kept if first.endswith(":") else [first, *kept]
            lines += [*title, ".RS 4", ".nf", *map(_escape_line, shown), ".fi", ".RE"]
        else:
            lines += [".PP", *_prose(paragraph)]
    return lines


def _prose(text: str | None) -> list[str]:
    """Lines of prose; at least one, because a tag needs its text."""
    lines = textwrap.wrap(_inline(text or ""), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_guard(line) for line in lines] or [r"\&"]


def _inline(text: str) -> str:
    """Prose on one line: code in backticks is bold, a link is its text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = " ".join(text.split()).split("`")
    return _guard("".join(_bold(part) if index % 2 else _escape(part) for index, part in enumerate(parts)))


def _bold(text: str) -> str:
    return rf"\fB{_escape(text)}\fP"


def _escape_line(line: str) -> str:
    return _guard(_escape(line.removeprefix("  "))) or "\\&"


def _guard(line: str) -> str:
    """A line that begins like a request is none."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _escape(text: str) -> str:
    text = (
        text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace('"', r"\(dq").replace("`", r"\(ga")
    )
    text = text.replace("^", r"\(ha").replace("~", r"\(ti")
    return "".join(each if each.isascii() else rf"\[u{ord(each):04X}]" for each in text)
