"""Devices that end and come back, as MIG makes them: their time while away is nobody's."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from tests.agent.pipeline.world import SECOND, World, rate

from apportion.agent.pipeline.device import GIVE_UP_NS
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import Millijoules, MonotonicNs
from apportion.cost.audit import audit

WHOLE = DeviceInfo(DeviceId("GPU-0"), "NVIDIA H100 80GB HBM3", 0, "nvml")
PART = DeviceInfo(DeviceId("MIG-1"), "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 0, "nvml")
REST = DeviceInfo(DeviceId("GPU-0/unallocated"), "NVIDIA H100 MIG unallocated 4/7", 0, "nvml")
PRICES = [rate(Fraction("2.4"), name) for name in (WHOLE.name, PART.name, REST.name)]


class Gpu:
    """One GPU of a world, as the device or devices that it is from time to time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.energy_mj = 5_000
        self.now: tuple[DeviceInfo, ...] = (WHOLE,)
        self.read()

    def read(self) -> None:
        """A reading of every device that it is now."""
        for info in self.now:
            self.world.settlement.read(
                info,
                Reading(
                    info.device,
                    MonotonicNs(self.world.now_ns),
                    energy_mj=Millijoules(self.energy_mj),
                    energy_source="energy_counter",
                    utilization_ratio=0.0,
                ),
            )

    def run(self, seconds: int) -> None:
        """Let time pass: a reading a second, a tick every five."""
        for second in range(1, seconds + 1):
            self.world.clock.advance(SECOND)
            self.energy_mj += 100_000
            self.read()
            if second % 5 == 0:
                self.world.tick()

    def become(self, *infos: DeviceInfo) -> None:
        """From this reading on the GPU is these devices."""
        for info in set(self.now) - set(infos):
            self.world.settlement.end(info.device)
        self.now = infos
        self.read()

    def settled_s(self) -> dict[str, float]:
        """Settled seconds of each of the ledger's devices, by name."""
        names = {row["device_key"]: row["name"] for row in self.world.rows("device")}
        seconds: dict[str, float] = {}
        for row in self.world.rows("settlement"):
            name = names[row["device_key"]]
            seconds[name] = seconds.get(name, 0) + (row["end_ns"] - row["start_ns"]) / SECOND
        return seconds


def test_the_time_of_a_gpu_is_that_of_its_devices_of_the_moment() -> None:
    """Whole, cut and whole again: each second is paid once, whichever device it is of."""
    gpu = Gpu(World(PRICES))
    gpu.run(20)
    gpu.become(PART)
    gpu.run(30)
    gpu.become(WHOLE)
    gpu.run(20)
    assert gpu.settled_s() == {WHOLE.name: 38.0, PART.name: 30.0}
    assert audit(gpu.world.ledger).holds


def test_a_restart_does_not_wait_for_a_device_that_is_away() -> None:
    """What ended is known to have ended; when it comes back it goes on, without its time away."""
    gpu = Gpu(World(PRICES))
    gpu.run(20)
    gpu.become(PART)
    gpu.run(20)
    assert list(gpu.world.boot_agent().devices) == [PART.device]
    gpu.run(20)
    gpu.become(WHOLE)
    gpu.run(10)
    gpu.world.boot_agent()
    gpu.run(10)
    assert gpu.settled_s() == {WHOLE.name: 38.0, PART.name: 40.0}
    assert audit(gpu.world.ledger).holds


@pytest.mark.parametrize("statement", range(3))
def test_an_end_that_is_not_committed_is_committed_later(statement: int) -> None:
    """A ledger that fails keeps both the end and the return for the next tick."""
    gpu = Gpu(World(PRICES))
    gpu.run(20)
    gpu.become(PART)
    gpu.world.ledger.fail_at = statement
    gpu.run(20)
    gpu.become(WHOLE)
    gpu.world.ledger.fail_at = statement
    gpu.run(30)
    assert gpu.settled_s() == {WHOLE.name: 48.0, PART.name: 20.0}
    assert audit(gpu.world.ledger).holds


def test_what_is_left_over_is_another_device_when_its_size_changes() -> None:
    """The same id with another name has another price, and settles under its own name."""
    gpu = Gpu(World(PRICES))
    gpu.become(REST)
    gpu.run(20)
    larger = replace(REST, name=WHOLE.name)
    gpu.now = (larger,)
    gpu.read()
    gpu.run(20)
    assert gpu.settled_s() == {REST.name: 20.0, WHOLE.name: 18.0}
    assert audit(gpu.world.ledger).holds


def test_a_return_before_the_end_is_settled() -> None:
    """No time is charged twice or missed, where a device goes and comes within a tick."""
    gpu = Gpu(World(PRICES))
    gpu.run(20)
    gpu.become(PART)
    gpu.run(2)
    gpu.become(WHOLE)
    gpu.run(23)
    assert gpu.settled_s() == {PART.name: 2.0, WHOLE.name: 38.0}
    assert audit(gpu.world.ledger).holds


def test_two_lives_of_one_id_survive_a_crash() -> None:
    """The end of the first was not committed: it is away from its watermark on, and may return."""
    gpu = Gpu(World(PRICES))
    gpu.become(REST)
    gpu.run(20)
    gpu.now = (replace(REST, name=WHOLE.name),)
    gpu.read()
    gpu.world.tick()
    gpu.world.boot_agent()
    gpu.run(20)
    gpu.world.boot_agent()
    gpu.now = (REST,)
    gpu.run(20)
    assert audit(gpu.world.ledger).holds


def test_a_part_that_does_not_come_back_after_a_restart_has_no_time() -> None:
    """Its GPU is there, as other devices: an instance that is awaited in vain was destroyed."""
    gpu = Gpu(World(PRICES))
    gpu.become(PART)
    gpu.run(20)
    gpu.world.boot_agent()
    gpu.now = (WHOLE,)
    gpu.run(GIVE_UP_NS // SECOND + 20)
    gpu.become(PART)
    gpu.run(20)
    assert gpu.settled_s()[PART.name] == pytest.approx(36, abs=3)
    assert audit(gpu.world.ledger).holds
