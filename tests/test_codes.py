"""The table of codes is complete: a code that the package uses is explained by `kekbridge explain`."""

from __future__ import annotations

import re

from kekbridge.codes import CODES, find
from kekbridge.exchange.orderly import classify
from tests.paths import ROOT

# A literal code: the first argument of an error, the second of an API's answer, or `code=`.
_USED = re.compile(
    r"(?:\b(?:Refused|Unreadable|Unauthenticated|Forbidden|Conflict|RateLimited|NotFound|deny)\(\s*|"
    r"\berror_response\([^,()]+,\s*|\bcode=)\"([a-z_]+)\""
)


def test_every_code_in_the_package_is_explained() -> None:
    """A trader who reads a code in an answer, a log or an error of the API finds it with `kekbridge explain CODE`."""
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "kekbridge").rglob("*.py")]
    used = {code for source in sources for code in _USED.findall(source)}
    assert len(used) > len(CODES) / 2
    assert used - CODES.keys() == set()


def test_codes_of_the_exchange_are_explained() -> None:
    """Every code that the bridge has a rule for, but those for liquidators, has a meaning of its own."""
    unexplained = find("orderly:-9999")
    assert unexplained is not None
    for number in sorted(classify.KNOWN_CODES - {-1201, -1202}):
        code = find(f"orderly:{number}")
        assert code is not None
        assert (code.meaning != unexplained.meaning, code.status) == (True, 422)
    assert find("orderly:") is None
