"""What the driver reports of itself: XIDs and other events, listened to in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Final

from apportion.collectors.nvml_error import NvmlDeviceLost, NvmlError, NvmlUnsupported
from apportion.collectors.nvml_library import EventSet, NvmlEvent, NvmlHandle, NvmlLibrary
from apportion.collectors.nvml_messages import Happened
from apportion.core.clock import Clock
from apportion.core.ids import DeviceId
from apportion.core.units import NS_PER_SECOND

XID: Final = 0x8
EVENTS: Final[Mapping[int, str]] = {
    0x1: "single_bit_ecc",
    0x2: "double_bit_ecc",
    XID: "xid",
    0x80: "power_source_change",
    0x100: "mig_change",
    0x200: "single_bit_ecc_storm",
    0x400: "dram_retirement",
    0x800: "dram_retirement_failure",
    0x1000: "non_fatal_poison",
    0x2000: "fatal_poison",
    0x4000: "gpu_unavailable",
    0x8000: "recovery_action",
}
"""nvmlEventType* by bit; changes of clocks and states of performance are no news."""
_WAIT_MS: Final = 200
FIRST_PAUSE_NS: Final = NS_PER_SECOND
LONGEST_PAUSE_NS: Final = 30 * NS_PER_SECOND
_LOG: Final = logging.getLogger(__name__)


class NvmlEvents:
    """Listens to the events of GPUs from `listen` on; `take` gives what has come.

    An event has no time of its own: it is when the thread was told. What comes while a set is made
    anew is lost, as NVML has it; that happens when a GPU joins, and when one is lost.
    """

    def __init__(self, library: NvmlLibrary, clock: Clock) -> None:
        self._library = library
        self._clock = clock
        self._arrived: SimpleQueue[Happened] = SimpleQueue()
        self._wanted: dict[DeviceId, NvmlHandle] = {}
        self._known: frozenset[DeviceId] = frozenset()
        self._asked = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, handles: Mapping[DeviceId, NvmlHandle]) -> None:
        """Listen to these GPUs, which answer now; harmless when repeated."""
        self._wanted = dict(handles)
        self._asked.set()
        if self._thread is None and handles:
            # A daemon: a wait that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="nvml-events", daemon=True)
            self._thread.start()

    def take(self) -> list[Happened]:
        """What has happened since the last call, oldest first."""
        # Nobody else takes from it: what it has, it has until the end of this.
        return [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]

    def close(self, timeout_ns: int) -> bool:
        """Stop listening; False where the thread hangs in NVML, which cannot be shut down then."""
        self._stop.set()
        self._asked.set()
        if self._thread is None:
            return True
        self._thread.join(timeout_ns / 1e9)
        return not self._thread.is_alive()

    def _work(self) -> None:
        pause_ns = FIRST_PAUSE_NS
        while not self._stop.is_set():
            begun_ns = self._clock.monotonic_ns()
            try:
                events = self._library.event_set_create()
                try:
                    if not self._register(events):
                        return
                    self._wait(events)
                finally:
                    events.free()
            except NvmlUnsupported as error:
                _LOG.info("the driver reports no events: %s", error)
                return
            except NvmlError as error:
                # The set is in an undefined state. A new one is made of the GPUs that answer after
                # this: to register one that hangs would hang too.
                _LOG.debug("events: %s", error)
                if self._clock.monotonic_ns() - begun_ns < FIRST_PAUSE_NS:
                    self._clock.wait(self._stop, pause_ns)
                    pause_ns = min(2 * pause_ns, LONGEST_PAUSE_NS)
                else:
                    pause_ns = FIRST_PAUSE_NS
                self._asked.clear()
                self._clock.wait(self._asked, LONGEST_PAUSE_NS)

    def _register(self, events: EventSet) -> bool:
        """Listen to all GPUs that can be listened to; False where none can."""
        wanted = self._wanted
        self._known = frozenset(wanted)
        registered = [_registers(events, *each) for each in wanted.items()]
        return any(registered)

    def _wait(self, events: EventSet) -> None:
        """Until there is something else to do; what the set still has is taken first."""
        has_lost = False
        while True:
            known, wanted = self._known, self._wanted.keys()
            ending = self._stop.is_set() or not wanted <= known or (has_lost and known != wanted)
            try:
                event = events.wait(0 if ending else _WAIT_MS)
            except NvmlDeviceLost:
                # The set still tells of the others, until it is known which one it was.
                event, has_lost = None, True
                if not ending:
                    self._clock.wait(self._stop, _WAIT_MS * 1_000_000)
            if event is not None:
                self._arrived.put(self._happened(event))
            elif ending:
                return

    def _happened(self, event: NvmlEvent) -> Happened:
        return Happened(
            DeviceId(event.uuid),
            EVENTS.get(event.kind, "other"),
            int(self._clock.monotonic_ns()),
            event.data if event.kind == XID else None,
        )


def _registers(events: EventSet, device: DeviceId, handle: NvmlHandle) -> bool:
    """Listen to a GPU; False where it has no events. A lost one may have them again."""
    try:
        return bool(events.register(handle, device, sum(EVENTS)))
    except NvmlDeviceLost:
        return True
    except NvmlUnsupported:
        return False
