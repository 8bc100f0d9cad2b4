"""How many examples a property test takes that needs a server, a file or many steps for each of them."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100  # hypothesis' own default


def examples(count: int) -> int:
    """`count` in an ordinary run, and as many times more as the profile in use takes of the others: a hundredfold in a release run."""
    return count * settings().max_examples // _USUAL
