"""What the NVML child has told since the last collection, and what of it lasts for longer."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Final

from apportion.collectors.collector import (
    Batch,
    DeviceFailure,
    DeviceSources,
    Ended,
    FailureKind,
)
from apportion.collectors.nvml_messages import DeviceAnswer, End, Happened, SlowFacts
from apportion.core.clock import Clock
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND, seconds

AWAITED_NS: Final = 60 * NS_PER_SECOND
"""A process that computes on no GPU after so long is awaited no more."""
MOST_XIDS: Final = 64
_LOG: Final = logging.getLogger(__name__)


class NvmlNews:
    """Collects answers into batches. One thread uses it, but for `wait_for` and `event_samples`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._readings: list[Reading] = []
        self._devices: list[DeviceInfo] = []
        self._failures: list[DeviceFailure] = []
        self._sources: list[DeviceSources] = []
        self._ended: list[Ended] = []
        self._samples: tuple[Sample, ...] | None = None
        self._slow: dict[DeviceId, SlowFacts] = {}
        self._said: dict[DeviceId, Sample] = {}
        self._of_gpu: dict[DeviceId, tuple[Sample, ...]] = {}
        self._gpus: dict[DeviceId, int] = {}
        self._places: dict[int, DeviceId] = {}
        self._failing: dict[int, FailureKind] = {}
        self._late: set[DeviceId | None] = set()
        self._pids: dict[DeviceId, frozenset[int]] = {}
        self._awaited: frozenset[int] = frozenset()
        self._awaited_since: dict[int, int] = {}
        self._events: Counter[tuple[DeviceId, str]] = Counter()
        self._xids: Counter[tuple[DeviceId, int]] = Counter()
        self._event_last: dict[tuple[DeviceId, str], float] = {}
        self._xid_last: dict[tuple[DeviceId, int], float] = {}
        self.event_samples: tuple[Sample, ...] = ()
        """Counters of events since the start, and when each was last reported."""
        self.missing: frozenset[DeviceId] = frozenset()
        """GPUs that were seen and did not answer in the last sweep."""

    def add(self, answer: DeviceAnswer) -> None:
        """One GPU's answer; what is read rarely is put to every reading."""
        for device in answer.ended:
            self._slow.pop(device, None)
        for facts in answer.slow:
            self._slow[facts.device] = facts
            self._pids[facts.device] = frozenset(each.pid for each in facts.processes or ())
        for sources in answer.sources:
            self._said[sources.device] = _source_sample(sources)
        times = {reading.device: reading.time_ns for reading in reversed(answer.readings)}
        last_ns = max(times.values(), default=self._clock.monotonic_ns())
        self._ended += (Ended(device, times.get(device, last_ns)) for device in answer.ended)
        self._readings += map(self._completed, answer.readings)
        self._devices += answer.devices
        self._sources += answer.sources
        if answer.gpu is not None:
            self._gpus[answer.gpu] = answer.index
            self._places[answer.index] = answer.gpu
            self._note_gpu(answer.gpu, answer.samples)
        if answer.failure is not None:
            failure = answer.failure
            if failure.device is None:
                failure = replace(failure, device=self.gpu_at(failure.index))
            self._failures.append(failure)
            self._failed(failure)
        elif answer.gpu is None:
            self._late.add(self.gpu_at(answer.index))
        elif answer.readings and self._failing.pop(answer.index, None) is not None:
            _LOG.info("NVML: GPU %d (%s) answers again", answer.index, answer.gpu)

    def swept(
        self, end: End, readable: frozenset[DeviceId], left_out: tuple[DeviceFailure, ...]
    ) -> None:
        """A sweep is over: known GPUs that were not in it have failed too.

        Those of which nothing is known yet are late, and that is no failure.
        """
        self._failures += left_out
        for failure in left_out:
            self._failed(failure)
        self.missing = frozenset(self._gpus) - readable
        told = {failure.device for failure in self._failures} | self._late
        self._late.clear()
        self._failures += (
            DeviceFailure(
                gpu,
                self._gpus[gpu],
                f"the driver no longer lists {gpu}: it was removed, or fell off the bus",
                FailureKind.VANISHED,
            )
            for gpu in self.missing - told
            if None not in told
        )
        of_gpus = (each for samples in self._of_gpu.values() for each in samples)
        self._samples = (
            *of_gpus,
            Sample("nvml_sweep_seconds", seconds(end.elapsed_ns)),
            Sample("nvml_sweep_lateness_seconds", seconds(end.late_ns)),
        )

    def happened(self, event: Happened) -> None:
        """An event of a GPU; its time is put on the wall clock of now."""
        age_ns = self._clock.monotonic_ns() - event.time_ns
        at = (self._clock.realtime_ns() - age_ns) / NS_PER_SECOND
        self._events[event.gpu, event.event] += 1
        self._event_last[event.gpu, event.event] = at
        if event.xid is not None:
            key = (event.gpu, event.xid)
            if key in self._xids or len(self._xids) < MOST_XIDS:
                self._xids[key] += 1
                self._xid_last[key] = at
            self._log_xid(key)
        self.event_samples = tuple(self._told_events())

    def _log_xid(self, key: tuple[DeviceId, int]) -> None:
        """The first, second, fourth, eighth ...: a storm of them must not fill the disk."""
        gpu, xid = key
        count = self._xids[key]
        if count & (count - 1) == 0:
            _LOG.warning("XID %d on %s%s", xid, gpu, f", {count} times" if count > 1 else "")

    def fell_silent(self) -> None:
        """Nobody reads NVML now: what was so a moment ago is not said again."""
        self._samples = None
        self._of_gpu.clear()
        self._late.clear()
        self.missing = frozenset()

    def gpu_at(self, index: int) -> DeviceId | None:
        """The GPU that was last seen at an index."""
        return self._places.get(index)

    @property
    def failing_kind(self) -> FailureKind | None:
        """Why no GPU is read, where that is the same of all; None where it is not, or some are."""
        # Where none has ever said its name, those that fail are all that there are.
        kinds = {self._failing.get(index) for index in self._places or self._failing}
        return kinds.pop() if len(kinds) == 1 else None

    def forget_places(self) -> None:
        """NVML lists more or fewer GPUs than before: indexes mean others."""
        self._places.clear()

    def wait_for(self, pids: frozenset[int]) -> None:
        """Processes that somebody wants to find on a GPU."""
        self._awaited = pids

    def is_waiting(self, now_ns: int) -> bool:
        """Whether one of them, not awaited for too long, is on no GPU yet."""
        awaited = self._awaited
        if not awaited:
            return False
        found = frozenset[int]().union(*self._pids.values())
        since = {pid: self._awaited_since.get(pid, now_ns) for pid in awaited - found}
        self._awaited_since = since
        return any(now_ns - begun_ns < AWAITED_NS for begun_ns in since.values())

    def batch(self) -> Batch:
        """Everything since the last call."""
        batch = Batch(
            readings=tuple(sorted(self._readings, key=lambda reading: reading.time_ns)),
            devices=tuple(self._devices),
            failures=tuple(self._failures),
            sources=tuple(self._sources),
            samples=self._samples,
            ended=tuple(self._ended),
        )
        for told in (self._readings, self._devices, self._failures, self._sources, self._ended):
            told.clear()
        return batch

    def _completed(self, reading: Reading) -> Reading:
        said = self._said.get(reading.device)
        slow = self._slow.get(reading.device)
        return replace(
            reading,
            processes=None if slow is None else slow.processes,
            samples=(
                *reading.samples,
                *(() if slow is None else slow.samples),
                *(() if said is None else (said,)),
            ),
        )

    def _note_gpu(self, gpu: DeviceId, samples: tuple[Sample, ...]) -> None:
        """What is told of a GPU that is no device because MIG has cut it."""
        if not samples:
            self._of_gpu.pop(gpu, None)
            return
        slow = self._slow.get(gpu)
        told = (*samples, *(() if slow is None else slow.samples))
        self._of_gpu[gpu] = tuple(
            Sample(name, value, (("device", gpu), *labels)) for name, value, labels in told
        )

    def _failed(self, failure: DeviceFailure) -> None:
        if failure.device is not None:
            self._slow.pop(failure.device, None)
            self._of_gpu.pop(failure.device, None)
        if self._failing.get(failure.index) != failure.kind:
            self._failing[failure.index] = failure.kind
            _LOG.warning("NVML: GPU %d: %s", failure.index, failure.reason)

    def _told_events(self) -> list[Sample]:
        samples: list[Sample] = []
        for (gpu, event), count in self._events.items():
            labels = (("device", str(gpu)), ("event", event))
            samples.append(Sample("device_events_total", count, labels))
            last = self._event_last[gpu, event]
            samples.append(Sample("device_event_last_timestamp_seconds", last, labels))
        for (gpu, xid), count in self._xids.items():
            labels = (("device", str(gpu)), ("xid", str(xid)))
            samples.append(Sample("device_xid_errors_total", count, labels))
            last = self._xid_last[gpu, xid]
            samples.append(Sample("device_xid_last_timestamp_seconds", last, labels))
        return samples


def _source_sample(sources: DeviceSources) -> Sample:
    told = (
        ("energy_source", sources.energy_source),
        ("power_source", sources.power_source),
        ("activity_source", sources.activity_source),
    )
    labels = tuple((name, source) for name, source in told if source is not None)
    return Sample("device_source_info", 1, labels)
