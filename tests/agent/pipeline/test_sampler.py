"""A collector's thread: what it hands over, and what it says of other things than devices."""

from __future__ import annotations

import threading

from apportion.agent.pipeline.sampler import SILENT_PERIODS, Sampler
from apportion.collectors.collector import Batch
from apportion.collectors.observed import Observed
from apportion.core.clock import ManualClock
from apportion.core.sample import Sample

PERIOD_NS = 1_000_000_000


class Link:
    """A source that says each of `batches` once and is silent from then on."""

    name = "link"

    def __init__(self, batches: list[Batch], stop: threading.Event) -> None:
        self.batches, self.stop = batches, stop

    def start(self) -> None:
        pass

    def collect(self) -> Batch:
        if len(self.batches) == 1:
            self.stop.set()
        return self.batches.pop(0)

    def close(self) -> None:
        pass


def test_samples_replace_one_another_and_end() -> None:
    """The newest set counts; a source that has fallen silent has none."""
    clock, stop = ManualClock(), threading.Event()
    first, second = Sample("link_bytes_total", 1), Sample("link_bytes_total", 2)
    batches = [Batch(samples=(first,)), Batch(samples=(second,)), Batch()]
    sampler = Sampler(Observed(Link(batches, stop), clock), clock, period_ns=PERIOD_NS)
    assert sampler.samples(clock.monotonic_ns()) == ()
    sampler.run(stop)
    told_ns = clock.monotonic_ns()
    assert sampler.samples(told_ns) == (second,)
    assert sampler.samples(told_ns + (SILENT_PERIODS + 1) * PERIOD_NS) == ()
    assert sampler.drain() == []
