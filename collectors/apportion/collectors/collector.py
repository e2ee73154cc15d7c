"""What every source of facts looks like to the agent, and what it hands over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Final, NamedTuple, Protocol

from apportion.core.allocation import Allocation
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample
from apportion.core.units import MonotonicNs

WHOLE: Final = Fraction(1)


class FailureKind(str, Enum):
    """Why a device cannot be read, in one word."""

    SILENT = "silent"
    LOST = "lost"
    RESET_REQUIRED = "reset_required"
    FORBIDDEN = "forbidden"
    HANGING = "hanging"
    LEFT_OUT = "left_out"
    VANISHED = "vanished"
    NO_DRIVER = "no_driver"
    MISMATCH = "driver_mismatch"
    STALE = "stale"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class DeviceFailure:
    """A device that could not be read, and why. `device` is None where its id is not known."""

    device: DeviceId | None
    index: int
    reason: str
    kind: FailureKind = FailureKind.SILENT

    def concerns(self, info: DeviceInfo) -> bool:
        """Is it that of this device? One that never said its name is known by its place."""
        if self.device is not None:
            return self.device == info.device
        return self.index == info.index


class Ended(NamedTuple):
    """A device that does not exist, since MIG was changed; its last reading is of `time_ns`."""

    device: DeviceId
    time_ns: MonotonicNs


@dataclass(frozen=True, slots=True)
class DeviceSources:
    """Where the values of a device come from; what it cannot tell is named in `unsupported`.

    `share` is the part of the device that belongs to this agent's container (1 outside of one):
    its rate is multiplied by it. The energy and power in the readings already are.
    """

    device: DeviceId
    energy_source: str | None = None
    power_source: str | None = None
    activity_source: str | None = None
    unsupported: tuple[str, ...] = ()
    share: Fraction = WHOLE
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What arrived since the last `collect`; several readings of one device are in time order.

    Of two readings of one id at the time at which it `ended`, the second is another device's.
    Devices are told to have ended that this agent may know only from an earlier life of its own.
    `devices` and `sources` hold what is new or changed, not everything that is known. `samples`
    is everything that a source which is not about devices knows now, in place of what it said
    before; None: nothing new. `allocations` are those of a scheduler, in the same way.
    """

    readings: tuple[Reading, ...] = ()
    devices: tuple[DeviceInfo, ...] = ()
    failures: tuple[DeviceFailure, ...] = ()
    sources: tuple[DeviceSources, ...] = ()
    samples: tuple[Sample, ...] | None = None
    allocations: tuple[Allocation, ...] | None = None
    ended: tuple[Ended, ...] = ()


class Collector(Protocol):
    """One source. A single thread calls `start`, `collect` every period, `close`."""

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        ...

    def start(self) -> None:
        """Open the source. It may raise `CollectorError`; `collect` then tries again."""
        ...

    def collect(self) -> Batch:
        """What is new. It returns within the collector's own deadline.

        Raises:
            NoData: the source is absent on this machine.
            SourceLost: the whole source failed; the collector reopens it by itself.
            CollectorError: anything else that made this collection fail.
        """
        ...

    def close(self) -> None:
        """Let go of the source. Harmless when called twice or before `start`."""
        ...
