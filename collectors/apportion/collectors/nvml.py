"""All GPUs of a node through NVML, read one after the other: one bad GPU stays alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from apportion.collectors.collector import Batch, DeviceFailure, DeviceSources
from apportion.collectors.nvml_device import NvmlDevice
from apportion.collectors.nvml_error import NvmlAbsent, NvmlError, NvmlSourceLost
from apportion.collectors.nvml_library import NvmlLibrary
from apportion.collectors.nvml_messages import DeviceAnswer
from apportion.core.clock import Clock
from apportion.core.errors import DeviceLost, NoData, SourceLost
from apportion.core.ids import DeviceId
from apportion.core.units import NS_PER_SECOND

FIRST_RETRY_NS: Final = 5 * NS_PER_SECOND
LONGEST_RETRY_NS: Final = 300 * NS_PER_SECOND


@dataclass(slots=True)
class _Seat:
    """One index of NVML's order: its device while it answers, its retry time while not."""

    index: int
    device: NvmlDevice | None = None
    known: DeviceId | None = None
    sources: DeviceSources | None = None
    reason: str = ""
    retry_ns: int = 0
    pause_ns: int = FIRST_RETRY_NS


class NvmlReader:
    """The domain's view of an `NvmlLibrary`. Single-threaded; `open`, `sweep` ..., `close`."""

    def __init__(
        self, library: NvmlLibrary, clock: Clock, *, skip: frozenset[int] = frozenset()
    ) -> None:
        self._library = library
        self._clock = clock
        self._skip = skip
        self._seats: list[_Seat] = []
        self._driver_version = ""
        self._open = False

    @property
    def driver_version(self) -> str:
        """The driver's version; empty before `open`."""
        return self._driver_version

    @property
    def indexes(self) -> tuple[int, ...]:
        """The devices of a sweep, in order; those in `skip` are not among them."""
        return tuple(seat.index for seat in self._seats)

    def open(self) -> None:
        """Open NVML and count the devices. None of them is touched yet.

        Raises:
            NvmlAbsent: there is no library or no driver here.
            SourceLost: NVML answers, but not as it should; or it has no device.
        """
        if self._open:
            return
        try:
            self._library.init()
            self._open = True
            self._driver_version = self._library.system_get_driver_version()
            count = self._library.device_get_count()
        except (NvmlAbsent, NvmlSourceLost):
            self.close()
            raise
        except NvmlError as error:
            self.close()
            raise SourceLost(f"NVML could not be opened: {error}") from error
        if count == 0:
            self.close()
            raise SourceLost(
                "NVML lists no GPU: the driver is loaded but no device is visible here; check "
                "/dev/nvidia*, and in a container NVIDIA_VISIBLE_DEVICES"
            )
        self._seats = [_Seat(index) for index in range(count) if index not in self._skip]

    def sweep(self) -> Iterator[DeviceAnswer]:
        """Each device's answer, as soon as it is there.

        Raises:
            SourceLost: NVML no longer answers, or not one device does.
            NvmlAbsent: the driver was unloaded.
        """
        answered = 0
        reason = ""
        for seat in self._seats:
            answer = self._answer(seat)
            answered += answer.failure is None
            reason = seat.reason or reason
            yield answer
        if self._seats and not answered:
            raise SourceLost(
                f"none of {len(self._seats)} GPUs answers; the last one said: {reason}"
            )

    def read(self) -> Batch:
        """One whole sweep. Raises as `sweep` does."""
        answers = tuple(self.sweep())
        return Batch(
            readings=tuple(answer.reading for answer in answers if answer.reading is not None),
            devices=tuple(answer.info for answer in answers if answer.info is not None),
            failures=tuple(answer.failure for answer in answers if answer.failure is not None),
            sources=tuple(answer.sources for answer in answers if answer.sources is not None),
        )

    def close(self) -> None:
        """Shut NVML down, so that a GPU can be reset. Harmless when repeated."""
        if not self._open:
            return
        self._open = False
        self._seats = []
        try:
            self._library.shutdown()
        except NvmlError:
            # Nothing is left to let go of: the library is gone already.
            return

    def _answer(self, seat: _Seat) -> DeviceAnswer:
        """One device's reading, or why there is none; lost ones are looked up again later."""
        now_ns = self._clock.monotonic_ns()
        if seat.device is None and now_ns < seat.retry_ns:
            return self._failed(seat)
        info = None
        try:
            if seat.device is None:
                seat.device = NvmlDevice(
                    self._library, self._clock, seat.index, self._driver_version
                )
                info = seat.device.info
            reading = seat.device.read()
        except (SourceLost, NoData):
            raise
        except (DeviceLost, NvmlError) as error:
            seat.device = None
            seat.sources = None
            seat.reason = str(error)
            seat.retry_ns = now_ns + seat.pause_ns
            seat.pause_ns = min(2 * seat.pause_ns, LONGEST_RETRY_NS)
            return self._failed(seat)
        seat.known = reading.device
        seat.reason = ""
        seat.pause_ns = FIRST_RETRY_NS
        sources = seat.device.sources
        changed = None if sources == seat.sources else sources
        seat.sources = sources
        return DeviceAnswer(seat.index, reading=reading, info=info, sources=changed)

    def _failed(self, seat: _Seat) -> DeviceAnswer:
        failure = DeviceFailure(seat.known, seat.index, seat.reason)
        return DeviceAnswer(seat.index, failure=failure)
