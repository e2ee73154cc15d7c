"""A device that another agent has for a while: two timelines, and nothing in between."""

from __future__ import annotations

from tests.agent.pipeline.world import SECOND, World, rate

from apportion.core.category import SpanKind
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.audit import audit, audit_text

DOLLAR = 10**12


def holds(world: World) -> bool:
    result = audit(world.ledger)
    assert result.holds, audit_text(result)
    return True


def spells(world: World) -> dict[int, tuple[int, int]]:
    """By device key from when to when it was settled, in seconds of the host's clock."""
    found: dict[int, tuple[int, int]] = {}
    for row in world.rows("settlement"):
        start, end = found.get(row["device_key"], (row["start_ns"], row["end_ns"]))
        edges = (min(start, row["start_ns"]), max(end, row["end_ns"]))
        found[row["device_key"]] = edges
    anchor = world.node(0)
    return {
        key: ((start - anchor) // SECOND, (end - anchor) // SECOND)
        for key, (start, end) in found.items()
    }


def away(world: World, seconds: int) -> None:
    """The device is another agent's: no reading of it is taken here."""
    for _ in range(seconds // 5):
        world.clock.advance(5 * SECOND)
        for process in world.processes.values():
            world.deliver(process)
            world.poll(process)
        world.tick()


def test_its_time_elsewhere_is_nobody_elses_here() -> None:
    """What it did meanwhile is not settled, idle or otherwise; before and after add up."""
    world = World([rate(DOLLAR)])
    process = world.process("serve")
    span = process.start(SpanKind.REQUEST, world.now_ns)
    world.run(20 * SECOND, utilization=1.0)
    world.settlement.disown("GPU-0")
    assert world.settlement.devices == {}
    away(world, 60)
    process.finish(span, world.now_ns)
    world.bind(process, [0])
    again = process.start(SpanKind.REQUEST, world.now_ns)
    world.run(20 * SECOND, utilization=1.0)
    process.finish(again, world.now_ns)
    world.settle()
    first, second = spells(world).values()
    assert first[0] == 1_001
    assert first[1] <= 1_020
    assert second[0] > 1_080
    assert len({row["device"] for row in world.rows("device")}) == 1
    assert world.rows("accrual") == [] or not [r for r in world.rows("accrual") if r["ring_key"]]
    assert holds(world)


def test_a_restart_goes_on_with_the_last_spell() -> None:
    """Of several keys of one device the agent resumes the one that it metered last."""
    world = World([rate(DOLLAR)])
    world.run(20 * SECOND)
    world.settlement.disown("GPU-0")
    away(world, 20)
    world.run(20 * SECOND)
    before = spells(world)
    assert len(before) == 2
    world.boot_agent()
    world.run(20 * SECOND)
    after = spells(world)
    assert after[1] == before[1]
    assert after[2][0] == before[2][0]
    assert after[2][1] > before[2][1] + 10
    assert holds(world)


def test_taken_over_while_it_was_down() -> None:
    """Learnt only after the restart: what is settled from then on has a key of its own."""
    world = World([rate(DOLLAR)])
    world.run(20 * SECOND)
    world.clock.advance(10 * NS_PER_MINUTE)
    world.boot_agent(owns=False)
    world.settlement.disown("GPU-0")
    world.run(20 * SECOND)
    first, second = spells(world).values()
    assert second[0] - first[1] >= 595
    assert holds(world)


def test_a_device_that_was_never_here_has_nothing_to_lose() -> None:
    """A first grant is a change of hands, too, and must not number the device anew."""
    world = World([rate(DOLLAR)])
    world.settlement.disown("GPU-0")
    world.run(10 * SECOND)
    assert [row["device_key"] for row in world.rows("device")] == [1]
    assert holds(world)
