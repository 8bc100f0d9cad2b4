"""The table of operations, and when the daemon is notified of one."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec
import pytest

from kekbridge.errors import ConfigError, NotFound
from kekbridge.model import TradingState
from kekbridge.ops.operation import Operation, OperatorContext, bridge_of, decode
from kekbridge.ops.operations import OPERATIONS, Operations
from kekbridge.ops.trading_operations import Halt, ListLockouts, Resume
from kekbridge.ops.webhook_operations import CreateWebhook, ShowWebhook
from kekbridge.store import settings, webhooks
from tests.ops.operating import Desk


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_row_is_usable_over_the_socket(name: str) -> None:
    """A name fit for a path, documented parameters that JSON can carry, and no parameter that is accepted unseen."""
    kind = OPERATIONS[name]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert kind.__doc__
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]
    assert schema["additionalProperties"] is False
    assert kind.answer_within_s > 0
    with pytest.raises(ConfigError, match="is not a parameter"):
        decode(kind, msgspec.json.encode({"x-unknown": 1}))


def test_all_operations_are_in_the_table() -> None:
    """A new operation that is not listed would work in a command and be unknown to a running bridge."""

    def leaves(kind: type[Operation]) -> set[type[Operation]]:
        below = kind.__subclasses__()
        return {leaf for one in below for leaf in leaves(one)} if below else {kind}

    ours = {kind for kind in leaves(Operation) if kind.__module__.startswith("kekbridge.")}
    assert set(OPERATIONS.values()) == ours
    assert len({kind.operation for kind in ours}) == len(ours)


async def test_what_is_decoded_equals_what_was_encoded() -> None:
    """Every parameter survives the socket."""
    for operation in (
        CreateWebhook(name="a", options={"max_notional": "5", "require_stop_loss": True, "lock": ["quantity=1"]}),
        Resume(webhook="a", reset_peak=True, reason="ü", by="web page"),
    ):
        assert decode(type(operation), msgspec.json.encode(operation)) == operation


async def test_the_daemon_is_notified_of_a_write_before_it_is_answered(desk: Desk) -> None:
    """After its commit, with its name; not of reads; also of one that failed, since a part of it may be stored."""
    notified: list[tuple[str, TradingState]] = []

    async def listen(name: str) -> None:
        state = await desk.database.read(settings.trading_control, now=desk.clock())
        notified.append((name, state.state))

    operations = Operations(desk, on_operation=listen)
    await operations.run(Halt())
    assert notified == [("halt", TradingState.HALTED)]
    await operations.run(CreateWebhook(name="w"))
    await operations.run(ShowWebhook(webhook="w"))
    assert [name for name, _ in notified] == ["halt", "webhook-create"]
    with pytest.raises(NotFound):
        await operations.run(Resume(webhook="nobody"))
    assert [name for name, _ in notified] == ["halt", "webhook-create", "resume"]


async def test_a_failed_operation_changes_nothing(desk: Desk) -> None:
    """What its transaction did is rolled back."""

    class Half(Operation, frozen=True, kw_only=True):
        """Create a webhook, then fail."""

        operation: ClassVar[str] = "half"

        async def run(self, context: OperatorContext) -> Any:
            def write(connection: Any) -> None:
                settings.set_value(connection, "half", 1, now=context.clock())
                raise ConfigError("no")

            await context.database.write(write)

    with pytest.raises(ConfigError):
        await Operations(desk).run(Half())
    assert await desk.database.read(settings.get_value, "half") is None
    assert await desk.database.read(webhooks.list_all) == ()


async def test_what_needs_a_daemon_says_so(desk: Desk) -> None:
    """In a command it is one line with the fix."""
    with pytest.raises(ConfigError, match="start it with `kekbridge serve`"):
        bridge_of(desk)
    with pytest.raises(ConfigError, match="no bridge runs"):
        await Operations(desk).run(ListLockouts())
