"""Lines of a repeating event are bounded, and their counts add up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.connections.sampling import PERIOD_S, Sampler
from tests.examples import examples


def test_one_line_a_minute_with_the_number_of_occurrences() -> None:
    """The first is logged at once; the next line stands for everything since."""
    sampler = Sampler()
    assert [sampler.due("a", at) for at in (0.0, 1.0, 59.9, 60.0, 61.0, 120.0)] == [1, 0, 0, 3, 0, 2]


def test_kinds_are_counted_apart() -> None:
    """One address's refusals do not hide another's."""
    sampler = Sampler()
    assert [sampler.due(kind, 0.0) for kind in ("a", "b", "a", "b")] == [1, 1, 0, 0]


@settings(max_examples=examples(100))
@given(
    events=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 20)), max_size=200),
    most_lines=st.integers(1, 10),
)
def test_lines_are_bounded_and_never_count_twice(events: list[tuple[int, float]], most_lines: int) -> None:
    """However many kinds there are, a minute has at most `most_lines` lines, and the lines of a kind stand for at most its occurrences."""
    sampler = Sampler(most_lines=most_lines)
    now, lines, logged, happened = 0.0, list[float](), dict[int, int](), dict[int, int]()
    for kind, pause in events:
        now += pause
        happened[kind] = happened.get(kind, 0) + 1
        count = sampler.due(kind, now)
        if count:
            lines.append(now)
            logged[kind] = logged.get(kind, 0) + count
    assert all(logged[kind] <= happened[kind] for kind in logged)
    # The lines of any minute belong to at most two of the sampler's own minutes.
    assert all(sum(at <= each < at + PERIOD_S for each in lines) <= 2 * most_lines for at in lines)


def test_memory_is_bounded() -> None:
    """An attacker with a million addresses fills no memory."""
    sampler = Sampler(most_lines=10**9)
    for number in range(5000):
        sampler.due(number, number / 1000)
    assert len(sampler._kinds) <= 1000
