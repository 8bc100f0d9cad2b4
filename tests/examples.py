"""Number of examples for property tests whose examples are expensive: a server, a file or many steps each."""

from __future__ import annotations

from hypothesis import settings

_DEFAULT = 100  # max_examples of Hypothesis by default


def examples(count: int) -> int:
    """Return `count` scaled by the Hypothesis profile: unchanged in an ordinary run, a hundredfold in a release run."""
    return count * settings().max_examples // _DEFAULT
