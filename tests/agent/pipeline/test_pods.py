"""Cost on /metrics is that of the pod which holds the device, to the unit, or of none."""

from __future__ import annotations

from collections import Counter

from tests.agent.pipeline.world import DOLLARS, SECOND, World, rate

from apportion.core.allocation import Pod
from apportion.core.category import Category, SpanKind

PRICE = rate(3600 * DOLLARS + 7)
A, B = Pod("ml", "chat-a"), Pod("ml", "chat-b")


def by_pod(world: World) -> Counter[tuple[str, str, str]]:
    """Units by namespace, pod and category."""
    found: Counter[tuple[str, str, str]] = Counter()
    for key, spent in world.settlement.totals.spend.items():
        found[key.namespace, key.pod, key.category.label] += spent.units or 0
    return found


def test_replicas_of_one_workload_are_told_apart() -> None:
    """One workload in two pods, each with a GPU; what nobody holds is in no pod."""
    world = World([PRICE], devices=3)
    world.pods.update({"GPU-0": A, "GPU-1": B})
    for index in (0, 1):
        world.process(f"chat-{index}", [index], run="chat")
    world.read_all(0.0)
    for index, length in ((0, 8), (1, 4)):
        process = world.processes[f"chat-{index}"]
        span = process.start(SpanKind.REQUEST, world.now_ns, scheduled_ns=world.now_ns)
        world.run(length * SECOND, utilization=0.5)
        process.finish(span, world.now_ns)
    world.settle()
    found = by_pod(world)
    assert {key[:2] for key in found} == {A, B, ("", "")}
    assert found[A.namespace, A.name, "direct"] > 1.9 * found[B.namespace, B.name, "direct"] > 0
    settled = Counter[int]()
    for row in world.rows("settlement"):
        settled[row["device_key"]] += row["units"]
    keys = world.device_keys(range(3))
    for key, pod in zip(keys, (*A[1:], *B[1:], ""), strict=True):
        assert sum(n for (_, name, _), n in found.items() if name == pod) == settled[key]


def test_a_shared_device_is_nobodys_but_by_replicas() -> None:
    """Of two pods on one GPU neither has its spans; each has its part of the idle time."""
    world = World([PRICE])
    world.holders = ["pod:ml/chat-a", "pod:ml/chat-b"]
    world.read_all(0.0)
    world.run(20 * SECOND, utilization=0.0)
    process = world.process("llm")
    span = process.start(SpanKind.REQUEST, world.now_ns, scheduled_ns=world.now_ns)
    world.run(5 * SECOND, utilization=0.5)
    process.finish(span, world.now_ns)
    world.settle()
    found = by_pod(world)
    assert {pod for _, pod, category in found if category == Category.DIRECT.label} == {""}
    idle = [found[pod.namespace, pod.name, "allocated_idle"] for pod in (A, B)]
    assert min(idle) > 0
    assert abs(idle[0] - idle[1]) <= 100


def test_whose_pod_an_owner_is() -> None:
    """Only what the kubelet says has a pod: no job, no user, nothing malformed."""
    owners = ("pod:ml/a", "pod:ml", "pod:/a", "pod:ml/", "slurm:7", "uid:0", None)
    assert [Pod.of_owner(owner) for owner in owners] == [("ml", "a"), *[None] * 6]
