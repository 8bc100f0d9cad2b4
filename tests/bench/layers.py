"""Performance layers that can be left out, each by a change to the started process: what a layer brings is measured, not believed.

`python -m tests.bench.layers LAYER MODULE [argument…]` runs a module without the layer. A layer that brings less than 3 % goes.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final


def _replace(owner: Any, name: str, value: object) -> None:
    getattr(owner, name)  # raises if the layer is no longer there: then its row here must go, too
    setattr(owner, name, value)


def _without_group_commit() -> None:
    """Flush each write by itself."""
    from kekbridge.store import writer

    _replace(writer, "BATCH_BOUND", 1)


def _without_collector_settings() -> None:
    """Collect garbage as often as Python does by default, everything imported included."""
    from kekbridge.daemon import process

    _replace(process, "collect_rarely", lambda: None)
    _replace(process, "freeze_startup_objects", lambda: None)


def _without_typed_reports() -> None:
    """Parse each `executionreport` by the tolerant rules for unusual ones."""
    from kekbridge.exchange.orderly import parsing

    _replace(parsing, "execution", parsing._other_execution)


def _without_harmless_lines() -> None:
    """Clean every value of every log line."""
    from kekbridge import log

    _replace(log, "_is_harmless", lambda event: False)


LAYERS: Final[Mapping[str, Callable[[], None]]] = {
    "group commit": _without_group_commit,
    "collector settings": _without_collector_settings,
    "typed reports": _without_typed_reports,
    "harmless log lines": _without_harmless_lines,
}


def main() -> None:
    layer, module, *arguments = sys.argv[1:]
    LAYERS[layer]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
