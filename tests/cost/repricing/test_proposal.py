"""Which time is re-priced, which is left for later, and who pays for a change inside an hour."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tests.agent.pipeline.world import rate
from tests.cost.repricing.books import A100, H100, HOUR, T0, S, rows

from apportion.core.category import Category
from apportion.core.clock import ManualClock
from apportion.core.errors import LedgerError
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.audit import audit
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.rate import PriceTable
from apportion.cost.repricing import posting
from apportion.cost.repricing.apply import apply_prices, planned
from apportion.cost.repricing.proposal import Proposal
from apportion.cost.testing import Claim, LedgerBuilder

DOLLAR = 10**12
DOLLARS = PriceTable((rate(DOLLAR, H100),))


def apply(ledger: Ledger, table: PriceTable = DOLLARS) -> Proposal:
    """Apply to everything, and audit."""
    found = apply_prices(ledger, "node-1", table, None, None)
    assert audit(ledger).holds
    return found


def one_device(*spans: tuple[int, int], hours: int = 1) -> LedgerBuilder:
    """Whole hours without a price on one device: spans by (start, end) in minutes, else idle."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "serve")
    builder.ring(1)
    idle, reached_ns = Claim(Category.ALLOCATED_IDLE, 1, 1), T0
    for number, (start, end) in enumerate(spans, 1):
        span = Interval(T0 + start * NS_PER_MINUTE, T0 + end * NS_PER_MINUTE)
        builder.span(1, number, span, entity=1)
        builder.settle(1, Interval(reached_ns, span.start_ns), [idle])
        builder.settle(1, span, [Claim(Category.DIRECT, 1, 1, 1, number)])
        reached_ns = span.end_ns
    builder.settle(1, Interval(reached_ns, T0 + hours * HOUR), [idle])
    builder.settle(1, Interval(T0 + hours * HOUR, T0 + hours * HOUR + S), [idle])
    return builder


def adjusted(ledger: Ledger) -> dict[int | None, int]:
    """Units of the adjustments by span; None: without one."""
    found: dict[int | None, int] = {}
    for row in rows(ledger, "charge"):
        if row["kind"] == 3:
            found[row["number"]] = found.get(row["number"], 0) + row["units"]
    return found


def test_each_span_pays_the_price_of_its_own_time() -> None:
    """Spot prices come late and change inside an hour: a span pays what held while it ran."""
    edges = [None, T0 + 20 * NS_PER_MINUTE, T0 + 40 * NS_PER_MINUTE, None]
    spot = PriceTable(
        tuple(
            rate(number * DOLLAR, H100, valid_from_ns=start, valid_to_ns=end)
            for number, start, end in zip((1, 2, 3), edges, edges[1:], strict=False)
        )
    )
    with one_device((0, 10), (10, 20), (20, 30), (35, 45), (50, 60)).ledger() as ledger:
        found = apply(ledger, spot)
        sixth = DOLLAR // 6
        by_span = adjusted(ledger)
        idle = by_span.pop(None)
        wanted = {1: sixth, 2: sixth, 3: 2 * sixth, 4: sixth + 3 * DOLLAR // 12, 5: DOLLAR // 2}
        assert all(abs(by_span[number] - units) <= 2 for number, units in wanted.items())
        metered = sum(row["units"] for row in rows(ledger, "repricing"))
        assert idle + sum(by_span.values()) == metered == 2 * DOLLAR - 1
        assert len(found.changes) == 3
        assert apply(ledger, spot).lines == 0


def test_unpriced_devices_of_several_kinds_do_not_mix() -> None:
    """A group over two kinds of devices without a price: only the priced kind's part is priced."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1", H100)
    builder.device(2, "GPU-2", A100)
    builder.group(3, [1, 2])
    builder.entity(1, "both")
    for device in (1, 2):
        for start_ns, end_ns in ((T0, T0 + HOUR // 2), (T0 + HOUR // 2, T0 + HOUR + S)):
            group = 3 if start_ns == T0 else device
            builder.settle(device, Interval(start_ns, end_ns), [Claim(Category.STARTUP, group, 1)])
    with builder.ledger() as ledger:
        apply(ledger)
        lines = [row for row in rows(ledger, "charge") if row["kind"] == 3]
        assert {row["group_key"]: (row["units"], row["priced_ns"]) for row in lines} == {
            3: (DOLLAR // 2, HOUR // 2),
            1: (DOLLAR // 2, HOUR // 2),
        }


def test_only_what_is_posted_to_its_end() -> None:
    """Hours that run, or whose sums run, are left out with the reason; the others are done."""
    builder = one_device((0, 10), hours=1)
    begin_ns = T0 + HOUR + S
    running = Claim(Category.DIRECT, 1, 1, 1, 9, open=True)
    builder.settle(1, Interval(begin_ns, T0 + 2 * HOUR + S), [running])
    with builder.ledger() as ledger:
        found = apply(ledger)
        assert {(row.hour_unix_ns, row.reason) for row in found.skipped} == {
            (T0 + HOUR, "not all of it is posted yet"),
            (T0 + 2 * HOUR, "it is not over in the ledger"),
        }
        assert (found.hours, sum(adjusted(ledger).values())) == (1, DOLLAR)


def test_hours_whose_lines_are_gone() -> None:
    """Where charges were deleted with age nobody can be charged: said, and left alone."""
    with one_device((0, 10), hours=2).ledger() as ledger:
        with ledger._engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM charge WHERE start_ns < {T0 + HOUR}")
        found = apply_prices(ledger, "node-1", DOLLARS, None, None)
        assert (T0, "its lines are no longer in the ledger") in {
            (row.hour_unix_ns, row.reason) for row in found.skipped
        }
        assert {row["start_ns"] for row in rows(ledger, "repricing")} == {T0 + HOUR}


def test_devices_of_one_hour_wait_only_for_those_they_share_with() -> None:
    """A device that lags does not hold back another one that no group ties to it."""
    builder = one_device((0, 10))
    builder.device(2, "GPU-2")
    open_idle = Claim(Category.ALLOCATED_IDLE, 2, 1, open=True)
    builder.settle(2, Interval(T0, T0 + HOUR // 2), [open_idle])
    with builder.ledger() as ledger:
        found = apply(ledger)
        assert [row.devices for row in found.skipped if row.hour_unix_ns == T0] == [("GPU-2",)]
        assert {row["device_key"] for row in rows(ledger, "repricing")} == {1}


@pytest.mark.parametrize("offset_ns", [0, 7 * S, -7 * S, 5 * HOUR])
def test_prices_hold_by_the_wall_clock(offset_ns: int) -> None:
    """A price that begins at a time of the wall clock begins there, wherever node time is."""
    half_ns = T0 + HOUR // 2
    later = PriceTable((rate(DOLLAR, H100, valid_from_ns=half_ns + offset_ns),))
    builder = one_device((0, 60))
    builder.batch.insert("wall_offset", [(0, offset_ns)])
    with builder.ledger() as ledger:
        apply(ledger, later)
        (row,) = rows(ledger, "repricing")
        assert (row["start_ns"], row["end_ns"], row["units"]) == (half_ns, T0 + HOUR, DOLLAR // 2)


def test_a_clock_that_was_set_forward_skips_no_price() -> None:
    """A price that begins in a time that the wall clock never showed begins when it was set."""
    set_ns = T0 + HOUR // 4
    builder = one_device((0, 60))
    builder.batch.insert("wall_offset", [(0, 0), (set_ns, HOUR)])
    skipped = PriceTable((rate(DOLLAR, H100, valid_from_ns=T0 + HOUR // 2),))
    with builder.ledger() as ledger:
        apply(ledger, skipped)
        (row,) = rows(ledger, "repricing")
        assert (row["start_ns"], row["units"]) == (set_ns, 3 * DOLLAR // 4)


def test_a_share_of_a_device_costs_its_share() -> None:
    """What a container had a half, then a third of, costs so much of the price, from then on."""
    builder = one_device((0, 60))
    half_ns = T0 + HOUR // 2
    builder.batch.insert("device_share", [(1, T0, "1/2"), (1, half_ns, "1/3")])
    with builder.ledger() as ledger:
        apply(ledger)
        units = {row["start_ns"]: row["units"] for row in rows(ledger, "repricing")}
        # Each part is a difference of floors from the start of the hour.
        third = Fraction(DOLLAR, 3)
        assert units == {T0: DOLLAR // 4, half_ns: int(third) - int(third / 2)}
        assert apply(ledger).lines == 0


def test_only_the_period_that_is_asked_for() -> None:
    """--since and --until choose whole hours; what lies outside keeps its price."""
    with one_device((0, 10), hours=3).ledger() as ledger:
        apply_prices(ledger, "node-1", DOLLARS, T0 + HOUR + 5 * S, T0 + 2 * HOUR)
        assert {row["start_ns"] for row in rows(ledger, "repricing")} == {T0 + HOUR}
        assert audit(ledger).holds


def test_what_a_command_posts_is_dated_after_what_one_posted_before() -> None:
    """A wall clock that was set back does not put the second price before the first."""
    clock = ManualClock(realtime_ns=T0 + 9 * HOUR)
    builder = one_device((0, 10))
    with builder.ledger(clock=clock) as ledger:
        apply(ledger)
        clock.advance(1)
        assert isinstance(ledger.clock, ManualClock)
        ledger.clock = ManualClock(realtime_ns=T0)
        apply(ledger, PriceTable((rate(3 * DOLLAR, H100),)))
        assert sum(adjusted(ledger).values()) == 3 * DOLLAR


def test_too_much_for_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A period that would not fit the node is refused before anything is posted."""
    monkeypatch.setattr(posting, "MAX_LINES", 2)
    with one_device((0, 10), (10, 20), (20, 30)).ledger() as ledger:
        with pytest.raises(LedgerError, match=r"more than 2 lines at once.*--until"):
            apply(ledger)
        assert rows(ledger, "repricing") == []


def test_planning_changes_nothing() -> None:
    """What would be posted is the same as what is, and a plan leaves the ledger as it was."""
    with one_device((0, 10)).ledger() as ledger:
        plan = planned(ledger, "node-1", DOLLARS, None, None)
        assert rows(ledger, "repricing") == []
        found = apply(ledger)
        assert (plan.changes, plan.lines) == (found.changes, found.lines)


def test_posted_prices_are_never_written_over() -> None:
    """Like every posted row: a correction is a row of its own."""
    with one_device((0, 10)).ledger() as ledger, pytest.raises(LedgerError, match="never edited"):
        ledger.commit(TickBatch(replaced={"repricing": [(1, T0, 0, T0 + 1, None, 1, 0)]}))
