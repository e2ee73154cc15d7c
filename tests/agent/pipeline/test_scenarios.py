"""What a device's time becomes, in the situations that people ask about first."""

from __future__ import annotations

from tests.agent.pipeline.world import DOLLARS, SECOND, World, rate

from apportion.core.category import SpanKind

PRICE = rate(3600 * DOLLARS)
"""A dollar a second."""


def test_busy_without_a_client_is_uninstrumented_and_never_idle() -> None:
    """A GPU at 90 % with no span: all of it is somebody's unseen work."""
    world = World([PRICE])
    world.users = ["uid:1000"]
    world.read_all(0.9)
    world.run(60 * SECOND, utilization=0.9)
    sums = world.sums()
    assert set(sums) == {"uninstrumented uid:1000"}
    assert sums["uninstrumented uid:1000"] >= 50 * SECOND


def test_quiet_and_unheld_is_unallocated() -> None:
    """0 % and nobody there: unallocated."""
    world = World([PRICE])
    world.read_all(0.0)
    world.run(60 * SECOND, utilization=0.0)
    assert set(world.sums()) == {"unallocated"}


def test_quiet_and_held_is_allocated_idle() -> None:
    """0 % while a workload holds it: that workload's idle time."""
    world = World([PRICE])
    world.process("llm", started_ns=world.now_ns)
    world.read_all(0.0)
    world.run(60 * SECOND, utilization=0.0)
    assert set(world.sums()) == {"allocated_idle llm"}


def test_one_short_request_a_second_is_one_percent_direct() -> None:
    """10 ms of each second at 2 %: 1 % direct, the rest idle, nothing uninstrumented."""
    world = World([PRICE])
    llm = world.process("llm", started_ns=None)
    world.read_all(0.0)
    for second in range(60):
        start_ns = world.now_ns + 300_000_000
        span = llm.start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns)
        llm.finish(span, start_ns + 10_000_000)
        world.clock.advance(SECOND)
        world.read_all(0.02)
        world.deliver(llm)
        if second % 5 == 4:
            world.tick()
    world.settle()
    sums = world.sums()
    assert sums["direct llm"] == 60 * 10_000_000
    assert set(sums) == {"direct llm", "allocated_idle llm"}
    assert world.sums("units")["direct llm"] == 6 * DOLLARS // 10
