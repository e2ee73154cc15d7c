"""A collector in a thread of its own, and a bounded queue to the settlement thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from apportion.collectors.collector import Batch

if TYPE_CHECKING:
    from apportion.agent.release import Release
    from apportion.collectors.observed import CollectorStatus, Observed
    from apportion.core.clock import Clock
    from apportion.core.sample import Sample

QUEUE_BATCHES: Final = 600
"""Ten minutes at 1 Hz: longer than any outage that settlement waits for."""
SILENT_PERIODS: Final = 5
"""After so many periods without news the series of a source end."""


class Sampler:
    """Calls `collect` on absolute deadlines; what the queue cannot hold is dropped and counted."""

    def __init__(
        self, observed: Observed, clock: Clock, *, period_ns: int, release: Release | None = None
    ) -> None:
        """`release`: by which a person can ask to let go of the source for a while."""
        self._observed = observed
        self._release = release
        self._until_ns: int | None = None
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
        """What a source says beside its readings; nothing once it has fallen silent.

        Some of it lasts: what a source has counted is not 0 because it fails.
        """
        time_ns, samples = self._samples
        lasting = getattr(self._observed.collector, "lasting_samples", ())
        return (
            *(samples if now_ns - time_ns <= SILENT_PERIODS * self._period_ns else ()),
            *lasting,
        )

    def start(self) -> None:
        """Open the source; where it fails, `run` tries again."""
        if self._release is None or self._release.until_ns() is None:
            self._open()

    def run(self, stop: threading.Event) -> None:
        """Collect until told to stop."""
        due_ns: int = self._clock.monotonic_ns()
        while not stop.is_set():
            batch = self._observed.collect() if self._is_ours() else Batch()
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

    def _open(self) -> None:
        if self._release is not None:
            self._release.go_on()
        self._until_ns = None
        self._observed.start()

    def _is_ours(self) -> bool:
        """Whether the source may be read now: it is let go of when asked, and taken back."""
        release = self._release
        if release is None:
            return True
        until_ns = release.until_ns()
        if until_ns is None:
            if self._until_ns is not None:
                self._open()
            return True
        if self._until_ns is None:
            self._observed.rest("a person asked to let go of it: `apportion release`")
        self._until_ns = until_ns
        release.let_go(until_ns, getattr(self._observed.collector, "undead_pids", ()))
        return False

    def shutdown(self, timeout_ns: int) -> None:
        """Close the source."""
        del timeout_ns
        self._observed.close()


def _concerns_devices(batch: Batch) -> bool:
    told = batch.readings or batch.devices or batch.failures or batch.sources or batch.ended
    return bool(told) or batch.allocations is not None
