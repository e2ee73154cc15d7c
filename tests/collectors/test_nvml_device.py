"""One GPU: values, capabilities, sources."""

from __future__ import annotations

import pytest

from apportion.collectors.nvml_device import NvmlDevice
from apportion.collectors.nvml_error import NvmlCode, NvmlDeviceLost, NvmlSourceLost
from apportion.collectors.nvml_fields import (
    NVLINK5_RX,
    NVLINK5_TX,
    PCIE_TX,
    POWER_AVERAGE,
    POWER_INSTANT,
)
from apportion.collectors.nvml_library import ProcessSample, RunningProcess
from apportion.collectors.testing import EVERY_CALL, FakeGpu, FakeNvml
from apportion.core.clock import ManualClock
from apportion.core.errors import DeviceLost
from apportion.core.reading import ProcessReading
from apportion.core.units import Bytes


def opened(gpu: FakeGpu, **options: str) -> tuple[FakeNvml, NvmlDevice, ManualClock]:
    library = FakeNvml([gpu], **options)
    library.init()
    clock = ManualClock(monotonic_ns=5_000)
    return library, NvmlDevice(library, clock, 0, library.driver_version), clock


def test_every_value_in_base_units() -> None:
    """MHz become hertz, KiB bytes, percent ratios: once, here."""
    _, device, _ = opened(FakeGpu(uuid="GPU-a"))
    reading = device.read()
    assert reading.device == "GPU-a"
    assert reading.time_ns == 5_000
    assert (reading.energy_mj, reading.energy_source) == (1_000_000, "energy_counter")
    assert reading.power_mw == 350_000
    assert (reading.utilization_ratio, reading.activity_source) == (0.75, "utilization")
    assert reading.memory_utilization_ratio == 0.3
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (1_000, 80_000)
    assert reading.temperature_celsius == 55.0
    assert (reading.sm_clock_hz, reading.memory_clock_hz) == (1_980_000_000, 2_619_000_000)
    assert (reading.pcie_tx_bytes, reading.pcie_rx_bytes) == (10_000, 20_000)
    assert (reading.nvlink_tx_bytes, reading.nvlink_rx_bytes) == (3 * 1024, 4 * 1024)
    assert reading.processes == ()
    assert device.sources.power_source == "field_instant"
    assert device.sources.unsupported == ()


def test_static_facts() -> None:
    """The name is the key of price tables."""
    _, device, _ = opened(FakeGpu(name="NVIDIA L40S"))
    info = device.info
    assert (info.name, info.index, info.source) == ("NVIDIA L40S", 0, "nvml")
    assert (info.memory_total_bytes, info.power_limit_mw) == (80_000, 700_000)
    assert info.driver_version == "580.95.05"
    assert not info.simulated


def test_simulated_driver_is_labelled() -> None:
    """A simulator is never taken for a GPU."""
    _, device, _ = opened(FakeGpu(), driver_version="580.00.simulated")
    assert device.info.simulated


def test_unsupported_is_none_and_never_asked_again() -> None:
    """Neither a zero in a report nor a driver call per second for nothing."""
    gpu = FakeGpu(
        energy_mj=None,
        power_mw=None,
        power_limit_mw=None,
        utilization_percent=None,
        memory_total_bytes=None,
        celsius=None,
        sm_mhz=None,
        memory_mhz=None,
        fields={},
        processes=None,
        samples=None,
    )
    library, device, _ = opened(gpu)
    first = device.read()
    asked = dict(library.calls)
    second = device.read()
    assert dict(library.calls) == asked
    for reading in (first, second):
        told = {name for name in reading.__slots__ if getattr(reading, name) not in (None, (), {})}
        assert told == {"device", "time_ns"}
    assert device.sources.energy_source is None
    assert device.sources.power_source is None
    assert device.sources.activity_source is None
    assert {"energy", "power", "utilization", "nvlink", "pcie"} <= set(device.sources.unsupported)


def test_fields_that_do_not_exist_are_dropped_from_the_call() -> None:
    """36 links of NVLink 5 are asked for once on a Hopper, not at every reading."""
    library, device, _ = opened(FakeGpu())
    device.read()
    device.read()
    device.read()
    assert library.calls["field 202", 0] == 18
    assert library.calls["field 185", 0] == 1
    assert library.calls["field 186", 0] == 3
    assert library.calls["device_field_query", 0] == 2


def test_nvlink5_is_summed_over_links() -> None:
    """Blackwell counts bytes of each link under other ids."""
    fields = {NVLINK5_TX[0]: 10, NVLINK5_TX[7]: 5, NVLINK5_RX[0]: 1, NVLINK5_RX[7]: 2}
    _, device, _ = opened(FakeGpu(fields=fields))
    for reading in (device.read(), device.read()):
        assert (reading.nvlink_tx_bytes, reading.nvlink_rx_bytes) == (15, 3)


@pytest.mark.parametrize(
    ("fields", "power_mw", "source"),
    [
        ({POWER_INSTANT: 1, POWER_AVERAGE: 2}, 1, "field_instant"),
        ({POWER_AVERAGE: 2}, 2, "field_average"),
        ({PCIE_TX: 9}, 349_000, "power_usage"),
        ({}, 349_000, "power_usage"),
    ],
)
def test_power_source_is_named(
    fields: dict[tuple[int, int], int], power_mw: int, source: str
) -> None:
    """Instant, average and what the driver thinks best differ by tens of watts."""
    _, device, _ = opened(FakeGpu(fields=fields))
    assert device.read().power_mw == power_mw
    assert device.read().power_mw == power_mw
    assert device.sources.power_source == source


def test_no_energy_counter_integrates_power() -> None:
    """Before Volta, and in vGPU guests, energy comes from power and says so."""
    gpu = FakeGpu(energy_mj=None, fields={}, power_mw=100_000)
    _, device, clock = opened(gpu)
    first = device.read()
    clock.advance(10**9)
    gpu.power_mw = 300_000
    second = device.read()
    assert (first.energy_mj, first.energy_source) == (0, "power_integrated")
    assert (second.energy_mj, second.energy_source) == (200_000, "power_integrated")
    assert device.sources.energy_source == "power_integrated"


def test_a_counter_that_fails_once_is_not_replaced() -> None:
    """The counter and the integral have different zeros: mixing them invents energy."""
    gpu = FakeGpu()
    _, device, clock = opened(gpu)
    device.read()
    clock.advance(10**9)
    gpu.errors["device_get_total_energy_consumption"] = NvmlCode.TIMEOUT
    assert device.read().energy_mj is None
    gpu.errors.clear()
    assert device.read().energy_mj == 1_000_000


def test_temperature_falls_back_to_the_old_function() -> None:
    """Drivers before 570 lack the new one."""
    library, device, _ = opened(FakeGpu(has_temperature_v=False))
    assert device.read().temperature_celsius == 55.0
    assert device.read().temperature_celsius == 55.0
    assert library.calls["device_get_temperature_v", 0] == 1


def test_impossible_values_are_absent() -> None:
    """Drivers have returned such rows; a ratio of 40 would be billed."""
    gpu = FakeGpu(
        utilization_percent=4_000,
        memory_percent=-1,
        memory_used_bytes=2**63,
        processes=(RunningProcess(7, 2**63), RunningProcess(0, 1)),
    )
    _, device, _ = opened(gpu)
    reading = device.read()
    assert reading.utilization_ratio is None
    assert reading.activity_source is None
    assert reading.memory_utilization_ratio is None
    assert reading.memory_used_bytes is None
    assert reading.processes == (ProcessReading(7, None, 0.0),)


def test_processes_with_shares() -> None:
    """Samples newer than the last call are averaged; stale and impossible rows are dropped."""
    gpu = FakeGpu(
        processes=(RunningProcess(10, 500), RunningProcess(11, None)),
        samples=(
            ProcessSample(10, 100, 40),
            ProcessSample(10, 200, 60),
            ProcessSample(12, 150, 10),
            ProcessSample(13, 160, 4_000_000),
        ),
    )
    _, device, _ = opened(gpu)
    assert device.read().processes == (
        ProcessReading(10, Bytes(500), 0.5),
        ProcessReading(11, None, 0.0),
        ProcessReading(12, None, 0.1),
    )
    gpu.samples = (ProcessSample(10, 200, 60), ProcessSample(11, 300, 20))
    assert device.read().processes == (
        ProcessReading(10, Bytes(500), 0.0),
        ProcessReading(11, None, 0.2),
    )


def test_nobody_running_is_idle_not_an_error() -> None:
    """NVML answers NOT_FOUND to who used the GPU; that is an answer."""
    gpu = FakeGpu(processes=(RunningProcess(10, 500),), samples=())
    library, device, _ = opened(gpu)
    for _ in range(3):
        assert device.read().processes == (ProcessReading(10, Bytes(500), 0.0),)
    assert library.calls["device_get_process_utilization", 0] == 3


def test_shares_that_cannot_be_told_are_absent() -> None:
    """On a MIG GPU nobody knows the share: not 0."""
    _, device, _ = opened(FakeGpu(processes=(RunningProcess(10, 500),), samples=None))
    assert device.read().processes == (ProcessReading(10, Bytes(500), None),)


def test_transient_trouble_costs_one_value_once() -> None:
    """UNKNOWN for the clocks is no reason to lose the energy."""
    gpu = FakeGpu(errors={"device_get_clock_info": NvmlCode.UNKNOWN})
    gpu.field_errors[POWER_INSTANT] = NvmlCode.TIMEOUT
    _, device, _ = opened(gpu)
    reading = device.read()
    assert reading.sm_clock_hz is None
    assert reading.energy_mj == 1_000_000
    gpu.errors.clear()
    gpu.field_errors.clear()
    assert device.read().sm_clock_hz == 1_980_000_000
    assert device.read().power_mw == 350_000


def test_a_device_that_tells_nothing_is_lost() -> None:
    """A GPU that answers UNKNOWN to everything is not a GPU with unsupported values."""
    gpu = FakeGpu()
    _, device, _ = opened(gpu)
    device.read()
    gpu.errors[EVERY_CALL] = NvmlCode.UNKNOWN
    with pytest.raises(DeviceLost, match="told nothing"):
        device.read()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (NvmlCode.GPU_IS_LOST, NvmlDeviceLost),
        (NvmlCode.RESET_REQUIRED, NvmlDeviceLost),
        (NvmlCode.UNINITIALIZED, NvmlSourceLost),
        (NvmlCode.LIB_RM_VERSION_MISMATCH, NvmlSourceLost),
    ],
)
def test_lifecycle_codes_end_the_reading(code: int, error: type[Exception]) -> None:
    """From a function or from a field alike."""
    gpu = FakeGpu()
    _, device, _ = opened(gpu)
    gpu.errors["device_get_memory_info_v2"] = code
    with pytest.raises(error):
        device.read()
    gpu.errors.clear()
    gpu.field_errors[POWER_INSTANT] = code
    with pytest.raises(error):
        device.read()
