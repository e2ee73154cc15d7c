"""A double of NVML for tests, ours and yours: it implements `NvmlLibrary`, without a driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar, cast

from apportion.collectors.nvml_error import NvmlCode, error_of
from apportion.collectors.nvml_fields import (
    ENERGY,
    NVLINK_RX_KIB,
    NVLINK_TX_KIB,
    POWER_INSTANT,
    Field,
)
from apportion.collectors.nvml_library import (
    CLOCK_SM,
    EventSet,
    FieldQuery,
    FieldValue,
    GpmQuery,
    Number,
    NvmlHandle,
    ProcessSample,
    RunningProcess,
    SampleQuery,
)

T = TypeVar("T")

EVERY_CALL: Final = "*"
"""The key of `errors` that stands for all functions of a device."""


def _h100_fields() -> dict[Field, int]:
    return {
        POWER_INSTANT: 350_000,
        (185, 0): 348_000,
        (197, 0): 10_000,
        (198, 0): 20_000,
        NVLINK_TX_KIB: 3,
        NVLINK_RX_KIB: 4,
    }


@dataclass(slots=True)
class FakeGpu:
    """One device; change its values between readings. What is None is not supported.

    `errors` maps a function of `NvmlLibrary` (or `EVERY_CALL`) to the code that it answers.
    `field_errors` does so for single fields; a field in neither is not supported, but for the
    energy counter. It has no MIG, no GPM, no sample buffers and no events: the simulator has.
    """

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    name: str = "NVIDIA H100 80GB HBM3"
    energy_mj: int | None = 1_000_000
    power_mw: int | None = 349_000
    power_limit_mw: int | None = 700_000
    utilization_percent: int | None = 75
    memory_percent: int = 30
    memory_used_bytes: int = 1_000
    memory_total_bytes: int | None = 80_000
    celsius: int | None = 55
    has_temperature_v: bool = True
    sm_mhz: int | None = 1_980
    memory_mhz: int | None = 2_619
    numbers: dict[Number, int] = field(default_factory=dict[Number, int])
    fields: dict[Field, int] = field(default_factory=_h100_fields)
    field_errors: dict[Field, int] = field(default_factory=dict[Field, int])
    processes: tuple[RunningProcess, ...] | None = ()
    samples: tuple[ProcessSample, ...] | None = ()
    errors: dict[str, int] = field(default_factory=dict[str, int])


class FakeNvml:
    """NVML over `gpus`. `calls` counts by function and device index (-1 where none is meant).

    `errors` maps a function of the library itself, such as `init`, to the code it answers.
    """

    def __init__(self, gpus: Sequence[FakeGpu], *, driver_version: str = "580.95.05") -> None:
        self.gpus = list(gpus)
        self.driver_version = driver_version
        self.errors: dict[str, int] = {}
        self.calls: Counter[tuple[str, int]] = Counter()
        self.opened = 0

    def init(self) -> None:
        """See `NvmlLibrary`."""
        self._library_call("init")
        self.opened += 1

    def shutdown(self) -> None:
        """See `NvmlLibrary`."""
        self._library_call("shutdown")
        if not self.opened:
            raise error_of(NvmlCode.UNINITIALIZED, "shutdown")
        self.opened -= 1

    def system_get_driver_version(self) -> str:
        """See `NvmlLibrary`."""
        self._library_call("system_get_driver_version")
        return self.driver_version

    def device_get_count(self) -> int:
        """See `NvmlLibrary`."""
        self._library_call("device_get_count")
        return len(self.gpus)

    def device_get_handle_by_index(self, index: int) -> NvmlHandle:
        """See `NvmlLibrary`."""
        handle = NvmlHandle(self.gpus[index])
        self._gpu(handle, "device_get_handle_by_index")
        return handle

    def device_get_uuid(self, handle: NvmlHandle) -> str:
        """See `NvmlLibrary`."""
        return self._gpu(handle, "device_get_uuid").uuid

    def device_get_name(self, handle: NvmlHandle) -> str:
        """See `NvmlLibrary`."""
        return self._gpu(handle, "device_get_name").name

    def device_get_total_energy_consumption(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        function = "device_get_total_energy_consumption"
        return _supported(self._gpu(handle, function).energy_mj, function)

    def device_get_power_usage(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        function = "device_get_power_usage"
        return _supported(self._gpu(handle, function).power_mw, function)

    def device_get_enforced_power_limit(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        function = "device_get_enforced_power_limit"
        return _supported(self._gpu(handle, function).power_limit_mw, function)

    def device_get_utilization_rates(self, handle: NvmlHandle) -> tuple[int, int]:
        """See `NvmlLibrary`."""
        function = "device_get_utilization_rates"
        gpu = self._gpu(handle, function)
        return _supported(gpu.utilization_percent, function), gpu.memory_percent

    def device_get_memory_info_v2(self, handle: NvmlHandle) -> tuple[int, int]:
        """See `NvmlLibrary`."""
        function = "device_get_memory_info_v2"
        gpu = self._gpu(handle, function)
        return gpu.memory_used_bytes, _supported(gpu.memory_total_bytes, function)

    def device_get_temperature_v(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        function = "device_get_temperature_v"
        gpu = self._gpu(handle, function)
        if not gpu.has_temperature_v:
            raise error_of(NvmlCode.FUNCTION_NOT_FOUND, function)
        return _supported(gpu.celsius, function)

    def device_get_temperature(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        function = "device_get_temperature"
        return _supported(self._gpu(handle, function).celsius, function)

    def device_get_clock_info(self, handle: NvmlHandle, clock: int) -> int:
        """See `NvmlLibrary`."""
        function = "device_get_clock_info"
        gpu = self._gpu(handle, function)
        return _supported(gpu.sm_mhz if clock == CLOCK_SM else gpu.memory_mhz, function)

    def device_field_query(
        self, handle: NvmlHandle, fields: Sequence[tuple[int, int]]
    ) -> FieldQuery:
        """See `NvmlLibrary`."""
        self._gpu(handle, "device_field_query")
        return _FakeQuery(self, handle, tuple(fields))

    def device_get_number(self, handle: NvmlHandle, number: Number) -> int:
        """See `NvmlLibrary`."""
        return _supported(self._gpu(handle, number).numbers.get(number), number)

    def device_get_codec_utilization(
        self, handle: NvmlHandle, codec: Literal["Encoder", "Decoder"]
    ) -> int:
        """See `NvmlLibrary`."""
        self._gpu(handle, f"device_get_{codec.lower()}_utilization")
        return _supported(None, "device_get_codec_utilization")

    def device_sample_query(self, handle: NvmlHandle, kind: int) -> SampleQuery:
        """See `NvmlLibrary`."""
        self._gpu(handle, f"device_sample_query of {kind}")
        return _supported(None, "device_sample_query")

    def device_get_mig_mode(self, handle: NvmlHandle) -> bool:
        """See `NvmlLibrary`."""
        self._gpu(handle, "device_get_mig_mode")
        return _supported(None, "device_get_mig_mode")

    def device_get_mig_device_handle_by_index(self, handle: NvmlHandle, index: int) -> NvmlHandle:
        """See `NvmlLibrary`."""
        self._gpu(handle, f"device_get_mig_device_handle_by_index {index}")
        return _supported(None, "device_get_mig_device_handle_by_index")

    def device_get_compute_slices(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        self._gpu(handle, "device_get_compute_slices")
        return _supported(None, "device_get_compute_slices")

    def gpm_query_device_support(self, handle: NvmlHandle) -> bool:
        """See `NvmlLibrary`."""
        self._gpu(handle, "gpm_query_device_support")
        return False

    def gpm_query(
        self, handle: NvmlHandle, metrics: Sequence[int], gpu_instance: int | None = None
    ) -> GpmQuery:
        """See `NvmlLibrary`."""
        self._gpu(handle, f"gpm_query of {metrics} and {gpu_instance}")
        return _supported(None, "gpm_query")

    def event_set_create(self) -> EventSet:
        """See `NvmlLibrary`."""
        self._library_call("event_set_create")
        return _supported(None, "event_set_create")

    def device_get_compute_running_processes_v3(
        self, handle: NvmlHandle
    ) -> tuple[RunningProcess, ...]:
        """See `NvmlLibrary`."""
        function = "device_get_compute_running_processes_v3"
        return _supported(self._gpu(handle, function).processes, function)

    def device_get_process_utilization(
        self, handle: NvmlHandle, last_seen_us: int
    ) -> tuple[ProcessSample, ...]:
        """See `NvmlLibrary`. Stale samples come too, as real drivers return them."""
        function = "device_get_process_utilization"
        samples = _supported(self._gpu(handle, function).samples, function)
        if all(sample.timestamp_us <= last_seen_us for sample in samples):
            raise error_of(NvmlCode.NOT_FOUND, function)
        return samples

    def _library_call(self, function: str) -> None:
        self.calls[function, -1] += 1
        if function in self.errors:
            raise error_of(self.errors[function], function)

    def _gpu(self, handle: NvmlHandle, function: str) -> FakeGpu:
        """The device behind `handle`, after counting the call and raising what it must."""
        gpu = cast("FakeGpu", handle)
        index = next(index for index, each in enumerate(self.gpus) if each is gpu)
        self.calls[function, index] += 1
        if not self.opened:
            raise error_of(NvmlCode.UNINITIALIZED, function)
        code = gpu.errors.get(function, gpu.errors.get(EVERY_CALL))
        if code is not None:
            raise error_of(code, function)
        return gpu


class _FakeQuery:
    """A query that asks its device anew at each read. `asked` is in `FakeNvml.calls`."""

    def __init__(self, library: FakeNvml, handle: NvmlHandle, fields: tuple[Field, ...]) -> None:
        self._library = library
        self._handle = handle
        self._fields = fields

    def read(self) -> Sequence[FieldValue]:
        """See `FieldQuery`."""
        gpu = self._library._gpu(self._handle, "field_query.read")  # noqa: SLF001 - its own part
        index = next(i for i, each in enumerate(self._library.gpus) if each is gpu)
        answers: list[FieldValue] = []
        for each in self._fields:
            self._library.calls[f"field {each[0]}", index] += 1
            code = gpu.field_errors.get(each)
            value = gpu.energy_mj if each == ENERGY else gpu.fields.get(each)
            if code is not None:
                answers.append(FieldValue(code, None))
            elif value is None:
                answers.append(FieldValue(NvmlCode.NOT_SUPPORTED, None))
            else:
                answers.append(FieldValue(NvmlCode.SUCCESS, value))
        return answers


def _supported(value: T | None, function: str) -> T:
    if value is None:
        raise error_of(NvmlCode.NOT_SUPPORTED, function)
    return value
