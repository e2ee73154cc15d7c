"""The real NVML, through nvidia-ml-py: the only module that imports `pynvml`.

Where nvidia-ml-py makes new structures at each call, which costs more than the call itself, its
function pointers are called with arrays that are made once and read as the bytes that they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, Literal, cast

import pynvml  # pyright: ignore[reportMissingTypeStubs]

from apportion.collectors.nvml_error import NvmlCode, NvmlTransient, error_of
from apportion.collectors.nvml_library import (
    EventSet,
    FieldQuery,
    FieldValue,
    GpmQuery,
    Number,
    NvmlEvent,
    NvmlHandle,
    ProcessSample,
    RunningProcess,
    SampleQuery,
)

# nvidia-ml-py has no types: its values are honestly Any, and each method says what it returns.
_NVML: Final = cast("Any", pynvml)

FIELD_LAYOUT: Final = Struct("@IIqqiiQ")
SAMPLE_LAYOUT: Final = Struct("@QQ")
METRIC_LAYOUT: Final = Struct("@IidPPP")
"""nvmlFieldValue_t, nvmlSample_t and nvmlGpmMetric_t. A test compares them with nvidia-ml-py."""
_UNSIGNED_INT, _UNSIGNED_LONG, _UNSIGNED_LONG_LONG = 1, 2, 3
_LOW_32: Final = 0xFFFF_FFFF


class PynvmlLibrary:
    """See `NvmlLibrary` for each method."""

    def init(self) -> None:
        """See `NvmlLibrary`."""
        _call("nvmlInit")

    def shutdown(self) -> None:
        """See `NvmlLibrary`."""
        _call("nvmlShutdown")

    def system_get_driver_version(self) -> str:
        """See `NvmlLibrary`."""
        return str(_call("nvmlSystemGetDriverVersion"))

    def device_get_count(self) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetCount"))

    def device_get_handle_by_index(self, index: int) -> NvmlHandle:
        """See `NvmlLibrary`."""
        return NvmlHandle(_call("nvmlDeviceGetHandleByIndex", index))

    def device_get_uuid(self, handle: NvmlHandle) -> str:
        """See `NvmlLibrary`."""
        return str(_call("nvmlDeviceGetUUID", handle))

    def device_get_name(self, handle: NvmlHandle) -> str:
        """See `NvmlLibrary`."""
        return str(_call("nvmlDeviceGetName", handle))

    def device_get_number(self, handle: NvmlHandle, number: Number) -> int:
        """See `NvmlLibrary`."""
        return int(_call(f"nvmlDeviceGet{number}", handle))

    def device_get_total_energy_consumption(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetTotalEnergyConsumption", handle))

    def device_get_power_usage(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetPowerUsage", handle))

    def device_get_enforced_power_limit(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetEnforcedPowerLimit", handle))

    def device_get_utilization_rates(self, handle: NvmlHandle) -> tuple[int, int]:
        """See `NvmlLibrary`."""
        rates = _call("nvmlDeviceGetUtilizationRates", handle)
        return int(rates.gpu), int(rates.memory)

    def device_get_codec_utilization(
        self, handle: NvmlHandle, codec: Literal["Encoder", "Decoder"]
    ) -> int:
        """See `NvmlLibrary`."""
        percent, _period_us = _call(f"nvmlDeviceGet{codec}Utilization", handle)
        return int(percent)

    def device_get_memory_info_v2(self, handle: NvmlHandle) -> tuple[int, int]:
        """See `NvmlLibrary`."""
        memory = _call("nvmlDeviceGetMemoryInfo", handle, _NVML.nvmlMemory_v2)
        return int(memory.used), int(memory.total)

    def device_get_temperature_v(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetTemperatureV", handle, _NVML.NVML_TEMPERATURE_GPU))

    def device_get_temperature(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetTemperature", handle, _NVML.NVML_TEMPERATURE_GPU))

    def device_get_clock_info(self, handle: NvmlHandle, clock: int) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetClockInfo", handle, clock))

    def device_field_query(
        self, handle: NvmlHandle, fields: Sequence[tuple[int, int]]
    ) -> FieldQuery:
        """See `NvmlLibrary`."""
        return _FieldQuery(handle, fields)

    def device_sample_query(self, handle: NvmlHandle, kind: int) -> SampleQuery:
        """See `NvmlLibrary`."""
        return _SampleQuery(handle, kind)

    def device_get_compute_running_processes_v3(
        self, handle: NvmlHandle
    ) -> tuple[RunningProcess, ...]:
        """See `NvmlLibrary`."""
        return tuple(
            RunningProcess(
                int(process.pid),
                None if process.usedGpuMemory is None else int(process.usedGpuMemory),
            )
            for process in _call("nvmlDeviceGetComputeRunningProcesses_v3", handle)
        )

    def device_get_process_utilization(
        self, handle: NvmlHandle, last_seen_us: int
    ) -> tuple[ProcessSample, ...]:
        """See `NvmlLibrary`."""
        return tuple(
            ProcessSample(int(sample.pid), int(sample.timeStamp), int(sample.smUtil))
            for sample in _call("nvmlDeviceGetProcessUtilization", handle, last_seen_us)
        )

    def device_get_mig_mode(self, handle: NvmlHandle) -> bool:
        """See `NvmlLibrary`."""
        current, _pending = _call("nvmlDeviceGetMigMode", handle)
        return int(current) == 1

    def device_get_mig_device_handle_by_index(self, handle: NvmlHandle, index: int) -> NvmlHandle:
        """See `NvmlLibrary`."""
        return NvmlHandle(_call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index))

    def device_get_compute_slices(self, handle: NvmlHandle) -> int:
        """See `NvmlLibrary`."""
        return int(_call("nvmlDeviceGetAttributes_v2", handle).computeInstanceSliceCount)

    def gpm_query_device_support(self, handle: NvmlHandle) -> bool:
        """See `NvmlLibrary`."""
        return bool(_call("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice)

    def gpm_query(
        self, handle: NvmlHandle, metrics: Sequence[int], gpu_instance: int | None = None
    ) -> GpmQuery:
        """See `NvmlLibrary`."""
        return _GpmQuery(handle, metrics, gpu_instance)

    def event_set_create(self) -> EventSet:
        """See `NvmlLibrary`."""
        return _EventSet()


def _call(function: str, *arguments: object) -> Any:
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
    except AttributeError:
        # nvidia-ml-py itself is too old for it.
        raise error_of(NvmlCode.FUNCTION_NOT_FOUND, function) from None


def _pointer(function: str) -> Any:
    """A function object of our own on the loaded library: nvidia-ml-py's stays as it is."""
    try:
        return _NVML.nvmlLib[function]
    except (AttributeError, TypeError):
        raise error_of(NvmlCode.FUNCTION_NOT_FOUND, function) from None


class _FieldQuery:
    """See `FieldQuery`."""

    def __init__(self, handle: NvmlHandle, fields: Sequence[tuple[int, int]]) -> None:
        self._handle = handle
        self._values = (_NVML.c_nvmlFieldValue_t * len(fields))()
        for value, (field_id, scope_id) in zip(self._values, fields, strict=True):
            value.fieldId = field_id
            value.scopeId = scope_id
        self._bytes = memoryview(self._values).cast("B")
        self._count = ctypes.c_int32(len(fields))
        self._function = _pointer("nvmlDeviceGetFieldValues")

    def read(self) -> Sequence[FieldValue]:
        """See `FieldQuery`."""
        code = int(self._function(self._handle, self._count, self._values))
        if code != NvmlCode.SUCCESS:
            raise error_of(code, "nvmlDeviceGetFieldValues")
        return [
            FieldValue(code, _whole(kind, bits)) if code == 0 else FieldValue(code, None)
            for _, _, _, _, kind, code, bits in FIELD_LAYOUT.iter_unpack(self._bytes)
        ]


def _whole(kind: int, bits: int) -> int | None:
    """An nvmlValue_t by its type. No field that is asked for here has a sign or a fraction."""
    if kind == _UNSIGNED_INT:
        return bits & _LOW_32
    return bits if kind in {_UNSIGNED_LONG, _UNSIGNED_LONG_LONG} else None


class _SampleQuery:
    """See `SampleQuery`."""

    def __init__(self, handle: NvmlHandle, kind: int) -> None:
        self._handle = handle
        self._kind = ctypes.c_uint(kind)
        self._function = _pointer("nvmlDeviceGetSamples")
        self._value_type = ctypes.c_uint()
        self._count = ctypes.c_uint(0)
        self._seen_us = 0
        self._call(None)
        self._room = self._count.value
        if not self._room:
            raise error_of(NvmlCode.NOT_SUPPORTED, "nvmlDeviceGetSamples")
        self._samples = (_NVML.c_nvmlSample_t * self._room)()
        self._bytes = memoryview(self._samples).cast("B")

    def read(self) -> Sequence[int]:
        """See `SampleQuery`. An older driver's sample from before `seen` is left out."""
        self._count.value = self._room
        self._call(self._samples)
        filled = self._bytes[: self._count.value * SAMPLE_LAYOUT.size]
        new = [each for each in SAMPLE_LAYOUT.iter_unpack(filled) if each[0] > self._seen_us]
        self._seen_us = max((time_us for time_us, _ in new), default=self._seen_us)
        return [bits & _LOW_32 for _, bits in new]

    def _call(self, samples: object) -> None:
        code = int(
            self._function(
                self._handle,
                self._kind,
                ctypes.c_ulonglong(self._seen_us),
                ctypes.byref(self._value_type),
                ctypes.byref(self._count),
                samples,
            )
        )
        if code != NvmlCode.SUCCESS:
            raise error_of(code, "nvmlDeviceGetSamples")


class _GpmQuery:
    """See `GpmQuery`: two samples that take turns."""

    def __init__(
        self, handle: NvmlHandle, metrics: Sequence[int], gpu_instance: int | None
    ) -> None:
        self._handle = handle
        self._gpu_instance = gpu_instance
        self._get = _NVML.c_nvmlGpmMetricsGet_t(version=_NVML.NVML_GPM_METRICS_GET_VERSION)
        self._get.numMetrics = len(metrics)
        for place, metric in enumerate(metrics):
            self._get.metrics[place].metricId = metric
        self._bytes = memoryview(self._get.metrics).cast("B")[: len(metrics) * METRIC_LAYOUT.size]
        self._before: Any = None
        self._spare: Any = _call("nvmlGpmSampleAlloc")

    def read(self) -> Sequence[float | None] | None:
        """See `GpmQuery`."""
        after = self._spare if self._spare is not None else _call("nvmlGpmSampleAlloc")
        self._spare = after
        if self._gpu_instance is None:
            _call("nvmlGpmSampleGet", self._handle, after)
        else:
            _call("nvmlGpmMigSampleGet", self._handle, self._gpu_instance, after)
        before, self._before, self._spare = self._before, after, self._before
        if before is None:
            return None
        self._get.sample1, self._get.sample2 = before, after
        _call("nvmlGpmMetricsGet", self._get)
        return [
            value if code == NvmlCode.SUCCESS else None
            for _, code, value, _, _, _ in METRIC_LAYOUT.iter_unpack(self._bytes)
        ]

    def close(self) -> None:
        """See `GpmQuery`."""
        for sample in (self._before, self._spare):
            if sample is not None:
                _call("nvmlGpmSampleFree", sample)
        self._before = self._spare = None


class _EventSet:
    """See `EventSet`. A device is known by its handle: a lost one no longer tells its name."""

    def __init__(self) -> None:
        self._set = _call("nvmlEventSetCreate")
        self._uuids: dict[int, str] = {}

    def register(self, handle: NvmlHandle, uuid: str, kinds: int) -> int:
        """See `EventSet`."""
        kinds &= int(_call("nvmlDeviceGetSupportedEventTypes", handle))
        if kinds:
            _call("nvmlDeviceRegisterEvents", handle, kinds, self._set)
            self._uuids[_address(handle)] = uuid
        return kinds

    def wait(self, timeout_ms: int) -> NvmlEvent | None:
        """See `EventSet`."""
        try:
            event = _call("nvmlEventSetWait_v2", self._set, timeout_ms)
        except NvmlTransient as error:
            if error.code == NvmlCode.TIMEOUT:
                return None
            raise
        uuid = self._uuids.get(_address(event.device), "")
        return NvmlEvent(uuid, int(event.eventType), int(event.eventData))

    def free(self) -> None:
        """See `EventSet`."""
        _call("nvmlEventSetFree", self._set)


def _address(handle: object) -> int:
    return ctypes.cast(cast("Any", handle), ctypes.c_void_p).value or 0
