"""One GPU: values, capabilities, sources."""

from __future__ import annotations

import pytest

from apportion.collectors.collector import DeviceSources
from apportion.collectors.nvml_ask import FORGET_EVERY
from apportion.collectors.nvml_error import NvmlCode, NvmlDeviceLost, NvmlSourceLost
from apportion.collectors.nvml_fields import (
    ENERGY,
    NVLINK5_RX,
    NVLINK5_TX,
    PCIE_TX,
    POWER_AVERAGE,
    POWER_INSTANT,
)
from apportion.collectors.nvml_gpu import FACTS_EVERY, SLOW_EVERY, NvmlGpu
from apportion.collectors.nvml_library import ProcessSample, RunningProcess
from apportion.collectors.nvml_messages import DeviceAnswer
from apportion.collectors.nvml_telemetry import KEYS
from apportion.collectors.testing import EVERY_CALL, FakeGpu, FakeNvml
from apportion.core.clock import ManualClock
from apportion.core.errors import DeviceLost
from apportion.core.reading import DeviceInfo, ProcessReading, Reading
from apportion.core.sample import Sample
from apportion.core.units import Bytes


class Device:
    """A GPU that is always read anew in full; what it says of itself is kept."""

    def __init__(self, gpu: NvmlGpu) -> None:
        self._gpu = gpu
        self.answer = DeviceAnswer(0)
        self._infos: list[DeviceInfo] = []
        self._sources: list[DeviceSources] = []

    def read(self, *, fresh: bool = True) -> Reading:
        self.answer = self._gpu.read(fresh=fresh)
        self._infos += self.answer.devices
        self._sources += self.answer.sources
        (reading,) = self.answer.readings
        return reading

    def processes(self) -> tuple[ProcessReading, ...] | None:
        self.read()
        (facts,) = self.answer.slow
        return facts.processes

    @property
    def info(self) -> DeviceInfo:
        return self._infos[-1]

    @property
    def sources(self) -> DeviceSources:
        return self._sources[-1]


def opened(gpu: FakeGpu, **options: str) -> tuple[FakeNvml, Device, ManualClock]:
    library = FakeNvml([gpu], **options)
    library.init()
    clock = ManualClock(monotonic_ns=5_000)
    return library, Device(NvmlGpu(library, clock, 0, library.driver_version)), clock


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
    assert device.processes() == ()
    assert device.sources.power_source == "field_instant"
    assert {"gpm", "power_samples"} <= set(device.sources.unsupported)
    assert "power" not in device.sources.unsupported


def test_static_facts() -> None:
    """The name is the key of price tables."""
    _, device, _ = opened(FakeGpu(name="NVIDIA L40S"))
    device.read()
    info = device.info
    assert (info.name, info.index, info.source) == ("NVIDIA L40S", 0, "nvml")
    assert (info.memory_total_bytes, info.power_limit_mw) == (80_000, 700_000)
    assert info.driver_version == "580.95.05"
    assert not info.simulated


def test_simulated_driver_is_labelled() -> None:
    """A simulator is never taken for a GPU."""
    _, device, _ = opened(FakeGpu(), driver_version="580.00.simulated")
    device.read()
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
    assert library.calls["device_field_query", 0] == 3  # and one for what is read rarely


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
    gpu.field_errors[ENERGY] = NvmlCode.TIMEOUT
    assert device.read().energy_mj is None
    gpu.field_errors.clear()
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
    assert device.processes() == (ProcessReading(7, None, 0.0),)


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
    assert device.processes() == (
        ProcessReading(10, Bytes(500), 0.5),
        ProcessReading(11, None, 0.0),
        ProcessReading(12, None, 0.1),
    )
    gpu.samples = (ProcessSample(10, 200, 60), ProcessSample(11, 300, 20))
    assert device.processes() == (
        ProcessReading(10, Bytes(500), 0.0),
        ProcessReading(11, None, 0.2),
    )


def test_nobody_running_is_idle_not_an_error() -> None:
    """NVML answers NOT_FOUND to who used the GPU; that is an answer."""
    gpu = FakeGpu(processes=(RunningProcess(10, 500),), samples=())
    library, device, _ = opened(gpu)
    for _ in range(3):
        assert device.processes() == (ProcessReading(10, Bytes(500), 0.0),)
    assert library.calls["device_get_process_utilization", 0] == 3


def test_shares_that_cannot_be_told_are_absent() -> None:
    """On a MIG GPU nobody knows the share: not 0."""
    _, device, _ = opened(FakeGpu(processes=(RunningProcess(10, 500),), samples=None))
    assert device.processes() == (ProcessReading(10, Bytes(500), None),)


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


def test_old_drivers_have_the_function_for_energy_only() -> None:
    """A field that does not exist is no missing counter."""
    gpu = FakeGpu(field_errors={ENERGY: NvmlCode.INVALID_ARGUMENT})
    library, device, _ = opened(gpu)
    assert device.read().energy_mj == 1_000_000
    assert device.read().energy_source == "energy_counter"
    assert library.calls["device_get_total_energy_consumption", 0] == 2
    assert library.calls["field 83", 0] == 1


def test_what_changes_rarely_is_read_rarely() -> None:
    """Process lists cost milliseconds of some drivers; the first reading has everything."""
    gpu = FakeGpu(processes=(RunningProcess(10, 500),))
    library, device, _ = opened(gpu)
    for _ in range(2 * SLOW_EVERY):
        device.read(fresh=False)
    assert library.calls["device_get_compute_running_processes_v3", 0] == 2
    assert library.calls["field 83", 0] == 2 * SLOW_EVERY
    device.read(fresh=True)
    assert library.calls["device_get_compute_running_processes_v3", 0] == 3


def test_errors_and_rows_as_samples() -> None:
    """Counters by severity, what a reset would do, and what the driver asks for."""
    gpu = FakeGpu(numbers={"CurrentClocksEventReasons": 0x44, "CurrPcieLinkWidth": 8})
    gpu.fields.update(
        {(3, 0): 7, (4, 0): 1, (6, 0): 2, (142, 0): 5, (144, 0): 1, (230, 0): 4, (270, 0): 1_500}
    )
    _, device, _ = opened(gpu)
    reading = device.read()
    (facts,) = device.answer.slow
    told = {(name, *labels): value for name, value, labels in (*reading.samples, *facts.samples)}
    assert told["device_throttle_active", ("reason", "power")] == 1
    assert told["device_throttle_active", ("reason", "hw_thermal")] == 1
    assert told["device_throttle_active", ("reason", "sw_thermal")] == 0
    assert told["device_throttled_seconds_total", ("reason", "hw_thermal")] == 1.5e-6
    assert told["device_ecc_errors_total", ("severity", "corrected")] == 7
    assert told["device_ecc_errors_total", ("severity", "uncorrected")] == 1
    assert told["device_ecc_lifetime_errors_total", ("severity", "uncorrected")] == 2
    assert told["device_remapped_rows", ("severity", "corrected")] == 5
    assert told["device_row_remap_pending",] == 1
    assert told["device_recovery_action", ("action", "drain_and_reset")] == 1
    assert told["device_pcie_link_width", ("bound", "current")] == 8
    assert ("device_pcie_link_width", ("bound", "max")) not in told
    assert Sample("device_processes", 0) in facts.samples


def test_every_sample_has_a_place_on_the_wire() -> None:
    """The child and its parent name a sample by its place in one table."""
    assert len(set(KEYS)) == len(KEYS)


def test_rights_that_are_given_later() -> None:
    """What was forbidden is asked for again after a while; what does not exist is not."""
    gpu = FakeGpu(errors={"device_get_clock_info": NvmlCode.NO_PERMISSION})
    library, device, _ = opened(gpu)
    assert device.read().sm_clock_hz is None
    gpu.errors.clear()
    readings = [device.read(fresh=False) for _ in range(FORGET_EVERY)]
    assert readings[-1].sm_clock_hz == 1_980_000_000
    assert library.calls["gpm_query_device_support", 0] == 1


def test_a_gpu_that_forbids_everything_has_failed() -> None:
    """Neither a GPU without capabilities, nor one that is idle."""
    gpu = FakeGpu()
    _, device, _ = opened(gpu)
    device.read()
    gpu.errors[EVERY_CALL] = NvmlCode.NO_PERMISSION
    with pytest.raises(DeviceLost, match="may not read it"):
        device.read()


def test_a_limit_that_a_person_changes_is_noticed() -> None:
    """Static facts are read rarely, not only once."""
    gpu = FakeGpu()
    _, device, _ = opened(gpu)
    device.read()
    gpu.power_limit_mw = 500_000
    for _ in range(FACTS_EVERY):
        device.read(fresh=False)
    assert device.info.power_limit_mw == 500_000
