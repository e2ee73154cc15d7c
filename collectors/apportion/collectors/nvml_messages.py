"""What the NVML child and its parent say to each other, as records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from apportion.collectors.collector import DeviceFailure, DeviceSources
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, ProcessReading, Reading
from apportion.core.sample import Sample


class NvmlState(str, Enum):
    """Where the NVML source stands. All but the first two come with a reason."""

    CONNECTING = "connecting"
    OK = "ok"
    STALLED = "stalled"
    FAILED = "failed"
    NO_LIBRARY = "no_library"
    NO_DRIVER = "no_driver"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Hello:
    """NVML is open and lists `count` GPUs; `indexes` is the order of every sweep."""

    driver_version: str
    indexes: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Begin:
    """A sweep starts: until `End`, the first silent device is the one that hangs."""

    sweep: int


@dataclass(frozen=True, slots=True)
class SlowFacts:
    """What is read of a device every few sweeps only; it holds until the next."""

    device: DeviceId
    processes: tuple[ProcessReading, ...] | None = None
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What became of one GPU in one sweep: readings, a failure, or nothing while it is slow.

    A GPU that MIG has cut gives a reading for each part. `devices`, `sources` and `slow` are there
    when they are new. `ended` are devices that do not exist, since MIG was changed: the first of
    their `readings` here, if there is one, is their last. `samples` are of the GPU as a whole where
    it is cut.
    """

    index: int
    readings: tuple[Reading, ...] = ()
    failure: DeviceFailure | None = None
    devices: tuple[DeviceInfo, ...] = ()
    sources: tuple[DeviceSources, ...] = ()
    slow: tuple[SlowFacts, ...] = ()
    ended: tuple[DeviceId, ...] = ()
    samples: tuple[Sample, ...] = ()
    gpu: DeviceId | None = None
    """The GPU's own UUID, once it is known."""


@dataclass(frozen=True, slots=True)
class Happened:
    """The driver reported an event of a GPU at `time_ns` (host monotonic).

    `xid` is the number of an XID error, and only such an event has one.
    """

    gpu: DeviceId
    event: str
    time_ns: int
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """A sweep is over; it began `late_ns` after its due time and took `elapsed_ns`.

    What had happened by `told_ns` (host monotonic) has been told.
    """

    sweep: int
    late_ns: int
    elapsed_ns: int
    told_ns: int


@dataclass(frozen=True, slots=True)
class Report:
    """The child gives up, for this reason, and exits. `index` is the GPU that it hangs on."""

    state: NvmlState
    reason: str
    index: int | None = None


Message = Hello | Begin | DeviceAnswer | Happened | End | Report
