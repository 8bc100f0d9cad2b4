"""What scripts read: the choice of events, and a page of them."""

from __future__ import annotations

from kekbridge.model.notifications import MESSAGES
from kekbridge.ops.queries import event_data, wanted_kinds
from kekbridge.store import journal
from tests.ops.operating import Desk


async def test_kinds_of_events(desk: Desk) -> None:
    """All without a choice; with `trouble` only warnings and failures, also of those that are named; none left matches nothing."""
    with desk.database.snapshot() as connection:
        assert wanted_kinds(connection, ()) == ()
        assert wanted_kinds(connection, ["Order-Filled"]) == ("order_filled",)
        severe = wanted_kinds(connection, (), trouble=True)
        assert {MESSAGES[kind].severity for kind in severe} == {"warning", "failure"}
        assert wanted_kinds(connection, ["order_filled", "stream_down"], trouble=True) == ("stream_down",)
        nothing = wanted_kinds(connection, ["order_filled"], trouble=True)
        assert journal.latest(connection, kinds=nothing) == ()


async def test_pages_of_events(desk: Desk) -> None:
    """`before` continues where the last page ended; an event is told in the words of its notification."""
    for number in range(5):
        await desk.database.write(journal.append, "stream_down", now=desk.clock(), data={"lasting": f"{number} s"})
    with desk.database.snapshot() as connection:
        newest = journal.latest(connection, kinds=["stream_down"], limit=2)
        older = journal.latest(connection, kinds=["stream_down"], before=newest[0].sequence, limit=2)
        assert [event.data["lasting"] for event in (*older, *newest)] == ["1 s", "2 s", "3 s", "4 s"]
        data = event_data(connection, newest[0])
    assert (data["severity"], data["words"][:22]) == ("warning", "the exchange's stream ")
