"""`kekbridge docs`: list or show the documents that are part of the package (documents.py)."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from kekbridge.cli import render
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.documents import Document, documents, find_document, topics
from kekbridge.errors import ConfigError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def _complete_topics(incomplete: str) -> list[str]:
    return [name for name in topics() if name.startswith(incomplete)]


@app.command(
    epilog=examples(
        "kekbridge docs                      list the topics",
        "kekbridge docs alerts",
        "kekbridge docs limits | grep -i drawdown",
        "kekbridge docs --man | man -l -     the manual page",
    )
)
def docs(
    ctx: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            help="Document to show. Default: list all topics.",
            show_default=False,
            autocompletion=_complete_topics,
        ),
    ] = None,
    man: Annotated[bool, typer.Option("--man", help="Print the manual page kekbridge(1), for man or groff.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Read the documentation: alerts, limits, going live, operations, the API.

    On a terminal a document is shown in $PAGER, else $MANPAGER, else less; one that fits the screen is printed. In a pipe it is plain
    Markdown, the API (`kekbridge docs api`) OpenAPI as YAML, and the settings (`kekbridge docs config.example`) TOML.
    """
    if man:
        if topic is not None or as_json:
            raise ConfigError("--man is the whole manual page; leave TOPIC and --json out")
        from kekbridge.cli.man_page import man_page

        sys.stdout.write(man_page())
        return
    if topic is not None:
        _show(find_document(topic), as_json=as_json)
        return
    available = documents()
    if as_json:
        render.as_json([{"name": one.name, "title": one.title, "path": one.path} for one in available])
    else:
        render.table(
            [render.Column("TOPIC"), render.Column("ABOUT", shrinks=True)],
            [(one.name, one.summary) for one in available],
        )
        render.note("Read one with `kekbridge docs TOPIC`.")


def _show(document: Document, *, as_json: bool) -> None:
    if as_json:
        render.as_json(document)
    elif not sys.stdout.isatty():
        sys.stdout.write(document.text)
    else:
        from kekbridge.cli.document_view import render as as_text
        from kekbridge.cli.pager import page

        page(as_text(document, width=shutil.get_terminal_size().columns))
