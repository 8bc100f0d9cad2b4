"""Words of filters are those that are stored."""

from __future__ import annotations

import pytest

from kekbridge.codes import CODES
from kekbridge.errors import ConfigError
from kekbridge.ops import known_names


def test_words_of_filters_are_those_that_are_stored() -> None:
    """Every published code and status passes its own filter; an unknown word names the nearest one."""
    assert all(known_names.code(code) == code for code in CODES)
    assert known_names.code("orderly:-1102") == "orderly:-1102"
    assert all(known_names.alert_status(status) == status for status in known_names.alert_statuses())
    with pytest.raises(ConfigError, match=r"status: there is no status 'fild'; did you mean filled\?"):
        known_names.order_status("fild", "status")
