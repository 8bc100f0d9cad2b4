"""Documents as HTML: nothing of a document becomes markup of its own, links lead to pages, tables and code fit a phone."""

from __future__ import annotations

import re
from functools import cache

import pytest

from kekbridge.admin.document_html import render
from kekbridge.documents import Document, documents, find_document, heading_id, topics

MARKDOWN = [one for one in documents() if one.is_markdown]


def html(text: str, topic: str = "alerts") -> str:
    """A document of this name with the text below its heading."""
    return str(render(Document(topic, "T", "", f"{topic}.md", f"# T\n\n{text}\n")).content)


@cache
def content_of(topic: str) -> str:
    """The HTML of a document of the package."""
    return str(render(find_document(topic)).content)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        '<a href="javascript:alert(1)">x</a>',
        "[x](javascript:alert(1))",
        '| <b onclick="x">a</b> | " onclick="x |\n|---|---|\n| <i>1</i> | 2 |',
        "```\n</pre><script>alert(1)</script>\n```",
        '![" onerror="alert(1)](x.png)',
        '[x](limits.md"onclick="x)',
    ],
)
def test_html_in_a_document_is_text(text: str) -> None:
    """A document, whatever is written in it, puts no script, handler or foreign element into the pages."""
    made = re.findall(r"<(/?)([a-z0-9]+)([^>]*)>", html(text))
    assert {name for _, name, _ in made} <= {
        "p",
        "a",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "button",
        "img",
    }
    assert not [one for _, _, one in made if re.search(r"\s(on\w+|style)=|javascript:", re.sub(r'"[^"]*"', '""', one))]
    assert "javascript:" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', html(text)))


@pytest.mark.parametrize(
    ("topic", "target", "address"),
    [
        ("alerts", "limits.md", "/docs/limits"),
        ("alerts", "live.md#1-choose-a-vault", "/docs/live#1-choose-a-vault"),
        ("alerts", "#duplicates", "#duplicates"),
        ("alerts", "alerts.md#duplicates", "#duplicates"),
        ("alerts", "api.yaml", "/docs/api"),
        ("settings", "../../config.example.toml", "/docs/config.example"),
        ("internals/orderly", "./architecture.md#6", "/docs/internals/architecture#6"),
        ("internals/orderly", "../limits.md", "/docs/limits"),
        ("operations", "dashboard.json", "/docs/dashboard.json"),
        ("alerts", "https://www.tradingview.com/x?a=1&b=2", "https://www.tradingview.com/x?a=1&amp;b=2"),
    ],
)
def test_links_lead_to_pages(topic: str, target: str, address: str) -> None:
    """To the page of a document, to a heading of this one, to a file beside the documents, or outside."""
    assert f'<a href="{address}">text</a>' in html(f"[text]({target})", topic)


@pytest.mark.parametrize(
    "target", ["../../README.md", "../../tests/system/campaign.py", "../cli/docs.py", "/etc/passwd", "file:///x"]
)
def test_a_file_of_the_repository_is_no_link(target: str) -> None:
    """An installation does not have it: its text stays."""
    assert "text" in html(f"[text]({target})")
    assert "href" not in html(f"[text]({target})")


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda one: one.name)
def test_every_link_of_every_document_leads_somewhere(document: Document) -> None:
    """To a page that exists and a heading that it has; no document needs an inline style."""
    shown = render(document)
    for path, anchor in re.findall(r'href="(?:/docs/([^"#]*))?(?:#([^"]*))?"', str(shown.content)):
        assert not path or path in topics() or "." in path, path
        if anchor:
            assert f'id="{anchor}"' in content_of(path or document.name)
    assert "style=" not in re.sub(r">[^<]*<", "><", str(shown.content))
    assert [one.id for one in shown.headings] == [
        heading_id(title.replace("`", "")) for title in re.findall(r"^## (.*)$", document.text, re.MULTILINE)
    ]


def test_a_table_becomes_cards_on_a_phone() -> None:
    """Each cell names its column, an empty one is left out, alignment is a class."""
    shown = html("| a | `b` | |\n|---|---:|---|\n| 1 | - | x |")
    assert '<div class="wide cards" tabindex="0"><table>' in shown
    assert '<th scope="col">a</th><th scope="col" class="right"><code>b</code></th><td></td>' in shown
    assert (
        '<td data-label="a"><div>1</div></td><td class="nothing"><div>-</div></td><td data-label=""><div>x</div></td>'
        in shown
    )


def test_code_can_be_copied_and_pictures_are_shown() -> None:
    """Every block has its button; a picture beside the document is loaded from these pages, one from elsewhere is only its text."""
    shown = html("```sh\na && b\n```\n\n- item\n\n  ```\n  c\n  ```\n")
    assert re.findall(r'<pre id="(code-\d)">([^<]*)</pre>', shown) == [("code-1", "a &amp;&amp; b"), ("code-2", "c")]
    assert 'data-copy="#code-2"' in shown
    assert '<img src="/docs/overview.png" alt="The overview" loading="lazy">' in html("![The overview](overview.png)")
    assert html("![The overview](https://example.com/x.png)") == "<p>The overview</p>\n"
