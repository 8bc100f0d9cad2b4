"""New credentials are random, recognisable and safe to paste."""

from __future__ import annotations

import base64
import re

import pytest

from kekbridge.model import Mode
from kekbridge.webhooks.registry import new_credentials, standard_webhooks_secret


@pytest.mark.parametrize(
    ("mode", "prefix"), [(Mode.PAPER, "wh_test_"), (Mode.TESTNET, "wh_test_"), (Mode.LIVE, "wh_live_")]
)
def test_the_prefix_tells_real_money_from_practice(mode: Mode, prefix: str) -> None:
    """An apiKey says at a glance whether it can move money."""
    api_key, api_secret = new_credentials(mode)
    assert api_key.startswith(prefix)
    assert api_secret.startswith("whs_")


def test_credentials_hold_at_least_160_random_bits() -> None:
    """Guessing must be hopeless: 62 ** length >= 2 ** 160, and no two draws are equal."""
    draws = [new_credentials(Mode.PAPER) for _ in range(200)]
    for api_key, api_secret in draws:
        for text in (api_key.removeprefix("wh_test_"), api_secret.removeprefix("whs_")):
            assert re.fullmatch(r"[A-Za-z0-9]+", text), "safe in a URL, a shell and JSON without quoting"
            assert 62 ** len(text) >= 2**160
    assert len({text for draw in draws for text in draw}) == 400


def test_the_standard_webhooks_form_is_the_same_secret() -> None:
    """A Standard Webhooks sender signs with the bytes behind whsec_: they must be the bytes of the apiSecret."""
    secret = standard_webhooks_secret("whs_abc")
    assert secret.startswith("whsec_")
    assert base64.b64decode(secret.removeprefix("whsec_")) == b"whs_abc"
