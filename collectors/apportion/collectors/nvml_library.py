"""NVML as Python sees it, one to one: the seam that tests replace.

Names are NVML's own in snake case, units are NVML's own too (milliwatts, MHz, percent).
This is the only module that imports `pynvml` (of the distribution nvidia-ml-py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NewType, Protocol, cast

import pynvml  # pyright: ignore[reportMissingTypeStubs]

from apportion.collectors.nvml_error import NvmlCode, error_of

NvmlHandle = NewType("NvmlHandle", object)
"""nvmlDevice_t; valid until `shutdown`."""

ALL_LINKS: Final = 0xFFFF_FFFF
"""A field's scope that sums over every NVLink."""

CLOCK_SM: Final = 1
CLOCK_MEMORY: Final = 2


@dataclass(frozen=True, slots=True)
class FieldValue:
    """One answer of nvmlDeviceGetFieldValues; `value` is None unless `code` is success."""

    code: int
    value: int | None


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process with a context on the device; `memory_bytes` is None where hidden."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """A process's share of the SMs, in percent, up to `timestamp_us`."""

    pid: int
    timestamp_us: int
    sm_percent: int


class FieldQuery(Protocol):
    """The fields of one device, asked for in one call with one preallocated array."""

    def read(self) -> Sequence[FieldValue]:
        """The values, in the order of the fields."""
        ...


class NvmlLibrary(Protocol):
    """What is used of NVML. Every method raises `NvmlError` (see `nvml_error`)."""

    def init(self) -> None:
        """Open NVML; it may take seconds without persistence mode."""
        ...

    def shutdown(self) -> None:
        """Undo one `init`."""
        ...

    def system_get_driver_version(self) -> str:
        """Such as 580.95.05."""
        ...

    def device_get_count(self) -> int:
        """GPUs on the node, those that cannot be opened included."""
        ...

    def device_get_handle_by_index(self, index: int) -> NvmlHandle:
        """The device at `index` of the PCI order."""
        ...

    def device_get_uuid(self, handle: NvmlHandle) -> str:
        """GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx."""
        ...

    def device_get_name(self, handle: NvmlHandle) -> str:
        """The product's name, the key of price tables."""
        ...

    def device_get_total_energy_consumption(self, handle: NvmlHandle) -> int:
        """Millijoules since the driver was loaded."""
        ...

    def device_get_power_usage(self, handle: NvmlHandle) -> int:
        """Milliwatts; which average depends on the architecture."""
        ...

    def device_get_enforced_power_limit(self, handle: NvmlHandle) -> int:
        """Milliwatts."""
        ...

    def device_get_utilization_rates(self, handle: NvmlHandle) -> tuple[int, int]:
        """Percent of the last sample period with a kernel running, with memory traffic."""
        ...

    def device_get_memory_info_v2(self, handle: NvmlHandle) -> tuple[int, int]:
        """Bytes used (without the driver's reserve) and in total."""
        ...

    def device_get_temperature_v(self, handle: NvmlHandle) -> int:
        """Degrees Celsius of the GPU's sensor."""
        ...

    def device_get_temperature(self, handle: NvmlHandle) -> int:
        """The same from drivers that lack the former."""
        ...

    def device_get_clock_info(self, handle: NvmlHandle, clock: int) -> int:
        """MHz of `CLOCK_SM` or `CLOCK_MEMORY`."""
        ...

    def device_field_query(
        self, handle: NvmlHandle, fields: Sequence[tuple[int, int]]
    ) -> FieldQuery:
        """The (field id, scope id) pairs to ask for, as nvmlDeviceGetFieldValues takes them."""
        ...

    def device_get_compute_running_processes_v3(
        self, handle: NvmlHandle
    ) -> tuple[RunningProcess, ...]:
        """Processes with a compute context."""
        ...

    def device_get_process_utilization(
        self, handle: NvmlHandle, last_seen_us: int
    ) -> tuple[ProcessSample, ...]:
        """Samples newer than `last_seen_us`; `NvmlEmpty` when nothing ran since."""
        ...


# nvidia-ml-py has no types: its values are honestly Any, and each method says what it returns.
_NVML: Final = cast("Any", pynvml)

_MEMBER_BY_VALUE_TYPE: Final = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal"}
"""Members of nvmlValue_t by nvmlValueType_t; 0 is a double, 6 a 16-bit `usVal`."""


class PynvmlLibrary:
    """The real library, through nvidia-ml-py. See `NvmlLibrary` for each method."""

    def init(self) -> None:
        """See `NvmlLibrary`."""
        self._call("nvmlInit")

    def shutdown(self) -> None:
        """See `NvmlLibrary`."""
        self._call("nvmlShutdown")

    def system_get_driver_version(self) -> str:
        """See `NvmlLibrary`."""
        return str(self._call("nvmlSystemGetDriverVersion"))

    def device_get_count(self) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetCount"))

    def device_get_handle_by_index(self, index: int) -> NvmlHandle:
        """See `NvmlLibrary`."""
        return NvmlHandle(self._call("nvmlDeviceGetHandleByIndex", index))

    def device_get_uuid(self, handle: NvmlHandle) -> str:
        """See `NvmlLibrary`."""
        return str(self._call("nvmlDeviceGetUUID", handle))

    def device_get_name(self, handle: NvmlHandle) -> str:
        """See `NvmlLibrary`."""
        return str(self._call("nvmlDeviceGetName", handle))

    def device_get_total_energy_consumption(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetTotalEnergyConsumption", handle))

    def device_get_power_usage(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetPowerUsage", handle))

    def device_get_enforced_power_limit(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetEnforcedPowerLimit", handle))

    def device_get_utilization_rates(self, handle: NvmlHandle) -> tuple[int, int]:
        """See `NvmlLibrary`."""
        rates = self._call("nvmlDeviceGetUtilizationRates", handle)
        return int(rates.gpu), int(rates.memory)

    def device_get_memory_info_v2(self, handle: NvmlHandle) -> tuple[int, int]:
        """See `NvmlLibrary`."""
        memory = self._call("nvmlDeviceGetMemoryInfo", handle, _NVML.nvmlMemory_v2)
        return int(memory.used), int(memory.total)

    def device_get_temperature_v(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetTemperatureV", handle, _NVML.NVML_TEMPERATURE_GPU))

    def device_get_temperature(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetTemperature", handle, _NVML.NVML_TEMPERATURE_GPU))

    def device_get_clock_info(self, handle: NvmlHandle, clock: int) -> int:
        """See `NvmlLibrary`."""
        return int(self._call("nvmlDeviceGetClockInfo", handle, clock))

    def device_field_query(
        self, handle: NvmlHandle, fields: Sequence[tuple[int, int]]
    ) -> FieldQuery:
        """See `NvmlLibrary`."""
        return _PreallocatedQuery(handle, fields)

    def device_get_compute_running_processes_v3(
        self, handle: NvmlHandle
    ) -> tuple[RunningProcess, ...]:
        """See `NvmlLibrary`."""
        return tuple(
            RunningProcess(
                int(process.pid),
                None if process.usedGpuMemory is None else int(process.usedGpuMemory),
            )
            for process in self._call("nvmlDeviceGetComputeRunningProcesses_v3", handle)
        )

    def device_get_process_utilization(
        self, handle: NvmlHandle, last_seen_us: int
    ) -> tuple[ProcessSample, ...]:
        """See `NvmlLibrary`."""
        return tuple(
            ProcessSample(int(sample.pid), int(sample.timeStamp), int(sample.smUtil))
            for sample in self._call("nvmlDeviceGetProcessUtilization", handle, last_seen_us)
        )

    def _call(self, function: str, *arguments: object) -> Any:
        """Call `function` of nvidia-ml-py, its errors turned into ours."""
        try:
            return getattr(_NVML, function)(*arguments)
        except _NVML.NVMLError as error:
            code = int(error.value)
            if code == NvmlCode.SUCCESS:
                # The size call of process utilisation succeeds when there is nothing to
                # list, and nvidia-ml-py raises its success.
                code = NvmlCode.NOT_FOUND
            raise error_of(code, function) from None


class _PreallocatedQuery:
    """nvidia-ml-py fills a new array at each call, which costs more than the call itself."""

    def __init__(self, handle: NvmlHandle, fields: Sequence[tuple[int, int]]) -> None:
        self._handle = handle
        self._values = (_NVML.c_nvmlFieldValue_t * len(fields))()
        for value, (field_id, scope_id) in zip(self._values, fields, strict=True):
            value.fieldId = field_id
            value.scopeId = scope_id
        self._count = ctypes.c_int32(len(fields))
        try:
            # Indexing makes a function object of our own: nvidia-ml-py's stays as it is.
            self._function = _NVML.nvmlLib["nvmlDeviceGetFieldValues"]
        except (AttributeError, TypeError):
            raise error_of(NvmlCode.FUNCTION_NOT_FOUND, "nvmlDeviceGetFieldValues") from None

    def read(self) -> Sequence[FieldValue]:
        """See `FieldQuery`."""
        code = int(self._function(self._handle, self._count, self._values))
        if code != NvmlCode.SUCCESS:
            raise error_of(code, "nvmlDeviceGetFieldValues")
        return [_field_value(value) for value in self._values]


def _field_value(answer: Any) -> FieldValue:
    """One c_nvmlFieldValue_t as a value; types that no field of ours has are not supported."""
    code = int(answer.nvmlReturn)
    if code != NvmlCode.SUCCESS:
        return FieldValue(code, None)
    member = _MEMBER_BY_VALUE_TYPE.get(int(answer.valueType))
    if member is None:
        return FieldValue(NvmlCode.NOT_SUPPORTED, None)
    return FieldValue(NvmlCode.SUCCESS, int(getattr(answer.value, member)))
