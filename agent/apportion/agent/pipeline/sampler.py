"""A collector in a thread of its own, and a bounded queue to the settlement thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from apportion.collectors.collector import Batch
    from apportion.collectors.observed import CollectorStatus, Observed
    from apportion.core.clock import Clock
    from apportion.core.sample import Sample

QUEUE_BATCHES: Final = 600
"""Ten minutes at 1 Hz: longer than any outage that settlement waits for."""
SILENT_PERIODS: Final = 5
"""After so many periods without news the series of a source end."""


class Sampler:
    """Calls `collect` on absolute deadlines; what the queue cannot hold is dropped and counted."""

    def __init__(self, observed: Observed, clock: Clock, *, period_ns: int) -> None:
        self._observed = observed
        self._clock = clock
        self._period_ns = period_ns
        self._queue: deque[Batch] = deque()
        self.dropped = 0
        self._samples: tuple[int, tuple[Sample, ...]] = (0, ())

    @property
    def name(self) -> str:
        """The collector's name."""
        return self._observed.name

    @property
    def status(self) -> CollectorStatus:
        """How its last collection went."""
        return self._observed.status

    @property
    def child_pid(self) -> int | None:
        """The process that does the collecting, where it is one of its own."""
        pid = getattr(self._observed.collector, "pid", None)
        return pid if isinstance(pid, int) else None

    def watch(self, pids: list[int]) -> None:
        """Tell a collector that can read single processes which ones are instrumented."""
        set_pids = getattr(self._observed.collector, "set_pids", None)
        if set_pids is not None:
            set_pids(pids)

    def drain(self) -> list[Batch]:
        """What was collected since the last call, oldest first."""
        batches: list[Batch] = []
        while self._queue:
            batches.append(self._queue.popleft())
        return batches

    def samples(self, now_ns: int) -> tuple[Sample, ...]:
        """What a source that is not about devices says now; nothing once it has fallen silent."""
        time_ns, samples = self._samples
        return samples if now_ns - time_ns <= SILENT_PERIODS * self._period_ns else ()

    def start(self) -> None:
        """Open the source; where it fails, `run` tries again."""
        self._observed.start()

    def run(self, stop: threading.Event) -> None:
        """Collect until told to stop."""
        due_ns: int = self._clock.monotonic_ns()
        while not stop.is_set():
            batch = self._observed.collect()
            if batch.samples is not None:
                self._samples = (self._clock.monotonic_ns(), batch.samples)
            if _concerns_devices(batch):
                if len(self._queue) >= QUEUE_BATCHES:
                    self._queue.popleft()
                    self.dropped += 1
                self._queue.append(batch)
            due_ns += self._period_ns
            now_ns = self._clock.monotonic_ns()
            due_ns = max(due_ns, now_ns)
            self._clock.wait(stop, due_ns - now_ns)

    def shutdown(self, timeout_ns: int) -> None:
        """Close the source."""
        del timeout_ns
        self._observed.close()


def _concerns_devices(batch: Batch) -> bool:
    told = batch.readings or batch.devices or batch.failures or batch.sources
    return bool(told) or batch.allocations is not None
