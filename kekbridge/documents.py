"""The documents of the package: every Markdown file below `kekbridge/docs`, the API, a dashboard for Grafana, the example of the settings.

Each is a topic, named after its path without the suffix: `alerts`, `internals/architecture`, `api`, `grafana`, `config.example`.
`kekbridge docs` and the web pages show the same topics. Files are read through importlib.resources, so that a one-file program has them,
too.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kekbridge.errors import NotFound

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_MARKDOWN: Final = ".md"
_JSON: Final = ".json"
_SUFFIXES: Final = (_MARKDOWN, ".yaml", ".toml", _JSON)
_EXAMPLE: Final = "config.example.toml"
# An HTML comment that names a block for the tests.
_TEST_NAME: Final = re.compile(r"^ *<!-- test: [^\n]*-->\n", re.MULTILINE)
_LONGEST_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the package."""

    #: Topic, as `kekbridge docs` takes it: `alerts`, `internals/architecture`.
    name: str
    #: Text of its first heading.
    title: str
    #: First sentence below that heading.
    summary: str
    #: The file.
    path: str
    #: Its text, without the comments that name blocks for the tests.
    text: str

    @property
    def is_markdown(self) -> bool:
        """False for the API, the dashboard and the example of the settings, whose text is shown as it is."""
        return self.path.endswith(_MARKDOWN)


class Link(NamedTuple):
    """Where a link of a document leads."""

    #: Topic of the document; the document itself for a link to one of its headings.
    topic: str
    #: Id of the heading; empty: the beginning.
    anchor: str


def documents() -> tuple[Document, ...]:
    """Every document by name, those in folders last."""
    return tuple(_read(name, file) for name, file in _sorted_files())


def topics() -> tuple[str, ...]:
    """The names of all documents, without reading them."""
    return tuple(name for name, _ in _sorted_files())


def find_document(topic: str) -> Document:
    """The document of that name; its file's suffix may be added. Raises NotFound with the closest topic."""
    found = dict(_sorted_files())
    name = _without_suffix(topic.strip().lower())
    if name in found:
        return _read(name, found[name])
    # `architecture` alone suggests `internals/architecture`, as a misspelt topic suggests the right one.
    inner = [each for each in found if each.rpartition("/")[2] == name]
    closest = inner or get_close_matches(name, found, n=1, cutoff=0.5)
    hint = f"did you mean {closest[0]}?" if closest else "`kekbridge docs` lists the topics"
    raise NotFound("not_found", f"no document {topic[:_LONGEST_NAME]!r}; {hint}")


def example_text() -> str:
    """The text of config.example.toml: beside the package's modules in an installation, beside the package in a clone."""
    file = _example()
    return "" if file is None else file.read_text(encoding="utf-8")


def follow(topic: str, target: str, known: Sequence[str]) -> Link | None:
    """Where a relative link in the document `topic` leads; None if it is none of the documents `known`."""
    path, _, anchor = target.partition("#")
    if not path:
        return Link(topic, anchor)
    # As in the repository, where the documents are in kekbridge/docs and the example of the settings is beside kekbridge.
    whole = posixpath.normpath(posixpath.join("kekbridge/docs", posixpath.dirname(topic), path))
    name = _without_suffix(_EXAMPLE if whole == _EXAMPLE else whole.removeprefix("kekbridge/docs/"))
    return Link(name, anchor) if name in known else None


def attachment(name: str) -> bytes | None:
    """The content of a document's own file, or of one that it shows or links, by its path below `kekbridge/docs`; None if there is none."""
    if name == _EXAMPLE:
        return example_text().encode() or None
    return next((file.read_bytes() for path, file in _walk(_root()) if path == name), None)


def heading_id(text: str) -> str:
    """The id of a heading, made as GitHub makes it, so that links between documents lead to the same place everywhere."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def _root() -> Traversable:
    return files("kekbridge") / "docs"


def _sorted_files() -> list[tuple[str, Traversable]]:
    found = [(_without_suffix(path), file) for path, file in _walk(_root()) if path.endswith(_SUFFIXES)]
    if (example := _example()) is not None:
        found.append((_without_suffix(_EXAMPLE), example))
    return sorted(found, key=lambda one: (one[0].count("/"), one[0]))


def _example() -> Traversable | None:
    package = Path(str(files("kekbridge")))
    return next((file for file in (package / _EXAMPLE, package.parent / _EXAMPLE) if file.is_file()), None)


def _walk(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Path and file of everything below a directory."""
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _without_suffix(path: str) -> str:
    stem, suffix = posixpath.splitext(path)
    return stem if suffix in _SUFFIXES else path


def _read(name: str, file: Traversable) -> Document:
    text = _TEST_NAME.sub("", file.read_text(encoding="utf-8"))
    if file.name.endswith(_JSON):
        summary = str(json.loads(text)["description"])  # its title is the dashboard's in Grafana
        return Document(name, summary.partition(":")[0], summary, str(file), text)
    # YAML and TOML begin with their heading and first paragraph as comments.
    prose = text if file.name.endswith(_MARKDOWN) else re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    heading, _, body = prose.partition("\n")
    paragraph = " ".join(body.strip().split("\n\n")[0].split())
    sentence = re.match(r".*?[.!?](?=\s|$)", paragraph)
    return Document(name, heading.lstrip("# "), sentence[0] if sentence else paragraph, str(file), text)
