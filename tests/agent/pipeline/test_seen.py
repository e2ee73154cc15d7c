"""What the collectors have shown: who holds a device, and for how long that is believed."""

from __future__ import annotations

from apportion.agent.pipeline.seen import SILENT_NS, Seen
from apportion.collectors.collector import Batch
from apportion.core.allocation import Allocation
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo
from apportion.cost.rate import PriceTable

GPU = DeviceId("GPU-1")
SHOWN = Batch(devices=(DeviceInfo(GPU, "NVIDIA H100 80GB HBM3", 3, "nvml"),))


def given(*owners: str, device: str = GPU) -> Batch:
    return Batch(allocations=tuple(Allocation(DeviceId(device), owner) for owner in owners))


def test_holders_come_from_every_source_by_id_or_index() -> None:
    """A kubelet names UUIDs, a prolog may name NVML's index; a replica counts each time."""
    seen = Seen(PriceTable())
    seen.take(SHOWN)
    seen.take(given("pod:b/b", "pod:a/a", "pod:a/a"), "kubernetes", 10)
    seen.take(given("slurm:7", device="3"), "slurm", 10)
    assert seen.holders(GPU, 10) == ["pod:a/a", "pod:a/a", "pod:b/b", "slurm:7"]


def test_a_newer_answer_replaces_the_older_one() -> None:
    """A pod that is gone holds nothing."""
    seen = Seen(PriceTable())
    seen.take(SHOWN)
    seen.take(given("pod:a/a"), "kubernetes", 10)
    seen.take(given(), "kubernetes", 20)
    assert seen.holders(GPU, 20) == []


def test_a_silent_source_is_not_believed_for_ever() -> None:
    """After a kubelet's death its last answer is old news."""
    seen = Seen(PriceTable())
    seen.take(SHOWN)
    seen.take(given("pod:a/a"), "kubernetes", 10)
    assert seen.holders(GPU, 10 + SILENT_NS) == ["pod:a/a"]
    assert seen.holders(GPU, 11 + SILENT_NS) == []
