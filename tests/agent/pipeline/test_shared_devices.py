"""Time-sliced and MPS GPUs: what the pods pay together is the device, whatever they do."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.world import DOLLARS, SECOND, World, rate

from apportion.collectors.kubernetes import allocation_samples
from apportion.core.allocation import Allocation
from apportion.core.category import SpanKind
from apportion.core.ids import DeviceId
from apportion.cost.audit import audit

PRICE = rate(3600 * DOLLARS + 7)
"""An amount that no number of pods divides evenly."""
SECONDS = 20
COLUMNS = ("device_ns", "units", "energy_mj")
replicas = st.lists(
    st.sampled_from(["pod:ml/a", "pod:ml/b", "pod:web/c", "slurm:7"]), min_size=1, max_size=8
)
"""Who has each replica of a device; a pod may have several."""
spells = st.lists(
    st.tuples(replicas, st.sampled_from([0.0, 0.3, 0.9]), st.integers(0, 4_001)),
    min_size=1,
    max_size=3,
)
"""One after the other: the holders, how busy the device is, its energy each second."""


def metered(world: World, column: str) -> int:
    """The device's own total."""
    rows = world.rows("settlement")
    if column == "device_ns":
        return sum(row["end_ns"] - row["start_ns"] for row in rows)
    return sum(row[column] or 0 for row in rows)


@settings(max_examples=settings().max_examples // 10)
@given(spells)
def test_the_pods_together_pay_the_device(spells: list[tuple[list[str], float, int]]) -> None:
    """Time, money and energy, to the unit; nobody but those who hold it, and nobody twice."""
    world = World([PRICE])
    world.read_all(0.0)
    for holders, busy, used_mj in spells:
        world.holders = sorted(holders)
        world.run(10 * SECOND, utilization=busy, used_mj=used_mj)
    for column in COLUMNS:
        sums = world.sums(column)
        assert sum(sums.values()) == metered(world, column)
        owners = {name.partition(" ")[2] for name in sums}
        assert owners <= {owner for holders, _, _ in spells for owner in holders}
    assert audit(world.ledger).holds


@settings(max_examples=settings().max_examples // 10)
@given(replicas)
def test_a_pod_pays_for_its_replicas(holders: list[str]) -> None:
    """Two replicas of three are two thirds: to a unit a replica in each reading's window."""
    world = World([PRICE])
    world.holders = sorted(holders)
    world.read_all(0.0)
    world.run(SECONDS * SECOND, utilization=0.0)
    sums = world.sums("units")
    total = sum(sums.values())
    for owner, count in Counter(holders).items():
        share = Fraction(total * count, len(holders))
        assert abs(sums[f"allocated_idle {owner}"] - share) <= count * SECONDS


@given(st.lists(st.tuples(replicas, st.integers(0, 3)), min_size=1, max_size=4))
def test_the_shown_shares_add_up_to_each_device(given: list[tuple[list[str], int]]) -> None:
    """On /metrics, too: 1 for each device."""
    allocations = [
        Allocation(DeviceId(f"GPU-{index}"), owner) for owners, index in given for owner in owners
    ]
    shares = dict.fromkeys((str(each.device) for each in allocations), Fraction(0))
    for _, value, labels in allocation_samples(allocations):
        shares[dict(labels)["gpu"]] += Fraction(value).limit_denominator(1000)
    assert set(shares.values()) == {1}


def test_requests_of_one_pod_beside_a_silent_one() -> None:
    """While requests run they are all that is known: it is theirs. The rest goes by replicas."""
    world = World([PRICE])
    world.holders = ["pod:ml/a", "pod:ml/b"]
    llm = world.process("llm", started_ns=None)
    world.read_all(0.0)
    start_ns = world.now_ns
    span = llm.start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns)
    world.clock.advance(5 * SECOND)
    llm.finish(span, world.now_ns)
    world.settle()
    for column in COLUMNS:
        assert sum(world.sums(column).values()) == metered(world, column)
    assert world.sums()["direct llm"] == 5 * SECOND
    assert audit(world.ledger).holds
