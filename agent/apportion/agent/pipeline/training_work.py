"""What a trainer computed, by what it says of its model, and what its devices could have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apportion.agent.snapshot import TrainingWork
from apportion.core.category import SpanKind, SpanStatus
from apportion.core.device_facts import DeviceFacts
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.agent.pipeline.spans import Decoded


def training_work(ring: RingState, read: Decoded, registry: Registry) -> TrainingWork | None:
    """Of steps that ended well and have tokens; None where there are none, or too little is known.

    Both sums are of the same whole steps: one may last longer than the time that is looked at.
    """
    peak = None if ring.group is None else _peak(registry, registry.groups.value(ring.group))
    if ring.flops_per_token is None or peak is None:
        return None
    records = read.records
    chosen = (records["parent"] == 0) & (records["tokens"] > 0)
    chosen &= (read.kind == int(SpanKind.STEP)) & (read.status == int(SpanStatus.OK))
    steps = records[chosen]
    if not steps.size:
        return None
    tokens = sum(steps["tokens"].tolist())
    took_ns = sum((steps["end_ns"] - steps["start_ns"]).tolist())
    return TrainingWork(tokens * ring.flops_per_token, peak * took_ns // NS_PER_SECOND)


def _peak(registry: Registry, devices: Iterable[int]) -> int | None:
    """Operations a second of all these devices; None where one's is not known."""
    facts = [DeviceFacts.named(registry.devices.value(key).name) for key in devices]
    known = [int(each.flop_per_s) for each in facts if each is not None]
    return sum(known) if len(known) == len(facts) else None
