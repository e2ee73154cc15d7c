"""What the collectors have shown: who holds a device, and for how long that is believed."""

from __future__ import annotations

import logging

import pytest

from apportion.agent.pipeline.seen import SILENT_NS, Seen
from apportion.collectors.collector import Batch, DeviceFailure, Ended, FailureKind
from apportion.core.allocation import Allocation
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import MonotonicNs
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


def test_a_failure_lasts_until_the_next_reading() -> None:
    """It is that of a GPU wherever it is listed; one that never said its name has its place."""
    seen = Seen(PriceTable())
    seen.take(SHOWN)
    info = seen.infos[GPU]
    lost = DeviceFailure(GPU, 3, "GPU is lost", FailureKind.LOST)
    nameless = DeviceFailure(None, 5, "no permission", FailureKind.FORBIDDEN)
    elsewhere = DeviceFailure(DeviceId("GPU-2"), 3, "it was listed here", FailureKind.VANISHED)
    seen.take(Batch(failures=(lost, nameless, elsewhere)), "nvml", 7)
    assert seen.failures(7) == [lost, nameless, elsewhere]
    assert seen.failures(8) == []
    assert seen.failure_of(info, 7) is lost
    seen.take(Batch(readings=(Reading(GPU, MonotonicNs(8)),)), "nvml", 8)
    assert seen.failure_of(info, 7) is None
    assert seen.failures(7) == [nameless, elsewhere]


def test_the_failure_of_a_gpu_is_that_of_its_parts() -> None:
    """MIG instances are listed under their GPU's place, and fail with it."""
    seen = Seen(PriceTable())
    part = DeviceInfo(DeviceId("MIG-1"), "NVIDIA H100 MIG 3g", 3, "nvml")
    seen.take(Batch(devices=(part,)))
    lost = DeviceFailure(GPU, 3, "GPU is lost", FailureKind.LOST)
    seen.take(Batch(failures=(lost,)), "nvml", 7)
    assert seen.failure_of(part, 7) is lost
    seen.take(Batch(readings=(Reading(part.device, MonotonicNs(8)),)), "nvml", 8)
    assert seen.failures(7) == []


def test_what_ended_is_forgotten_unless_another_device_has_its_id() -> None:
    """A GPU that MIG cuts is shown no longer; what is left over of it may have become smaller."""
    rest = DeviceId(f"{GPU}/unallocated")
    larger, smaller = (DeviceInfo(rest, name, 3, "nvml") for name in ("7/7", "3/7"))
    seen = Seen(PriceTable())
    seen.take(SHOWN)
    seen.take(Batch(devices=(larger,), ended=(Ended(GPU, MonotonicNs(1)),)))
    assert list(seen.infos) == [rest]
    seen.take(Batch(devices=(smaller,), ended=(Ended(rest, MonotonicNs(2)),)))
    assert seen.infos == {rest: smaller}


def test_each_device_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """When it is first shown; a simulated one as a warning that says SIMULATED."""
    seen = Seen(PriceTable())
    fake = DeviceInfo(DeviceId("GPU-2"), "NVIDIA H100 80GB HBM3", 4, "nvml", simulated=True)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            seen.take(SHOWN)
            seen.take(Batch(devices=(fake,)))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "device 3: NVIDIA H100 80GB HBM3, GPU-1"),
        ("WARNING", "SIMULATED device 4: NVIDIA H100 80GB HBM3, GPU-2"),
    ]
