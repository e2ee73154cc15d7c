"""Workers whose requests another node's process has: direct, without a span, for their workload."""

from __future__ import annotations

import pytest
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, World, rate

from apportion.agent.ingest import Identity
from apportion.core.category import Category, SpanKind
from apportion.core.ids import RunId
from apportion.cost.audit import audit
from apportion.cost.methods.names import Method

PRICE = rate(3600 * DOLLARS)


def worker(world: World) -> Process:
    """A tensor-parallel worker that has loaded, on a device that was read."""
    said = Identity(run=RunId("replica-0"), kind="member")
    process = world.process("worker", run="llm", started_ns=world.now_ns, said=said)
    world.read_all(0.0)
    world.run(20 * SECOND, utilization=0.9)
    world.attach(process).started(world.node(world.now_ns))
    return process


@pytest.mark.parametrize("crashes", [False, True])
def test_what_a_worker_computes_is_direct_and_its_rest_is_idle(crashes: bool) -> None:
    """By evidence: loading is start-up, busy time direct with no span, quiet time idle."""
    world = World([PRICE])
    worker(world)
    world.run(10 * SECOND, utilization=0.8)
    if crashes:
        world.boot_agent()
    world.run(30 * SECOND, utilization=0.8)
    world.run(30 * SECOND, utilization=0.0)
    world.settle()
    sums = world.sums()
    assert sums["direct llm"] == 40 * SECOND
    assert sums["startup llm"] == 20 * SECOND
    assert "uninstrumented llm" not in sums
    lines = [row for row in world.rows("charge") if row["category"] == Category.DIRECT]
    assert {(row["number"], row["reason"], row["method_key"]) for row in lines} == {
        (None, "head_elsewhere", Method.HEAD_SHARE)
    }
    (entity,) = {row["entity_key"] for row in lines}
    (who,) = [row for row in world.rows("entity") if row["entity_key"] == entity]
    assert (who["workload"], who["run"], who["tenant"]) == ("llm", "replica-0", None)
    assert sum(row["units"] for row in lines) == 40 * DOLLARS
    assert audit(world.ledger).holds


def test_beside_spans_of_its_own_device_it_is_no_member() -> None:
    """Where a span covers the window the span pays: activity beyond it is uninstrumented."""
    world = World([PRICE])
    worker(world)
    trainer = world.process("train", started_ns=world.now_ns)
    step = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(20 * SECOND, utilization=0.9)
    trainer.finish(step, world.now_ns)
    world.settle()
    sums = world.sums()
    assert sums["direct train"] == 20 * SECOND
    assert "direct llm" not in sums
    assert audit(world.ledger).holds


def test_a_worker_that_is_gone_computes_nothing() -> None:
    """After its death activity on the device is somebody else's."""
    world = World([PRICE])
    process = worker(world)
    world.run(10 * SECOND, utilization=0.9)
    world.die(process)
    world.report_death(process)
    world.users = ["uid:7"]
    world.run(20 * SECOND, utilization=0.9)
    world.settle()
    assert world.sums()["direct llm"] <= 12 * SECOND
    assert world.sums()["uninstrumented uid:7"] >= 17 * SECOND
