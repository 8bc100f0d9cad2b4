"""How the clock difference is learnt: from bounds, not from one lucky answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kekbridge.exchange.orderly.transport import APPLIED_FROM_MS, ClockOffset


def test_nothing_known() -> None:
    """Before the first answer there is no offset and nothing is corrected."""
    offset = ClockOffset()
    assert offset.ms is None
    assert offset.correct(123) == 123


@given(
    true=st.integers(-(10**7), 10**7),
    answers=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 800)), min_size=1, max_size=30),
)
def test_estimate_lies_within_the_best_round_trip(true: int, answers: list[tuple[int, int]]) -> None:
    """With a constant difference the estimate is never farther off than the shortest round trip."""
    offset, now = ClockOffset(), 10**12
    for there, back in answers:
        offset.observe(sent_ms=now, server_ms=now + there + true, received_ms=now + there + back)
        now += 10_000
    assert offset.ms is not None
    assert abs(offset.ms - true) <= min(there + back for there, back in answers) + 1


def test_a_moved_clock_is_believed_at_once() -> None:
    """An answer that contradicts what was known replaces it: after a jump of ten minutes the next request is signed right."""
    offset = ClockOffset()
    offset.observe(sent_ms=1_000_000, server_ms=1_000_010, received_ms=1_000_020)
    offset.observe(sent_ms=1_600_000, server_ms=1_000_110, received_ms=1_600_020)
    assert abs(offset.correct(1_600_020) - 1_000_120) < 20


def test_small_differences_are_left_alone() -> None:
    """What the round trip alone could explain is not applied."""
    offset = ClockOffset()
    offset.observe(sent_ms=1_000_000, server_ms=1_000_000 + APPLIED_FROM_MS // 2, received_ms=1_000_002)
    assert offset.correct(5_000_000) == 5_000_000


def test_a_clock_set_back_during_the_request_teaches_nothing() -> None:
    """An answer that came before it was asked for is no measurement."""
    offset = ClockOffset()
    offset.observe(sent_ms=1_000_000, server_ms=1_000_000, received_ms=400_000)
    assert offset.ms is None
