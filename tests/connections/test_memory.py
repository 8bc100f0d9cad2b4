"""What a flood used is given back."""

from __future__ import annotations

import gc
import weakref

from kekbridge.connections.memory import give_back


class Node:
    """An object in a cycle of references."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected() -> None:
    """Also what only a full collection finds, with the collector switched off as between two of its runs."""
    gc.disable()
    try:
        node = Node()
        gc.collect()
        found = weakref.ref(node)
        del node
        assert found() is not None
        give_back()
        assert found() is None
    finally:
        gc.enable()
