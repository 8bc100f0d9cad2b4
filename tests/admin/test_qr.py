"""QR codes: every module of the code is drawn, and nothing else."""

from __future__ import annotations

import re

import pytest
import segno

from kekbridge.admin.qr import qr_code


@pytest.mark.parametrize("text", ["http://127.0.0.1:8080/api/webhooks/tradingview", "https://example.com/" + "a" * 90])
def test_the_path_is_the_code(text: str) -> None:
    """Filling the path gives the modules of the code with a quiet zone around them; no style that the policy would refuse."""
    drawn = str(qr_code(text, label="a <code>"))
    expected = [[bool(one) for one in row] for row in segno.make(text, micro=False).matrix_iter(border=4)]
    found = [[False] * len(expected) for _ in expected]
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", drawn):
        for offset in range(int(width)):
            found[int(y)][int(x) + offset] = True
    assert found == expected
    assert f'viewBox="0 0 {len(expected)} {len(expected)}"' in drawn
    assert "style=" not in drawn
    assert "a &lt;code&gt;" in drawn
