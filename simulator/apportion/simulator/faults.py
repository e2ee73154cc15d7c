"""Faults of simulated devices and of the whole library, switched on and off while they run.

The switches are words in the state file, so that any process may set them: a test, the controller,
or `apportion simulator fault`. Writers take a lock on the file; the library and the controller read
each word by itself.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from apportion.core.errors import ApportionError
from apportion.simulator.state import (
    DEVICE_BYTES,
    FAULTS,
    HEADER_BYTES,
    MAGIC,
    MAX_EVENTS,
    NO_END,
    NO_INSTANCE,
    VERSION,
    Device,
    Event,
    FaultSwitch,
    Header,
)

MOST_VALUE: Final = 10**9
MOST_XID: Final = 99_999
XID_EVENT: Final = 0x8
"""nvmlEventTypeXidCriticalError; its data is the XID."""
ECC_STORM_EVENT: Final = 0x200
"""nvmlEventTypeSingleBitEccErrorStorm."""


class Switch(IntEnum):
    """The switches of `native/state.h`, by their place."""

    ANSWER = 0
    HANG = 1
    SLOW = 2
    CRASH = 3
    GARBAGE = 4
    ABSENT = 5
    ECC_STORM = 6
    THERMAL = 7
    POWER_CAP = 8
    WRAP = 9
    RESET = 10


_COUNTING: Final = (Switch.ABSENT, Switch.RESET)
"""Their value counts how often it happened, and outlives the fault."""


class FaultError(ApportionError):
    """A fault that cannot be: no such device, no such fault, no simulator at that file."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by name. `code` is what calls answer; `default` the value of one that needs a number.

    `whole` and `single` say whether it can be that of the whole library, and of one device.
    """

    switch: Switch
    summary: str
    code: int | None = None
    default: int | None = None
    whole: bool = False
    single: bool = True


KINDS: Final[dict[str, Fault]] = {
    "lost": Fault(Switch.ANSWER, "it fell off the bus: GPU_IS_LOST", 15),
    "reset-required": Fault(Switch.ANSWER, "RESET_REQUIRED until it is reset", 16),
    "no-permission": Fault(Switch.ANSWER, "NO_PERMISSION", 4, whole=True),
    "unknown": Fault(Switch.ANSWER, "UNKNOWN (999)", 999, whole=True),
    "driver-mismatch": Fault(
        Switch.ANSWER, "the library is older than the driver", 18, whole=True, single=False
    ),
    "driver-unloaded": Fault(Switch.ANSWER, "there is no driver", 9, whole=True, single=False),
    "driver-reload": Fault(
        Switch.RESET,
        "the driver was loaded again: counters begin anew, and who has NVML open mismatches",
        whole=True,
        single=False,
    ),
    "hang": Fault(Switch.HANG, "calls do not return while it lasts", whole=True),
    "slow": Fault(Switch.SLOW, "calls take N microseconds longer", default=50_000, whole=True),
    "crash": Fault(Switch.CRASH, "a call ends the process (SIGSEGV)", whole=True),
    "garbage-processes": Fault(Switch.GARBAGE, "nonsense in process lists and shares"),
    "vanish": Fault(Switch.ABSENT, "the driver no longer lists it; `clear` brings it back"),
    "ecc-storm": Fault(Switch.ECC_STORM, "N corrected ECC errors a second, and others", default=50),
    "thermal": Fault(Switch.THERMAL, "too hot: clocks are halved"),
    "power-cap": Fault(Switch.POWER_CAP, "clocks are lowered to keep the power limit"),
    "counter-wrap": Fault(Switch.WRAP, "PCIe and NVLink counters have 32 bits"),
    "counter-reset": Fault(Switch.RESET, "its counters begin anew, as after a reset"),
}
"""What `inject` takes. An XID is an event, not a state: `xid`."""


class FaultBoard:
    """The switches and events of the state file at `path`, made by whatever process.

    Raises:
        FaultError: there is no state file of this release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise FaultError(
                f"{path}: {error.strerror}; start the devices first with `apportion simulator`"
            ) from error
        if os.fstat(self._descriptor).st_size < HEADER_BYTES:
            os.close(self._descriptor)
            raise FaultError(f"{path} is no simulator's state file")
        self._map = mmap.mmap(self._descriptor, 0)
        header = Header.from_buffer_copy(self._map)
        if header.magic != MAGIC or header.version != VERSION:
            self.close()
            raise FaultError(f"{path} is no state file of this release's simulator")
        self.devices: Final = int(header.device_count)
        self._words = memoryview(self._map).cast("Q")

    def inject(
        self,
        name: str,
        device: int | None = None,
        *,
        value: int | None = None,
        until_ns: int = NO_END,
    ) -> None:
        """From now on, up to `until_ns` (host monotonic), a fault of `KINDS` is in force.

        `device` None: of the whole library. `value` is the number that some faults take.

        Raises:
            FaultError: there is no such fault or device, the fault cannot be that of it, or it
                takes no such number.
        """
        fault = KINDS.get(name)
        if fault is None:
            raise FaultError(f"there is no fault {name!r}; known are {', '.join(KINDS)}, xid")
        if not (fault.whole if device is None else fault.single):
            whose = "the whole library" if device is None else "one GPU"
            raise FaultError(f"{name} cannot be a fault of {whose}")
        if value is not None and fault.default is None:
            raise FaultError(f"{name} takes no number")
        if value is not None and not 1 <= value <= MOST_VALUE:
            raise FaultError(f"{name} takes a number from 1 to {MOST_VALUE}, not {value}")
        number = fault.code or value or fault.default or 0
        with self._locked():
            if name == "driver-reload":
                self._add(Header.driver_loads.offset)
            for each in range(self.devices) if name == "driver-reload" else (device,):
                self._switch(each, fault.switch, number, until_ns)
            if device is not None and fault.switch is Switch.ECC_STORM:
                self._push(device, ECC_STORM_EVENT, 0)

    def clear(self, device: int | None = None) -> None:
        """Switch off every fault of a device; of the library and all devices where None."""
        with self._locked():
            for each in (None, *range(self.devices)) if device is None else (device,):
                for switch in Switch:
                    self._words[self._word(each, switch)] = 0

    def event(self, device: int, kind: int, data: int = 0) -> None:
        """Something happened on a device: who listens to its events of `kind` hears of it."""
        with self._locked():
            self._push(device, kind, data)

    def xid(self, device: int, number: int) -> None:
        """The driver reports an XID of a device.

        Raises:
            FaultError: there is no such device, or no XID has that number.
        """
        if not 1 <= number <= MOST_XID:
            raise FaultError(f"an XID has a number from 1 to {MOST_XID}, not {number}")
        self.event(device, XID_EVENT, number)

    def in_force(self, device: int, now_ns: int) -> dict[Switch, int]:
        """The switches of a device that are on at `now_ns`, with their values."""
        return {
            switch: self._words[self._word(device, switch) + 1]
            for switch in Switch
            if self._words[self._word(device, switch)] > now_ns
        }

    def resets(self, device: int) -> int:
        """How often the counters of a device began anew."""
        return self._words[self._word(device, Switch.RESET) + 1]

    def close(self) -> None:
        """Let go of the file; closing twice is harmless."""
        if self._map.closed:
            return
        if hasattr(self, "_words"):
            self._words.release()
        self._map.close()
        os.close(self._descriptor)

    def _switch(self, device: int | None, switch: Switch, value: int, until_ns: int) -> None:
        word = self._word(device, switch)
        if switch in _COUNTING:
            value = self._words[word + 1] + 1
        if switch is Switch.RESET:
            until_ns = 0  # it is over at once
        self._words[word + 1] = value
        self._words[word] = until_ns

    def _word(self, device: int | None, switch: Switch) -> int:
        """The place of a switch's `until_ns` among the file's words; its value follows."""
        if device is None:
            start = Header.faults.offset
        elif 0 <= device < self.devices:
            start = HEADER_BYTES + device * DEVICE_BYTES + Device.faults.offset
        else:
            raise FaultError(f"no GPU {device}: there are {self.devices}, counted from 0")
        return (start + switch * ctypes.sizeof(FaultSwitch)) // 8

    def _push(self, device: int, kind: int, data: int) -> None:
        if not 0 <= device < self.devices:
            raise FaultError(f"no GPU {device}: there are {self.devices}, counted from 0")
        start = HEADER_BYTES + device * DEVICE_BYTES + Device.events.offset
        count = self._words[start // 8]
        place = start + 8 + count % MAX_EVENTS * ctypes.sizeof(Event)
        event = Event(kind, data, NO_INSTANCE, NO_INSTANCE)
        self._map[place : place + ctypes.sizeof(Event)] = bytes(event)
        self._words[start // 8] = count + 1

    def _add(self, offset: int) -> None:
        self._words[offset // 8] += 1

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


assert len(Switch) <= FAULTS  # noqa: S101 - a switch beyond the array would be another's word
