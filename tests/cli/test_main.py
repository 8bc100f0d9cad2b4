"""Entry point: one line for every expected failure, documented exit codes, no heavy imports for --version and --help."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kekbridge import __version__
from kekbridge.cli.form import description
from tests.paths import ROOT
from tests.system.forked import run_forked
from tests.system.harness import clean_environment

# Modules whose import takes longer than everything else in `--help`.
HEAVY = ("rich", "pydantic", "aiohttp", "sqlite3", "sqlite_utils", "keyring", "apscheduler", "asyncio")

# Modules that no alert needs, or only some setups: the daemon imports them once it listens, or on first use.
LATE = (
    *("apprise", "apscheduler", "click", "keyring", "markdown_it", "platformdirs", "prometheus_client", "rich"),
    "sqlite_utils",
    *(
        "kekbridge.admin.server",
        "kekbridge.alerts.template",
        "kekbridge.cli.render",
        "kekbridge.cli.send",
        "kekbridge.documents",
        "kekbridge.exchange.orderly.checks",
        "kekbridge.ingress.tls.acme",
        "kekbridge.ops.jobs",
    ),
    *("kekbridge.ops.notifier", "kekbridge.daemon.operator", "kekbridge.paper.server", "kekbridge.model.statistics"),
)


def kekbridge(*arguments: str, data_dir: Path | str = "/nonexistent") -> subprocess.CompletedProcess[str]:
    """Run a command line as the entry point does."""
    return run_forked(*arguments, environment={**clean_environment(), "KEKBRIDGE_DATA_DIR": str(data_dir)})


def imported(*arguments: str) -> set[str]:
    """Return the top-level names of the modules that a command line imports (python -X importtime)."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kekbridge.cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    return {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "import time:" in line
    }


def test_version_imports_almost_nothing() -> None:
    """`--version` imports neither Typer nor anything heavier."""
    done = kekbridge("--version")
    assert (done.returncode, done.stdout) == (0, f"kekbridge {__version__} ({description()})\n")
    assert imported("--version").isdisjoint({"typer", *HEAVY})


def test_help_imports_no_heavy_module() -> None:
    """`--help` imports Typer and no command's own modules."""
    names = imported("--help")
    assert "typer" in names
    assert names.isdisjoint(HEAVY)


def test_the_daemon_listens_before_it_imports_what_no_alert_needs() -> None:
    """Imports take nine tenths of a start, so operator pages, jobs, start message and rare features are imported later."""
    code = "import sys, kekbridge.cli.serve, kekbridge.daemon.app; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert set(done.stdout.split()).isdisjoint(LATE)


def test_version_is_in_the_help_and_works_with_other_options() -> None:
    """The shortcut for --version does not replace the option."""
    assert "--version" in kekbridge("--help").stdout
    assert kekbridge("--config", "x.toml", "--version").stdout == f"kekbridge {__version__} ({description()})\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("logs", "--bogus"), "no such option: --bogus"),
        (("bogus",), "no such command 'bogus'"),
        (("serve", "--port", "x"), "--port"),
        (("serve", "--mode", "real"), "--mode"),
        (("webhook", "create"), "missing argument"),
        (("config", "check", "--config", "/nonexistent.toml"), "config file /nonexistent.toml does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...], expected: str) -> None:
    """A wrong command line or setting: one line on stderr, nothing on stdout, exit code 2, no traceback."""
    done = kekbridge(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("kekbridge: ")
    assert done.stderr.count("\n") == 1
    assert expected.lower() in done.stderr.lower()


def test_missing_data_is_exit_code_3(tmp_path: Path) -> None:
    """A reading command without a database names the fix and creates nothing."""
    done = kekbridge("orders", data_dir=tmp_path / "none")
    assert done.returncode == 3
    assert "kekbridge serve" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_without_a_command_help_is_shown() -> None:
    """Bare `kekbridge` prints help on stderr, with the exit code of wrong usage."""
    done = kekbridge()
    assert done.returncode == 2
    assert "serve" in done.stderr
    assert done.stdout == ""


def test_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """`kekbridge explain --codes | head -1`: no traceback when the reader closes the pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KEKBRIDGE_DATA_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kekbridge.cli.main", "explain", "--codes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in (0, 1)
    assert errors == ""


def test_control_characters_in_an_error_never_reach_the_terminal() -> None:
    """Errors quote names from people and alerts without escape sequences."""
    done = kekbridge("webhook", "create", "a\x1b]0;owned\x07b\x9b2J")
    assert done.returncode == 2
    assert not any(character in done.stderr for character in "\x1b\x07\x9b")


def test_ctrl_c_is_exit_code_130(tmp_path: Path) -> None:
    """An interrupted command ends without output and with the shell's exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KEKBRIDGE_DATA_DIR": str(tmp_path / "data")}
    environment["KEKBRIDGE_VAULT_BACKEND"] = "key_file"
    command = [sys.executable, "-m", "kekbridge.cli.main"]
    subprocess.run([*command, "webhook", "create", "a"], env=environment, check=True, capture_output=True)
    subprocess.run([*command, "halt"], env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "webhook", "delete", "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    question = process.stderr.read(1)  # the command is waiting at its prompt
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert question
    assert process.returncode in (1, 130)
    assert "Traceback" not in errors


# Encodings that a cron job, a serial console, a container or an old account may have.
LOCALES = (
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "utf-8:strict"},
)


# A program that runs several command lines, separated by "--next", and writes the exit code of each on a line of its own.
_SEVERAL = """
import sys
from kekbridge.cli import main
lines = [[]]
for argument in sys.argv[1:]:
    lines.append([]) if argument == "--next" else lines[-1].append(argument)
for line in lines:
    sys.argv = ["kekbridge", *line]
    try:
        main.run()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.write(f"exit code {end.code}\\n")
"""


@pytest.mark.parametrize("locale", LOCALES, ids=["C", "ascii", "latin-1", "utf-8"])
def test_no_traceback_under_any_encoding(tmp_path: Path, locale: dict[str, str]) -> None:
    """What the terminal cannot show is escaped; input that is no text is one line and exit code 2."""
    environment = {**os.environ, **locale, "PYTHONPATH": str(ROOT), "KEKBRIDGE_DATA_DIR": str(tmp_path / "data")}
    environment["KEKBRIDGE_VAULT_BACKEND"] = "key_file"
    lines: tuple[tuple[str | bytes, ...], ...] = (
        ("webhook", "create", "w"),
        ("webhook", "show", "w"),  # shortens keys with an ellipsis
        ("webhook", "show", b"\xff\xfe"),
        ("notify", "set"),  # reads the input
        ("webhook", "show", "für"),
    )
    arguments = [argument for line in lines for argument in ("--next", *line)][1:]
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL, *arguments],
        env=environment,
        input=b"\xff\xfe\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    written = done.stderr.decode(errors="replace")
    assert "Traceback" not in written
    first, shown, unreadable, from_input, foreign, rest = re.split(r"(?<=exit code \d)\n", written)
    assert first.endswith("exit code 0")
    assert shown.endswith("exit code 0")
    assert re.fullmatch(r"kekbridge: .* is not valid .*\nexit code 2", unreadable)
    assert re.fullmatch(r"kekbridge: .*\nexit code 2|exit code 0", from_input)  # latin-1 reads any byte
    assert re.search(r"exit code [23]$", foreign)
    assert rest == ""
