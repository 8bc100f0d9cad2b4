"""A strategy's messages in any order and with any delay: the account ends at the newest one's position."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.signal import Action, Amount, PositionSide, QuantityType, Signal, TargetPosition
from kekbridge.model import ZERO, StrategyHistory, WebhookSettings
from kekbridge.planning.strategy_position import add_step
from kekbridge.planning.translate import KnownHistory, Plan, translate
from tests.trading import BTC, NOW, D, snapshot

FOLLOW = WebhookSettings(follow="position", reorder_ms=0)
RESYNC = WebhookSettings(follow="position", resync=True, reorder_ms=0)
# (second, position before, position after)
Step = tuple[int, int, int]


class Account:
    """Receives a strategy's messages one after another; each is traded completely before the next one."""

    def __init__(self, held: int, settings: WebhookSettings) -> None:
        self.held = D(held)
        self.settings = settings
        self.histories: dict[str, StrategyHistory] = {}

    def receive(self, step: Step, *, with_time: bool = True, quantity: Amount | None = None, **more: object) -> Plan:
        second, before, now = step
        contracts = Amount(D(abs(now - before))) if quantity is None else quantity
        signal = Signal(
            action=Action.BUY if now > before else Action.SELL,
            symbol="BTCUSDT.P",
            quantity=contracts,
            target=TargetPosition(
                side=side_of(now), size=D(abs(now)), previous_side=side_of(before), previous_size=D(abs(before))
            ),
            **more,  # type: ignore[arg-type]
        )
        plan = translate(
            signal,
            settings=self.settings,
            snapshot=snapshot({BTC: str(self.held)} if self.held else {}),
            history=KnownHistory(at(second) if with_time else None, self.histories),
        )
        if plan.strategy_history is not None:
            self.histories[BTC] = plan.strategy_history
        self.held += sum((intent.signed_quantity for intent in plan.intents), ZERO)
        return plan

    def receive_all(self, steps: Iterable[Step]) -> Decimal:
        for step in steps:
            self.receive(step)
        return self.held


def at(second: int) -> datetime:
    return NOW + timedelta(seconds=second)


def side_of(signed: int) -> PositionSide:
    return PositionSide.FLAT if signed == 0 else PositionSide.LONG if signed > 0 else PositionSide.SHORT


@st.composite
def fills(draw: st.DrawFn, most_per_second: int = 2, *, with_circles: bool = False) -> tuple[list[Step], list[Step]]:
    """A consistent sequence of fills, some of one second, and an order in which they arrive."""
    position = began_at = draw(st.integers(-3, 3))
    second = fills = 0
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 6))):
        taken = {position} if with_circles else {position, began_at}
        after = draw(st.sampled_from([size for size in range(-4, 5) if size not in taken]))
        steps.append((second, position, after))
        position = after
        fills += 1
        if fills == most_per_second or draw(st.booleans()):
            second, fills, began_at = second + 1, 0, position
    return steps, list(draw(st.permutations(steps)))


@given(fills())
def test_resync_ends_at_the_newest_position(drawn: tuple[list[Step], list[Step]]) -> None:
    """A consistent sequence in any order of arrival ends at the position of its last step."""
    steps, arrivals = drawn
    assert Account(steps[0][1], RESYNC).receive_all(arrivals) == steps[-1][2]


@given(fills())
def test_without_resync_an_account_in_sync_stays_in_sync(drawn: tuple[list[Step], list[Step]]) -> None:
    """The same without resync, if the account started with the strategy's position."""
    steps, arrivals = drawn
    assert Account(steps[0][1], FOLLOW).receive_all(arrivals) == steps[-1][2]


@given(fills(4, with_circles=True))
def test_ambiguous_fills_of_one_second_err_towards_flat(drawn: tuple[list[Step], list[Step]]) -> None:
    """If the chain of a second is ambiguous, the end is the strategy's position or a smaller one, never the other side."""
    steps, arrivals = drawn
    held, wanted = Account(steps[0][1], RESYNC).receive_all(arrivals), steps[-1][2]
    assert held * wanted >= 0
    assert abs(held) <= abs(wanted)


@pytest.mark.parametrize("settings", [FOLLOW, RESYNC])
@pytest.mark.parametrize("later", [0, 1])
def test_a_late_close_does_not_flatten_its_successor(settings: WebhookSettings, later: int) -> None:
    """Close of 1 and open of 2 arrive swapped, within one second or two: the late close is out of date, 2 stays."""
    account = Account(1, settings)
    account.receive((later, 0, 2))
    late = account.receive((0, 1, 0))
    assert account.held == 2
    if settings is RESYNC:
        assert (late.intents, late.ignored_code, late.is_exit) == ((), "out_of_date", True)
        assert not any("drift" in warning for warning in late.warnings)
    assert any(warning.startswith("out of date") for warning in late.warnings)


def test_an_overtaken_step_still_reports_drift() -> None:
    """The account is off the newer step: the late one opens nothing against its own direction, and warns."""
    account = Account(0, RESYNC)
    account.receive((5, 1, 2))
    account.held = D(1)  # sold manually
    late = account.receive((3, 2, 1))
    assert (account.held, late.ignored_code) == (D(1), "out_of_date")
    assert any(warning.startswith("drift: the strategy holds 2 BTC, the account 1") for warning in late.warnings)


def test_an_overtaken_step_is_made_up_for_without_resync() -> None:
    """3 -> 2 -> 5 with the first one late: it still reduces by its own 1, but never beyond 5."""
    account = Account(3, FOLLOW)
    account.receive((1, 2, 5))
    assert account.held == 6
    late = account.receive((0, 3, 2))
    assert (account.held, late.ignored_code) == (D(5), None)
    assert account.receive((0, 4, 3)).ignored_code == "out_of_date"
    assert account.held == 5


def test_without_a_timestamp_the_order_of_arrival_counts() -> None:
    """The age of messages is unknown: the last to arrive is followed, and no history is kept."""
    account = Account(1, RESYNC)
    account.receive((1, 0, 2), with_time=False)
    account.receive((0, 1, 0), with_time=False)
    assert account.held == 0
    assert not account.histories


@pytest.mark.parametrize("kind", [QuantityType.USD, QuantityType.PERCENT_EQUITY])
def test_a_size_of_the_traders_own_is_not_made_up_for(kind: QuantityType) -> None:
    """Without resync, USD and percent sizes cannot be compared with the strategy's contracts: an overtaken entry trades nothing."""
    account = Account(0, FOLLOW)
    account.receive((1, 1, 3))
    held = account.held
    late = account.receive((0, 0, 1), quantity=Amount(D(50)), quantity_type=kind)
    assert (account.held, late.ignored_code) == (held, "out_of_date")


def test_rounding_noise_of_doubles_breaks_no_chain() -> None:
    """A step that ends at 0.1 + 0.2 links to one that starts at 0.3."""
    first = TargetPosition(side=PositionSide.LONG, size=D("0.3"), previous_side=PositionSide.FLAT, previous_size=ZERO)
    noisy = TargetPosition(
        side=PositionSide.LONG, size=D("0.1"), previous_side=PositionSide.LONG, previous_size=D("0.30000000000000004")
    )
    history, newer = add_step(None, noisy, fired_at=NOW, held=D("0.3"))
    assert newer is None
    _, newer = add_step(history, first, fired_at=NOW, held=D("0.1"))
    assert newer is not None
    assert newer.now == D("0.1")


def test_only_the_last_steps_are_kept() -> None:
    """A history has at most 32 steps; of the dropped ones it keeps the position that they ended at."""
    account = Account(0, RESYNC)
    account.receive_all((second, second % 5, (second + 1) % 5) for second in range(100))
    history = account.histories[BTC]
    assert (len(history.steps), history.steps[0].fired_at, history.start) == (32, at(68), D(68 % 5))


def test_a_step_without_the_position_before_it_is_ordered_by_its_time_only() -> None:
    """An alert may name only the new position: a later second is newer, within one second the last to arrive counts."""
    target = TargetPosition(side=PositionSide.LONG, size=D(1))
    history, _ = add_step(None, target, fired_at=at(1), held=ZERO)
    _, newer = add_step(history, TargetPosition(side=PositionSide.FLAT, size=ZERO), fired_at=at(1), held=D(1))
    assert newer is None
    _, newer = add_step(history, TargetPosition(side=PositionSide.FLAT, size=ZERO), fired_at=at(0), held=D(1))
    assert newer == history.steps[0]
