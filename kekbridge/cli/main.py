"""Entry point of the `kekbridge` command: run one command; every expected failure becomes one line and an exit code.

Heavy modules are imported late, so that `--version` and `--help` answer at once.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import NoReturn

from kekbridge import __version__
from kekbridge.cli.form import description, prepare_executable

# Exit codes (docs/answers.md): 0 done, 1 failed or canceled, 2 usage or settings, 3 not found, 4 already running, 130 Ctrl-C.
FAILED = 1
USAGE = 2
INTERRUPTED = 130

# What the parser says of a word that is none of an option's choices.
_CHOICE = re.compile(r"'(?P<found>[^']*)' is not one of (?P<known>.*)$")


def run() -> NoReturn:
    """Run the command in sys.argv and exit with its code."""
    arguments = sys.argv[1:]
    _accept_any_encoding()
    prepare_executable()
    if arguments == ["--version"]:  # before Typer is imported: it would take four fifths of the time
        sys.stdout.write(f"kekbridge {__version__} ({description()})\n")
        sys.exit(0)
    if not {"--help", "-h"} & set(arguments):  # which holds no secret, and should answer at once
        from kekbridge.daemon.process import disable_core_dumps

        disable_core_dumps()
    # Plugins of other packages must not run in a process that handles keys; this also saves scanning all installed packages.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(_run_quietly(arguments))


def _accept_any_encoding() -> None:
    """Escape what the terminal's encoding cannot show, such as an ellipsis in a C locale: output must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run_quietly(arguments: list[str]) -> int:
    """Run one command line; a closed pipe and Ctrl-C end it without a traceback."""
    try:
        code = run_command(arguments)
        sys.stdout.flush()  # here, so that a closed pipe raises inside this try and not at the interpreter's exit
    except BrokenPipeError:
        # `kekbridge logs | head` is no error, and the interpreter's own last flush must not report one either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def run_command(arguments: list[str]) -> int:
    """Run one command line (without the program's name) and return its exit code; expected errors go to stderr as one line."""
    import typer
    from typer.main import get_command

    from kekbridge.cli.app import app
    from kekbridge.cli.options import ARGUMENTS
    from kekbridge.errors import KekbridgeError

    ARGUMENTS[:] = arguments
    if any("\udc80" <= character <= "\udcff" for text in arguments for character in text):
        _print_error(
            f"an argument is not valid {sys.getfilesystemencoding()} text; type it again, or set the locale to UTF-8"
        )
        return USAGE
    try:
        result = get_command(app).main(arguments, prog_name="kekbridge", standalone_mode=False)
    except typer.Abort:
        _print_error("canceled; nothing was changed")
        return FAILED
    except typer.TyperException as error:
        return _print_usage_error(error)
    except KekbridgeError as error:
        _print_error(error.message)
        return int(getattr(error, "exit_code", FAILED))
    except UnicodeError:
        _print_error("the input is not valid UTF-8 text; convert it, or set the locale to UTF-8")
        return USAGE
    return result if isinstance(result, int) else 0


def _print_usage_error(error: Exception) -> int:
    """Print what is wrong with the command line and which help explains it; return the exit code."""
    ctx = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error}\n")
        return 2
    message = " ".join(getattr(error, "format_message", error.__str__)().split()).rstrip(".")
    message = message.replace("Value error, ", "")
    if choice := _CHOICE.search(message):
        from kekbridge.formatting import did_you_mean

        near = did_you_mean(choice["found"], re.findall(r"'([^']*)'", choice["known"]), otherwise="")
        message += f"; {near}" if near else ""
    hint = f"; see `{ctx.command_path} --help`" if ctx is not None else ""
    _print_error(f"{message[:1].lower()}{message[1:]}{hint}")
    return int(getattr(error, "exit_code", 2))


def _print_error(message: str) -> None:
    """Print one line on stderr without control characters: the message may quote outside text."""
    from kekbridge.formatting import sanitize

    line = " ".join(sanitize(message).split())
    sys.stderr.write(f"kekbridge: {line}\n")


if __name__ == "__main__":
    run()
