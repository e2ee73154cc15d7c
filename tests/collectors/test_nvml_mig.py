"""MIG: instances as devices of their own, whose energy is the GPU's and no more."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.collector import Batch
from apportion.collectors.nvml_chip import Chip
from apportion.collectors.nvml_library import NvmlHandle
from apportion.collectors.nvml_mig import MigInstance, MigLayout
from apportion.collectors.nvml_parts import NvmlParts
from apportion.collectors.nvml_process import NvmlProcess
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import SystemClock
from apportion.core.errors import CollectorError
from apportion.core.ids import DeviceId
from apportion.core.reading import Reading
from apportion.core.units import Millijoules, Milliwatts, MonotonicNs
from apportion.simulator import ProcessLoad, Simulator

Until = Callable[[Callable[[], bool]], None]
GPU = DeviceId("GPU-0")
sizes = st.lists(st.integers(1, 7), max_size=7).filter(lambda sizes: sum(sizes) <= 7)
amounts = st.integers(0, 2**62)


def layout(sizes: list[int]) -> MigLayout:
    instances = tuple(
        MigInstance(NvmlHandle(None), DeviceId(f"MIG-{n}"), f"H100 MIG {size}g.10gb", n, size)
        for n, size in enumerate(sizes)
    )
    return MigLayout(GPU, "H100", 7, instances)


@given(sizes, amounts)
def test_parts_add_up_exactly(sizes: list[int], amount: int) -> None:
    """To the millijoule, whatever the counter shows."""
    cut = layout(sizes)
    assert sum(part.of(amount, cut.whole) for part in cut.parts) == amount


@given(sizes, amounts, st.integers(0, 1_000))
def test_a_part_only_rises(sizes: list[int], amount: int, more: int) -> None:
    """A counter that falls would be taken for one that was reset, and all of it for new energy."""
    cut = layout(sizes)
    for part in cut.parts:
        grown = part.of(amount + more, cut.whole) - part.of(amount, cut.whole)
        assert 0 <= grown <= more
        assert abs(grown - more * part.size / cut.whole) < part.size


def test_the_rest_is_named_after_what_is_beside_it() -> None:
    """Its name is the key of its price."""
    assert [part.name for part in layout([3, 2]).parts] == [
        "H100 MIG 3g.10gb",
        "H100 MIG 2g.10gb",
        "H100 MIG unallocated beside 2g.10gb,3g.10gb",
    ]
    assert [part.device for part in layout([]).parts] == ["GPU-0/unallocated"]
    assert [part.size for part in layout([4, 3]).parts] == [4, 3]


def chip(energy_mj: int) -> Chip:
    return Chip(
        MonotonicNs(1),
        Millijoules(energy_mj),
        "energy_counter",
        Milliwatts(700_001),
        temperature_celsius=None,
        sm_clock_hz=None,
        memory_clock_hz=None,
        pcie_tx_bytes=None,
        pcie_rx_bytes=None,
        nvlink_tx_bytes=None,
        nvlink_rx_bytes=None,
        samples=(),
    )


@given(sizes, sizes, st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_a_changed_layout_moves_no_counter_back(
    before: list[int], after: list[int], steps: list[int]
) -> None:
    """An instance that stays may find itself on other slices: it waits, and nothing is lost."""
    parts, energy_mj = NvmlParts(), 1_000_003
    last: dict[str, int] = {}
    for place, step in enumerate(steps):
        energy_mj += step
        cut = layout(before if place < len(steps) // 2 else after)
        readings = parts.readings(cut, chip(energy_mj), {})
        # By name: beside other instances the rest is another device.
        told = {
            f"{part.device} {part.name}": reading.energy_mj or 0
            for part, reading in zip(cut.parts, readings, strict=True)
        }
        assert all(told[name] >= last.get(name, 0) for name in told)
        assert 0 <= sum(told.values()) - energy_mj <= 2 * cut.whole
        last = told
    energy_mj += 1_000
    settled = parts.readings(layout(after), chip(energy_mj), {})
    assert sum(reading.energy_mj or 0 for reading in settled) == energy_mj
    assert sum(reading.power_mw or 0 for reading in settled) == 700_001


def test_a_counter_of_the_gpu_that_was_reset_is_a_reset_of_its_parts() -> None:
    """Settlement sees it and does not make up energy."""
    parts = NvmlParts()
    parts.readings(layout([7]), chip(1_000), {})
    (reading,) = parts.readings(layout([7]), chip(10), {})
    assert reading.energy_mj == 10


class Gathered:
    """Every batch of a collector on the simulator, so far."""

    def __init__(self, collector: NvmlProcess) -> None:
        self.collector = collector
        self.batches: list[Batch] = []

    def __call__(self) -> Gathered:
        try:
            self.batches.append(self.collector.collect())
        except CollectorError:
            return self
        return self

    def sweeps(self) -> int:
        readings = Counter(each.device for batch in self.batches for each in batch.readings)
        return min(readings.values(), default=0)

    def names(self) -> dict[str, str]:
        return {info.device: info.name for batch in self.batches for info in batch.devices}


@pytest.fixture
def gathered(simulator: Simulator, simulated: Mapping[str, str]) -> Gathered:
    del simulator
    options = CollectorOptions(period_ns=200_000_000, environment=simulated)
    return Gathered(NvmlProcess(options, SystemClock()))


def test_instances_are_devices(simulator: Simulator, gathered: Gathered, until: Until) -> None:
    """With energy that adds up to the GPU's, their own activity and processes; the GPU is none."""
    three, two = simulator.set_mig(1, ["3g.40gb", "2g.20gb"])
    simulator.set_utilization(1, 0.5, instance=0)
    simulator.set_processes(1, [ProcessLoad(4_711, 1_000, instance=1)])
    rest = f"{simulator.uuids[1]}/unallocated"
    gathered.collector.start()
    try:
        until(lambda: len(gathered().names()) == 5 and gathered.sweeps() > 3)
        readings = defaultdict[DeviceId, list[Reading]](list)
        for batch in gathered.batches:
            for reading in batch.readings:
                readings[reading.device].append(reading)
    finally:
        gathered.collector.close()
    assert set(readings) == {simulator.uuids[0], simulator.uuids[2], three, two, rest}
    last = {device: each[-1] for device, each in readings.items()}
    assert last[DeviceId(three)].utilization_ratio == pytest.approx(0.5)
    assert last[DeviceId(two)].utilization_ratio == 0
    assert (last[DeviceId(rest)].utilization_ratio, last[DeviceId(rest)].activity_source) == (
        0,
        "unallocated",
    )
    assert [process.pid for process in last[DeviceId(two)].processes or ()] == [4_711]
    assert last[DeviceId(three)].processes == ()
    for sweep in zip(*(readings[DeviceId(device)] for device in (three, two, rest)), strict=False):
        energies = [reading.energy_mj or 0 for reading in sweep]
        assert energies[0] // 3 == pytest.approx(energies[1] // 2, abs=2)
        assert energies[1] == pytest.approx(energies[2], abs=2)
        assert {reading.energy_source for reading in sweep} == {"energy_counter_share"}
        assert len({reading.time_ns for reading in sweep}) == 1
    samples = [each for batch in gathered.batches for each in batch.samples or ()]
    of_gpu = {name for name, _, labels in samples if ("device", simulator.uuids[1]) in labels}
    assert {"device_temperature_celsius", "device_ecc_errors_total"} <= of_gpu
    assert not {"device_energy_joules_total", "device_power_watts"} & of_gpu


def test_a_changed_layout_ends_devices(
    simulator: Simulator, gathered: Gathered, until: Until
) -> None:
    """Each that is gone has a last reading at the time of the first of those that came."""
    three, two = simulator.set_mig(1, ["3g.40gb", "2g.20gb"])
    rest = f"{simulator.uuids[1]}/unallocated"
    gathered.collector.start()
    try:
        until(lambda: len(gathered().names()) == 5)
        (_, four) = simulator.set_mig(1, ["3g.40gb", "4g.40gb"])
        until(lambda: four in gathered().names())
        simulator.set_mig(1, None)
        until(lambda: simulator.uuids[1] in gathered().names())
    finally:
        gathered.collector.close()
    read = {reading.device for batch in gathered.batches for reading in batch.readings}
    told = [each for batch in gathered.batches for each in batch.ended]
    _, *ended = [each for each in told if each.device in read]
    # What the GPUs could have been before is told at once: an earlier agent may have known it.
    whole, cut = simulator.uuids[:2]
    assert {each.device for each in told[:2]} == {f"{whole}/unallocated", cut}
    assert [each.device for each in ended] == [two, rest, three, four]
    first = {
        reading.device: reading
        for batch in reversed(gathered.batches)
        for reading in reversed(batch.readings)
    }
    assert first[DeviceId(four)].time_ns == ended[0].time_ns == ended[1].time_ns
    assert first[DeviceId(simulator.uuids[1])].time_ns == ended[2].time_ns
    of_gpu = first[DeviceId(simulator.uuids[1])]
    last = {
        reading.device: reading
        for batch in gathered.batches
        for reading in batch.readings
        if reading.device in {three, four}
    }
    assert sum(reading.energy_mj or 0 for reading in last.values()) == of_gpu.energy_mj
