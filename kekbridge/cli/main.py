"""Entry point of the `kekbridge` command: runs one command and turns every expected failure into one line and an exit code.

Everything heavy is imported late, so that `--version` and `--help` answer at once. Decides nothing about trading.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import NoReturn

from kekbridge import __version__

# Exit codes (docs/answers.md): 0 done, 1 failed or abandoned, 2 usage or settings, 3 not found, 4 already running, 130 Ctrl-C.
FAILED = 1
INTERRUPTED = 130


def run() -> NoReturn:
    """Run the command that the process was started with, and exit with its code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:  # before Typer is imported: four fifths of the time would be its own
        sys.stdout.write(f"kekbridge {__version__}\n")
        sys.exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # commands hold secrets for a moment; the daemon does more
    # No plugin of another package may run inside a process that handles keys; it also saves a scan of all that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str]) -> int:
    """Run the arguments; expected errors become one line on stderr."""
    try:
        code = run_command(arguments)
        sys.stdout.flush()  # here, so that a closed pipe is met inside this try and not at the interpreter's exit
    except BrokenPipeError:
        # `kekbridge logs | head` is no error; the interpreter must not complain about its own last flush either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def run_command(arguments: list[str]) -> int:
    """Run one command line (without the program's name) and return its exit code; print expected errors on stderr."""
    import typer
    from typer.main import get_command

    from kekbridge.cli.app import app
    from kekbridge.errors import KekbridgeError

    try:
        result = get_command(app).main(arguments, prog_name="kekbridge", standalone_mode=False)
    except typer.Abort:
        _complain("nothing was done")
        return FAILED
    except typer.TyperException as error:
        return _usage(error)
    except KekbridgeError as error:
        _complain(error.message)
        return int(getattr(error, "exit_code", FAILED))
    return result if isinstance(result, int) else 0


def _usage(error: Exception) -> int:
    """A wrong command line: one line naming what is wrong and the help that explains it."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error}\n")
        return 2
    message = " ".join(getattr(error, "format_message", error.__str__)().split()).rstrip(".")
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    _complain(f"{message[:1].lower()}{message[1:]}{hint}")
    return int(getattr(error, "exit_code", 2))


def _complain(message: str) -> None:
    """One line on stderr; what came from outside may stand in it, so control characters go."""
    from kekbridge.formatting import sanitize

    line = " ".join(sanitize(message).split())
    sys.stderr.write(f"kekbridge: {line}\n")


if __name__ == "__main__":
    run()
