"""`kekbridge docs`: list or show the documents that are part of the package.

Every Markdown file below `kekbridge/docs` is a topic, named after its path without the suffix; and so is `api.yaml`, the description of the
API.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

import typer

from kekbridge.cli import render
from kekbridge.cli.options import ConfigFile, DataDir, Json, examples
from kekbridge.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

_YAML = ".yaml"

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the package."""

    #: Topic, as the command takes it: `alerts`, `internals/architecture`.
    name: str
    #: Text of its first heading.
    title: str
    #: First sentence below that heading.
    summary: str
    #: The file.
    path: str
    #: Its text, without the comments that name blocks for the tests.
    text: str


@app.command(
    epilog=examples(
        "kekbridge docs                      list the topics",
        "kekbridge docs alerts",
        "kekbridge docs limits | grep -i drawdown",
    )
)
def docs(
    ctx: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(metavar="TOPIC", help="Document to show. Default: list all topics.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Read the documentation: alerts, limits, going live, operations, the API.

    On a terminal a document is shown in a pager; in a pipe it is plain Markdown, the API (`kekbridge docs api`) OpenAPI as YAML.
    """
    available = documents()
    if topic is not None:
        _show(_find(available, topic), as_json=as_json)
    elif as_json:
        render.as_json([{"name": one.name, "title": one.title, "path": one.path} for one in available])
    else:
        render.table(
            [render.Column("TOPIC"), render.Column("ABOUT", shrinks=True)],
            [(one.name, one.summary) for one in available],
        )
        render.note("Read one with `kekbridge docs TOPIC`.")


def documents() -> tuple[Document, ...]:
    """Return every document of the package by name, those in folders last."""
    documents = (_read(name, file) for name, file in _document_files(files("kekbridge") / "docs"))
    return tuple(sorted(documents, key=lambda one: (one.name.count("/"), one.name)))


def _document_files(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _document_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith((".md", _YAML)):
            yield prefix + entry.name.rpartition(".")[0], entry


def _read(name: str, file: Traversable) -> Document:
    text = re.sub(r"^ *<!-- test: \w+ -->\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # A YAML file begins with its heading and first paragraph as comments.
    prose = re.sub(r"^# ?", "", text, flags=re.MULTILINE) if file.name.endswith(_YAML) else text
    heading, _, body = prose.partition("\n")
    paragraph = " ".join(body.strip().split("\n\n")[0].split())
    sentence = re.match(r".*?[.!?](?=\s|$)", paragraph)
    return Document(name, heading.lstrip("# "), sentence[0] if sentence else paragraph, str(file), text)


def _find(available: tuple[Document, ...], topic: str) -> Document:
    """Return the document of that name. Raises NotFound with the closest topic."""
    by_name = {one.name: one for one in available}
    document = by_name.get(topic.strip().lower().removesuffix(".md").removesuffix(_YAML))
    if document is not None:
        return document
    # `architecture` alone suggests `internals/architecture`, as a misspelt topic suggests the right one.
    inner = [name for name in by_name if name.rpartition("/")[2] == topic]
    closest = inner or get_close_matches(topic, by_name, n=1, cutoff=0.5)
    hint = f"did you mean {closest[0]}?" if closest else "`kekbridge docs` lists the topics"
    raise NotFound("not_found", f"no document {topic[:64]!r}; {hint}")


def _show(document: Document, *, as_json: bool) -> None:
    if as_json:
        render.as_json(document)
    elif not sys.stdout.isatty():
        sys.stdout.write(document.text)
    else:
        _page(document)


def _page(document: Document) -> None:
    """Show a document in the terminal's pager, Markdown rendered."""
    from rich.markdown import Markdown

    os.environ.setdefault("LESS", "FRX")  # as git does: keep colours, and exit at once if the text fits the screen
    screen = render.console()
    with screen.pager(styles=True):
        if document.path.endswith(_YAML):
            screen.print(document.text, highlight=False, markup=False)
        else:
            screen.print(Markdown(document.text, hyperlinks=False))
