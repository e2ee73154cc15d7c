"""What the NVML child and its parent say to each other, as records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from apportion.collectors.collector import DeviceFailure, DeviceSources
from apportion.core.reading import DeviceInfo, Reading


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
    """NVML is open; `indexes` is the order of every sweep."""

    driver_version: str
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A sweep starts: until `End`, the first silent device is the one that hangs."""

    sweep: int


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What became of one device in one sweep: a reading or a failure, never both.

    `info` and `sources` are there when they are new or have changed.
    """

    index: int
    reading: Reading | None = None
    failure: DeviceFailure | None = None
    info: DeviceInfo | None = None
    sources: DeviceSources | None = None


@dataclass(frozen=True, slots=True)
class End:
    """A sweep is over; it began `late_ns` after its due time."""

    sweep: int
    late_ns: int


@dataclass(frozen=True, slots=True)
class Report:
    """The child gives up, for this reason, and exits."""

    state: NvmlState
    reason: str


Message = Hello | Begin | DeviceAnswer | End | Report
