"""Identity of orders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model import client_order_id_of

ALERT = "01KAZ8Q5V3N4M5P6R7S8T9V0W1"


@given(legs=st.sets(st.integers(0, 36**9 - 1), max_size=20))
def test_client_order_ids_never_run_out(legs: set[int]) -> None:
    """Every leg has an id of its own that the exchange accepts: at most 36 letters, digits and hyphens."""
    names = {client_order_id_of(ALERT, leg) for leg in legs}
    assert len(names) == len(legs)
    assert all(len(name) <= 36 and name.replace("-", "").isalnum() for name in names)


def test_client_order_ids_of_earlier_versions_are_the_same() -> None:
    """Two digits for the first 1296 legs; then they grow instead of failing."""
    legs = {0: "00", 35: "0Z", 50: "1E", 1295: "ZZ", 1296: "100"}
    assert {leg: client_order_id_of(ALERT, leg)[27:] for leg in legs} == legs
    with pytest.raises(ValueError, match="out of range"):
        client_order_id_of(ALERT, -1)
