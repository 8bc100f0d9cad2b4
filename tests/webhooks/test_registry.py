"""New credentials are random, recognizable by their prefix and safe to paste."""

from __future__ import annotations

import re

import pytest

from kekbridge.model import Mode
from kekbridge.webhooks.registry import new_credentials


@pytest.mark.parametrize(
    ("mode", "prefix"), [(Mode.PAPER, "wh_test_"), (Mode.TESTNET, "wh_test_"), (Mode.LIVE, "wh_live_")]
)
def test_prefix_distinguishes_live_from_test(mode: Mode, prefix: str) -> None:
    """The prefix of an apiKey shows whether it trades real money."""
    api_key, api_secret = new_credentials(mode)
    assert api_key.startswith(prefix)
    assert api_secret.startswith("whs_")


def test_credentials_hold_at_least_160_random_bits() -> None:
    """Guessing is infeasible: 62 ** length >= 2 ** 160, and no two draws are equal."""
    draws = [new_credentials(Mode.PAPER) for _ in range(200)]
    for api_key, api_secret in draws:
        for text in (api_key.removeprefix("wh_test_"), api_secret.removeprefix("whs_")):
            assert re.fullmatch(r"[A-Za-z0-9]+", text), "safe in a URL, a shell and JSON without quoting"
            assert 62 ** len(text) >= 2**160
    assert len({text for draw in draws for text in draw}) == 400
