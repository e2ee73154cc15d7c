"""NVML as Python sees it, one to one: the seam that tests replace.

Names are NVML's own in snake case, units are NVML's own too (milliwatts, MHz, percent). The real
library is behind `nvml_pynvml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, NewType, Protocol

NvmlHandle = NewType("NvmlHandle", object)
"""nvmlDevice_t, of a GPU or of a MIG instance; valid until `shutdown`."""

ALL_LINKS: Final = 0xFFFF_FFFF
"""A field's scope that sums over every NVLink."""

CLOCK_SM: Final = 1
CLOCK_MEMORY: Final = 2

SAMPLES_POWER: Final = 0
SAMPLES_UTILIZATION: Final = 1

Number = Literal[
    "ComputeInstanceId",
    "CurrPcieLinkGeneration",
    "CurrPcieLinkWidth",
    "CurrentClocksEventReasons",
    "GpuInstanceId",
    "MaxMigDeviceCount",
    "MaxPcieLinkGeneration",
    "MaxPcieLinkWidth",
]
"""Functions that give one number of a device, by their name after `nvmlDeviceGet`."""


class FieldValue(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class NvmlEvent:
    """Something that happened to a device; `data` is the XID where `kind` says that it is one."""

    uuid: str
    kind: int
    data: int


class FieldQuery(Protocol):
    """The fields of one device, asked for in one call with one preallocated array."""

    def read(self) -> Sequence[FieldValue]:
        """The values, in the order of the fields."""
        ...


class SampleQuery(Protocol):
    """One of a device's sample buffers, read with one preallocated array."""

    def read(self) -> Sequence[int]:
        """The values since the last call, oldest first; at the first call all that are kept.

        `NvmlEmpty` where there is nothing new.
        """
        ...


class GpmQuery(Protocol):
    """Metrics of activity between two reads."""

    def read(self) -> Sequence[float | None] | None:
        """The metrics since the last read, in their order; None at the first read.

        A metric that this device does not have is None.
        """
        ...

    def close(self) -> None:
        """Give the samples back; before `shutdown`."""
        ...


class EventSet(Protocol):
    """Events of devices, from registration on."""

    def register(self, handle: NvmlHandle, uuid: str, kinds: int) -> int:
        """Listen to those of `kinds`, a sum of bits, that the device has; what they are."""
        ...

    def wait(self, timeout_ms: int) -> NvmlEvent | None:
        """The next event; None where none comes in time."""
        ...

    def free(self) -> None:
        """Stop listening; before `shutdown`."""
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
        """GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, or MIG-..."""
        ...

    def device_get_name(self, handle: NvmlHandle) -> str:
        """The product's name, the key of price tables; of a MIG instance its profile too."""
        ...

    def device_get_number(self, handle: NvmlHandle, number: Number) -> int:
        """What the function of that name gives."""
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

    def device_get_codec_utilization(
        self, handle: NvmlHandle, codec: Literal["Encoder", "Decoder"]
    ) -> int:
        """Percent of the last sample period."""
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

    def device_sample_query(self, handle: NvmlHandle, kind: int) -> SampleQuery:
        """The buffer of `SAMPLES_POWER` (milliwatts) or `SAMPLES_UTILIZATION` (percent)."""
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

    def device_get_mig_mode(self, handle: NvmlHandle) -> bool:
        """Whether MIG is enabled."""
        ...

    def device_get_mig_device_handle_by_index(self, handle: NvmlHandle, index: int) -> NvmlHandle:
        """The MIG instance at a place; `NvmlEmpty` where there is none.

        The driver may give the handle of an instance that is gone to another.
        """
        ...

    def device_get_compute_slices(self, handle: NvmlHandle) -> int:
        """How many compute slices a MIG instance's compute instance has."""
        ...

    def gpm_query_device_support(self, handle: NvmlHandle) -> bool:
        """Whether the device has GPM (Hopper and newer)."""
        ...

    def gpm_query(
        self, handle: NvmlHandle, metrics: Sequence[int], gpu_instance: int | None = None
    ) -> GpmQuery:
        """Metrics by their ids; of a MIG instance by its GPU's handle and its id there."""
        ...

    def event_set_create(self) -> EventSet:
        """An empty set of events."""
        ...
