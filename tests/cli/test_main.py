"""Entry point: one line for every expected failure, documented exit codes, no heavy imports for --version and --help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kekbridge import __version__
from tests.paths import ROOT

# Modules whose import takes longer than everything else in `--help`.
HEAVY = ("rich", "pydantic", "aiohttp", "sqlite3", "sqlite_utils", "keyring", "apscheduler", "asyncio")

# Modules that no alert needs, or only some setups: the daemon imports them once it listens, or on first use.
LATE = (
    *("apprise", "apscheduler", "click", "keyring", "platformdirs", "prometheus_client", "rich", "sqlite_utils"),
    *(
        "kekbridge.admin.server",
        "kekbridge.alerts.template",
        "kekbridge.cli.render",
        "kekbridge.cli.send",
        "kekbridge.exchange.orderly.checks",
        "kekbridge.ingress.tls.acme",
        "kekbridge.ops.jobs",
    ),
    *("kekbridge.ops.notifier", "kekbridge.daemon.operator", "kekbridge.paper.server", "kekbridge.model.statistics"),
)


def kekbridge(*arguments: str, python: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KEKBRIDGE_DATA_DIR": str(options.pop("data_dir", "/nonexistent")),
    }
    return subprocess.run(
        [sys.executable, *python, "-m", "kekbridge.cli.main", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def imported(*arguments: str) -> set[str]:
    """Return the top-level names of the modules that a command line imports (python -X importtime)."""
    done = kekbridge(*arguments, python=("-X", "importtime"))
    return {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "import time:" in line
    }


def test_version_imports_almost_nothing() -> None:
    """`--version` imports neither Typer nor anything heavier."""
    done = kekbridge("--version")
    assert (done.returncode, done.stdout) == (0, f"kekbridge {__version__} (Python package)\n")
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
    assert kekbridge("--config", "x.toml", "--version").stdout == f"kekbridge {__version__} (Python package)\n"


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


@pytest.mark.parametrize("locale", LOCALES, ids=["C", "ascii", "latin-1", "utf-8"])
def test_no_traceback_under_any_encoding(tmp_path: Path, locale: dict[str, str]) -> None:
    """What the terminal cannot show is escaped; input that is no text is one line and exit code 2."""
    environment = {**os.environ, **locale, "PYTHONPATH": str(ROOT), "KEKBRIDGE_DATA_DIR": str(tmp_path / "data")}
    environment["KEKBRIDGE_VAULT_BACKEND"] = "key_file"

    def run(*arguments: str | bytes, stdin: bytes = b"") -> tuple[int, str]:
        command = [sys.executable, "-m", "kekbridge", *arguments]
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=60, check=False)
        assert b"Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr.decode(errors="replace")

    assert run("webhook", "create", "w")[0] == 0
    assert run("webhook", "show", "w")[0] == 0  # shortens keys with an ellipsis
    code, error = run("webhook", "show", b"\xff\xfe")
    assert (code, error.count("\n")) == (2, 1)
    assert "is not valid" in error
    code, error = run("notify", "set", stdin=b"\xff\xfe\n")
    assert (code, error.count("\n")) in ((2, 1), (0, 0))  # latin-1 reads any byte
    assert run("webhook", "show", "für")[0] in (2, 3)
