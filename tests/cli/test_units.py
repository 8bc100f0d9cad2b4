"""Texts of the units: any path means itself, and each form of the program gets what it needs to unpack and to stop."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from kekbridge.cli.form import EXECUTABLE, PACKAGE, ZIPAPP
from kekbridge.cli.units import SERVICE, SOCKET, UnitSettings, unit_texts, unit_word
from kekbridge.errors import ConfigError


def settings(*command: str, form: str = PACKAGE, config: Path | None = None, host: str = "127.0.0.1") -> UnitSettings:
    return UnitSettings(command or ("/usr/bin/kekbridge",), form, config, host, 8080, ["master-key"])


@pytest.mark.parametrize(
    ("text", "is_program", "expected"),
    [
        ("/usr/bin/kekbridge", True, "/usr/bin/kekbridge"),
        ("/a b/k", True, '"/a b/k"'),
        ("/100%h/k", True, "/100%%h/k"),
        ('/a"b/k', True, '"/a\\"b/k"'),
        ("/a'b/k", False, '"/a\'b/k"'),
        ("/a\\x20b", False, '"/a\\\\x20b"'),
        ("/$HOME/k", True, '"/$HOME/k"'),
        ("/$HOME/k", False, '"/$$HOME/k"'),
        ("/a;b", False, '"/a;b"'),
        ("/é/k", False, '"/é/k"'),
        ("", False, '""'),
    ],
)
def test_a_word_means_itself(text: str, is_program: bool, expected: str) -> None:
    """Blanks, quotes, backslashes, specifiers and variables are no syntax; only the program's own $ is left alone by systemd."""
    assert unit_word(text, is_program=is_program) == expected


@pytest.mark.parametrize("text", ["/a\nExecStartPre=/bin/evil", "/a\tb", "/\udcff", "/a\x7f"])
def test_no_path_can_add_a_line(text: str) -> None:
    """Control characters and what is not UTF-8 are an error of one line, never another setting of the unit."""
    with pytest.raises(ConfigError, match="cannot be written into a systemd unit"):
        unit_word(text)


@pytest.mark.parametrize(
    "host", ["127.0.0.1\nExecStartPre=/bin/evil", "::1%a\nExecStartPre=/bin/evil", "localhost", "", "/run/x"]
)
def test_no_address_can_add_a_line(host: str) -> None:
    """A command in a socket's unit runs as root. systemd looks up no names, so they are refused before they fail at its start."""
    with pytest.raises(ConfigError, match=r"server\.host: found .* expected an IP address"):
        unit_texts(settings(host=host))


def test_a_zone_of_an_address_means_itself() -> None:
    """A percent sign would begin one of systemd's specifiers."""
    assert "ListenStream=[fe80::1%%h0]:8080\n" in unit_texts(settings(host="fe80::1%h0"))[SOCKET]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_a_program_with_any_name(tmp_path: Path) -> None:
    """systemd reads the escaped path back: it looks for exactly this file."""
    program = tmp_path / "a b%h $HOME ;é" / "kekbridge"
    program.parent.mkdir()
    for text, is_missing in ((None, True), ("#!/bin/sh\n", False)):
        if text is not None:
            program.write_text(text)
            program.chmod(0o755)
        for name, unit in unit_texts(settings(str(program), config=tmp_path / "k %n.toml")).items():
            (tmp_path / name).write_text(unit)
        done = subprocess.run(
            ["systemd-analyze", "verify", str(tmp_path / SERVICE)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ("is not executable" in done.stderr) is is_missing, done.stderr


def test_a_program_name_that_systemd_refuses_is_run_by_a_shell(tmp_path: Path) -> None:
    """Quotes and backslashes: the words in the unit, read as systemd reads them, start exactly this file."""
    program = tmp_path / 'it\'s "100%" \\x20 $HOME' / "kekbridge"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    (line,) = re.findall(r"^ExecStart=(.*)$", unit_texts(settings(str(program)))[SERVICE], re.MULTILINE)
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "serve\n"


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (PACKAGE, {"NotifyAccess=main"}),
        (EXECUTABLE, {"NotifyAccess=all", "KillMode=mixed", "Environment=TMPDIR=/var/tmp", "PrivateTmp=yes"}),
        (ZIPAPP, {"NotifyAccess=main", "Environment=SHIV_ROOT=/var/cache/kekbridge", "CacheDirectory=kekbridge"}),
    ],
)
def test_each_form_has_a_place_to_unpack(form: str, lines: set[str]) -> None:
    """The executable unpacks into a private directory that systemd empties, the zipapp into its cache; a package has nothing to unpack."""
    found = set(unit_texts(settings(form=form))[SERVICE].splitlines())
    assert lines <= found
    others = {"KillMode=mixed", "Environment=TMPDIR=/var/tmp", "CacheDirectory=kekbridge"} - lines
    assert not others & found


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("/opt/kekbridge/current/bin/kekbridge",), "yes"),
        (("/home/me/.local/bin/kekbridge",), "read-only"),
        (("/usr/bin/python3", "/root/kekbridge.pyz"), "read-only"),
    ],
)
def test_homes_are_hidden_unless_the_program_is_in_one(command: tuple[str, ...], expected: str) -> None:
    """An installed service sees no home at all."""
    assert re.findall(r"^ProtectHome=(.*)$", unit_texts(settings(*command))[SERVICE], re.MULTILINE) == [expected]


def test_an_ipv6_address_is_in_brackets() -> None:
    """As systemd.socket(5) wants it."""
    assert "ListenStream=[::1]:8080\n" in unit_texts(settings(host="::1"))[SOCKET]
