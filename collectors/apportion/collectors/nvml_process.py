"""NVML behind a process boundary: starts the child, listens to it, replaces it.

A thread in a stuck driver call can be neither ended nor outlived, so NVML never runs in the
agent. The child (`nvml_child`) that misses its deadline, crashes or sends nonsense is abandoned
and replaced with backoff; one that cannot even be killed is left behind and named.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from apportion.collectors.child_process import ChildProcess
from apportion.collectors.collector import Batch, DeviceFailure, DeviceSources
from apportion.collectors.nvml_frames import FrameError, FrameReader
from apportion.collectors.nvml_messages import (
    Begin,
    DeviceAnswer,
    End,
    Hello,
    Message,
    NvmlState,
    Report,
)
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.collectors.sick_list import SickList
from apportion.core.clock import Clock
from apportion.core.errors import NoData, SourceLost
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND, seconds

FIRST_BACKOFF_NS: Final = NS_PER_SECOND
LONGEST_BACKOFF_NS: Final = 30 * NS_PER_SECOND
_MOST_UNDEAD: Final = 3
_END_GRACE_NS: Final = NS_PER_SECOND
_CRASH_GRACE_NS: Final = NS_PER_SECOND // 20
_LOG: Final = logging.getLogger(__name__)


class NvmlProcess:
    """The `nvml` collector. One thread calls it; `state` and `reason` may be read from any.

    That thread must live as long as the collector: the kernel kills a child whose starting
    thread ends, so that no orphan keeps a GPU from being reset.

    `command` replaces the child, for tests of what a broken one does.
    """

    def __init__(
        self,
        options: CollectorOptions,
        clock: Clock,
        *,
        command: Sequence[str] | None = None,
        first_backoff_ns: int = FIRST_BACKOFF_NS,
        longest_backoff_ns: int = LONGEST_BACKOFF_NS,
    ) -> None:
        self._options = options
        self._clock = clock
        self._command = None if command is None else tuple(command)
        self._first_backoff_ns = first_backoff_ns
        self._longest_backoff_ns = longest_backoff_ns
        self._state = NvmlState.CONNECTING
        self._reason = "NVML has not been asked yet"
        self._child: ChildProcess | None = None
        self._undead: list[ChildProcess] = []
        self._devices: dict[int, DeviceId] = {}
        self._sick = SickList()
        self._backoff_ns = first_backoff_ns
        self._restart_ns = 0
        self._started = 0
        self._collected_ns = 0
        self._closed = False
        self._forget()

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "nvml"

    @property
    def state(self) -> NvmlState:
        """Where the source stands; a failing state lasts until readings come again."""
        return self._state

    @property
    def reason(self) -> str:
        """A sentence about `state`; empty while it is `ok`."""
        return self._reason

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child."""
        return None if self._child is None else self._child.pid

    @property
    def restarts(self) -> int:
        """How many children were started after the first."""
        return max(0, self._started - 1)

    @property
    def undead_pids(self) -> tuple[int, ...]:
        """Children that were killed and have not died, stuck in the driver."""
        return tuple(child.pid for child in self._undead)

    @property
    def in_sweep(self) -> bool:
        """Some devices of the current sweep have not answered yet."""
        return self._in_sweep

    @property
    def late_ns(self) -> int:
        """How late the last sweep began."""
        return self._late_ns

    def start(self) -> None:
        """Start the child; its first readings come by themselves."""
        self._closed = False
        self._spawn(self._clock.monotonic_ns())

    def collect(self) -> Batch:
        """The readings since the last call, several per device if that was long ago.

        It does not wait for readings; only for a child that is ending, for a second at most.

        Raises:
            NoData: there is no NVML library or no driver here.
            SourceLost: the child stalled, crashed or reported that NVML failed.
        """
        now_ns = self._clock.monotonic_ns()
        self._undead = [child for child in self._undead if child.ending() is None]
        if self._child is None and not self._closed and now_ns >= self._restart_ns:
            self._spawn(now_ns)
        arrived = _Arrived()
        if self._child is not None:
            self._listen(self._child, arrived, now_ns)
        self._collected_ns = now_ns
        if not arrived.readings and self._state not in {NvmlState.OK, NvmlState.CONNECTING}:
            absent = self._state in {NvmlState.NO_LIBRARY, NvmlState.NO_DRIVER}
            raise NoData(self._reason) if absent else SourceLost(self._reason)
        if arrived.sweeps:
            arrived.failures.extend(self._sick.failures(self._skipped))
        return arrived.batch()

    def close(self) -> None:
        """End the child: it shuts NVML down and lets go of the devices. Waits up to a second."""
        self._closed = True
        child, self._child = self._child, None
        if child is not None and not child.end(_END_GRACE_NS):
            self._undead.append(child)
        self._undead = [each for each in self._undead if each.ending(_CRASH_GRACE_NS) is None]

    def _spawn(self, now_ns: int) -> None:
        """Start a child without the devices that are sick."""
        if len(self._undead) >= _MOST_UNDEAD:
            # Each more would only hang in the same driver call.
            self._restart_ns = now_ns + self._longest_backoff_ns
            return
        self._forget()
        self._started += 1
        self._skipped = self._sick.skipped(now_ns)
        self._heard_ns = self._collected_ns = now_ns
        environment = os.environ if self._options.environment is None else self._options.environment
        try:
            # A file called apportion.py in the working directory must not be imported.
            self._child = ChildProcess(
                self._command or self._own_command(), {**environment, "PYTHONSAFEPATH": "1"}
            )
        except OSError as error:
            self._give_up(NvmlState.FAILED, f"the NVML child could not be started: {error}", now_ns)

    def _own_command(self) -> tuple[str, ...]:
        left_out = (f"--skip={index}" for index in sorted(self._skipped))
        return (
            sys.executable,
            "-m",
            "apportion.collectors.nvml_child",
            f"--period-ns={self._options.period_ns}",
            f"--parent={os.getpid()}",
            *left_out,
        )

    def _forget(self) -> None:
        """What is known of one child only."""
        self._frames = FrameReader()
        self._hello: Hello | None = None
        self._in_sweep = False
        self._answered = 0
        self._late_ns = 0
        self._heard_ns = 0
        self._ok_since_ns: int | None = None
        self._skipped = frozenset[int]()

    def _listen(self, child: ChildProcess, arrived: _Arrived, now_ns: int) -> None:
        """Take what the child sent; give it up if it is gone, late or talks nonsense."""
        data, is_open = child.read()
        try:
            for message in self._frames.feed(data):
                self._take(message, arrived, now_ns)
                if self._child is None:
                    return
        except FrameError as error:
            self._give_up(NvmlState.FAILED, str(error), now_ns)
            return
        if not is_open:
            ending = child.ending(_CRASH_GRACE_NS) or "closed its output"
            words = child.last_words()
            tail = f"; its last words: {words}" if words else ""
            self._blame_and_give_up(NvmlState.FAILED, f"the NVML child {ending}{tail}", now_ns)
            return
        limit_ns = (
            self._options.connect_deadline_ns
            if self._hello is None
            else self._options.period_ns + self._options.deadline_ns
        )
        if data or now_ns - self._collected_ns > limit_ns // 2:
            # Silence counts only while we listen: a child that waited for us to read is no
            # worse than we are.
            self._heard_ns = now_ns
        elif now_ns - self._heard_ns > limit_ns:
            silent = f"NVML has not answered for {seconds(now_ns - self._heard_ns):.1f} s"
            self._blame_and_give_up(NvmlState.STALLED, silent, now_ns)

    def _take(self, message: Message, arrived: _Arrived, now_ns: int) -> None:
        """One message of the child."""
        match message:
            case Hello(indexes=()):
                # Those that answered have vanished from the driver; only sick ones remain.
                reasons = "; ".join(each.reason for each in self._sick.failures(self._skipped))
                self._give_up(NvmlState.FAILED, f"every GPU is left out: {reasons}", now_ns)
            case Hello():
                self._hello = message
            case Begin():
                self._in_sweep = True
                self._answered = 0
            case DeviceAnswer():
                self._answered += 1
                self._sick.clear(message.index)
                if message.info is not None:
                    self._devices[message.index] = message.info.device
                arrived.add(message)
            case End():
                arrived.sweeps += 1
                self._in_sweep = False
                self._late_ns = message.late_ns
                self._state, self._reason = NvmlState.OK, ""
                self._ok_since_ns = self._ok_since_ns or now_ns
                if self._skipped != self._sick.skipped(now_ns):
                    self._try_again(now_ns)
            case Report():
                self._give_up(message.state, message.reason, now_ns)

    def _try_again(self, now_ns: int) -> None:
        """Replace a healthy child by one that reads a device again which was left out."""
        child, self._child = self._child, None
        if child is not None and not child.end(_END_GRACE_NS):
            self._undead.append(child)
        self._restart_ns = now_ns

    def _blame_and_give_up(self, state: NvmlState, reason: str, now_ns: int) -> None:
        """Give the child up; if it was reading one device of several, that one is suspect."""
        indexes = () if self._hello is None else self._hello.indexes
        if self._in_sweep and self._answered < len(indexes):
            index = indexes[self._answered]
            device = self._devices.get(index)
            reason = f"{reason}, while it was reading GPU {index} ({device or 'not yet named'})"
            if len(indexes) > 1:
                self._sick.blame(index, device, reason, now_ns)
        self._give_up(state, reason, now_ns)

    def _give_up(self, state: NvmlState, reason: str, now_ns: int) -> None:
        """Abandon the child and plan the next one."""
        child, self._child = self._child, None
        if child is not None:
            child.abandon()
            if child.ending() is None:
                self._undead.append(child)
        healthy_since_ns = now_ns if self._ok_since_ns is None else self._ok_since_ns
        if now_ns - healthy_since_ns >= self._longest_backoff_ns:
            self._backoff_ns = self._first_backoff_ns
        self._restart_ns = now_ns + self._backoff_ns
        self._backoff_ns = min(2 * self._backoff_ns, self._longest_backoff_ns)
        if reason != self._reason:
            absent = state in {NvmlState.NO_LIBRARY, NvmlState.NO_DRIVER}
            _LOG.log(logging.DEBUG if absent else logging.WARNING, "NVML: %s", reason)
        self._state, self._reason = state, reason


class _Arrived:
    """What one `collect` hands over."""

    def __init__(self) -> None:
        self.sweeps = 0
        self.readings: list[Reading] = []
        self.devices: list[DeviceInfo] = []
        self.failures: list[DeviceFailure] = []
        self.sources: list[DeviceSources] = []

    def add(self, answer: DeviceAnswer) -> None:
        if answer.reading is not None:
            self.readings.append(answer.reading)
        if answer.info is not None:
            self.devices.append(answer.info)
        if answer.failure is not None:
            self.failures.append(answer.failure)
        if answer.sources is not None:
            self.sources.append(answer.sources)

    def batch(self) -> Batch:
        return Batch(
            tuple(self.readings), tuple(self.devices), tuple(self.failures), tuple(self.sources)
        )


@BUILT_IN.register("nvml", default=True)
def make_nvml(options: CollectorOptions, clock: Clock) -> NvmlProcess:
    """The NVML collector with its own child."""
    return NvmlProcess(options, clock)
