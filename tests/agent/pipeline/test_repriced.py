"""Prices applied between an agent's ticks: what it learns later, and its restarts, stay right."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tests.agent.pipeline.world import DOLLARS, H100, SECOND, World, rate

from apportion.core.category import Category, SpanKind
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE
from apportion.cost.audit import audit, audit_text
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.rate import PriceTable
from apportion.cost.report import report
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.repricing.proposal import Proposal

PRICES = PriceTable((rate(6 * DOLLARS, H100),))


def apply(world: World, prices: PriceTable = PRICES) -> Proposal:
    """Apply to everything; before and after the audit is clean."""
    found = apply_prices(world.ledger, "n", prices, None, None)
    clean(world)
    return found


def clean(world: World) -> None:
    """Lines = meter + adjustments, and the report proves it."""
    result = audit(world.ledger)
    assert result.holds, audit_text(result)
    assert report(world.ledger).proof.holds


def until_the_hour_is_over(world: World) -> None:
    """A minute and a half into the next hour of node time."""
    left_ns = NS_PER_HOUR - world.node(world.now_ns) % NS_PER_HOUR
    world.run(left_ns + 90 * SECOND, utilization=0.0)


@pytest.mark.parametrize("metered", [None, 2 * DOLLARS])
def test_a_step_that_is_lost_after_its_time_was_priced(metered: int | None) -> None:
    """What a dead process's step had cost moves at the old price; the next run evens it out."""
    world = World([] if metered is None else [rate(metered)])
    trainer = world.process("train")
    world.run(5 * NS_PER_MINUTE)
    done = trainer.start(SpanKind.STEP, world.now_ns, step=1)
    world.run(5 * NS_PER_MINUTE)
    trainer.finish(done, world.now_ns)
    trainer.start(SpanKind.STEP, world.now_ns, step=2)
    until_the_hour_is_over(world)
    clean(world)
    first = apply(world)
    assert (first.hours, apply(world).lines) == (1, 0)

    before = units(world)
    world.die(trainer)
    world.report_death(trainer)
    world.settle()
    clean(world)
    assert any(row["reason"] == "process_died" for row in world.rows("charge"))
    second = apply(world)
    assert second.changes == ()
    assert second.lines > 0
    after = units(world)
    assert sum(after.values()) == sum(before.values())
    lost_ns = sum(
        row["device_ns"]
        for row in world.rows("charge")
        if row["category"] == Category.LOST and row["start_ns"] // NS_PER_HOUR == _hour(world)
    )
    assert abs(after[Category.LOST] - 6 * DOLLARS * lost_ns // NS_PER_HOUR) <= 2
    assert apply(world).lines == 0


def _hour(world: World) -> int:
    """The hour of node time that was re-priced."""
    return int(world.rows("repricing")[0]["start_ns"]) // NS_PER_HOUR


def units(world: World) -> dict[int, int]:
    """Money of the re-priced hour by category, adjustments included."""
    found: dict[int, int] = {}
    for row in world.rows("charge"):
        if row["start_ns"] // NS_PER_HOUR == _hour(world):
            found[row["category"]] = found.get(row["category"], 0) + (row["units"] or 0)
    return found


def test_an_agent_that_restarts_meters_by_its_own_rates() -> None:
    """Rates and lines that a command posted are neither used nor counted on."""
    world = World([rate(2 * DOLLARS)])
    world.run(2 * NS_PER_MINUTE, utilization=0.0)
    until_the_hour_is_over(world)
    apply(world)
    apply(world, PriceTable((rate(7 * DOLLARS, H100),)))
    settled = {row["rate_key"] for row in world.rows("settlement")}
    last = max(row["charge_key"] for row in world.rows("charge"))
    rates = [row for row in world.rows("rate") if row["rate_key"] < 0]
    world.boot_agent()
    world.run(2 * NS_PER_MINUTE, utilization=0.0)
    clean(world)
    assert settled == {row["rate_key"] for row in world.rows("settlement")} == {1}
    assert [row for row in world.rows("rate") if row["rate_key"] < 0] == rates
    keys = [row["charge_key"] for row in world.rows("charge")]
    kinds = {row["charge_key"]: row["kind"] for row in world.rows("charge")}
    assert min(key for key in keys if key > last) == last + 1
    assert all((key < 0) == (kind == ChargeKind.ADJUSTMENT) for key, kind in kinds.items())


def test_the_share_that_a_device_was_metered_at_is_kept() -> None:
    """A container's part of a device is dated: whoever prices its time later finds it."""
    world = World()
    dates: list[int] = []
    for share in ("1/2", "1/2", "1"):
        shares = {H100: Fraction(share)}
        world.settlement.metered._share_of = shares.__getitem__
        world.run(10 * SECOND, utilization=0.0)
        dates.append(max(row["settled_ns"] for row in world.rows("watermark")))
        world.boot_agent()
    found = [(row["since_ns"], row["share"]) for row in world.rows("device_share")]
    begin_ns = min(row["start_ns"] for row in world.rows("settlement"))
    assert found == [(begin_ns, "1/2"), (dates[1], "1")]
