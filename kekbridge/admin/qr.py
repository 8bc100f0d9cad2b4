"""QR codes as inline SVG, made on this machine."""

from __future__ import annotations

from itertools import groupby

import htpy as h
import segno
from htpy import Renderable

_BORDER = 4  # modules of white around it, as the standard asks


def qr_code(text: str, *, label: str) -> Renderable:
    """The QR code of a text, dark on white in every theme; `label` is read to those who cannot see it."""
    rows = [list(row) for row in segno.make(text, micro=False).matrix_iter(border=_BORDER)]
    size = str(len(rows))
    runs = (f"M{x} {y}h{width}v1h-{width}z" for y, row in enumerate(rows) for x, width in _dark_runs(row))
    return h.svg(viewBox=f"0 0 {size} {size}", role="img", aria_label=label, class_="qr", shape_rendering="crispEdges")[
        h.rect(width=size, height=size, class_="qr-light"), h.path(d="".join(runs), class_="qr-dark")
    ]


def _dark_runs(row: list[int]) -> list[tuple[int, int]]:
    """Start and length of each run of dark modules."""
    runs, x = [], 0
    for is_dark, modules in groupby(row, bool):
        width = len(list(modules))
        if is_dark:
            runs.append((x, width))
        x += width
    return runs
