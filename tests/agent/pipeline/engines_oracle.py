"""What requests of several engines cost that run on the same devices, from their true batches.

Written without the code under test but for the parts of a batch, which have tests of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from apportion.cost.methods.engine_time import laid
from apportion.cost.methods.roofline import Floats, Roofline
from apportion.cost.methods.trace import Iterations, Trace
from apportion.cost.methods.two_part import two_part_s


class EngineRun(NamedTuple):
    """The requests of one engine and its batches, on a clock that all engines share."""

    trace: Trace
    iterations: Iterations


def seconds_by_engine(runs: Sequence[EngineRun], roofline: Roofline) -> list[Floats]:
    """Device seconds of each request of each engine.

    Of an instant each engine has an equal part that is in an iteration then; an iteration begins
    where the one before it ended, while requests are in flight.
    """
    spans = [laid(run.trace, run.iterations.start_ns, run.iterations.end_ns) for run in runs]
    edges = np.unique(np.concatenate([column for span in spans for column in span]))
    running = np.zeros(edges.size, np.int64)
    for start_ns, end_ns in spans:
        np.add.at(running, np.searchsorted(edges, start_ns), 1)
        np.add.at(running, np.searchsorted(edges, end_ns), -1)
    among = np.maximum(np.cumsum(running)[:-1], 1)
    passed = np.concatenate([[0.0], np.cumsum(np.diff(edges) / among)])
    found: list[Floats] = []
    for run, (start_ns, end_ns) in zip(runs, spans, strict=True):
        given = passed[np.searchsorted(edges, end_ns)] - passed[np.searchsorted(edges, start_ns)]
        owner, parts = run.iterations.owner, two_part_s(run.iterations, roofline)
        sums = np.bincount(owner, parts, minlength=given.size)
        each = given[owner] * parts / sums[owner] / 1e9
        sums = np.bincount(run.iterations.request, each, minlength=run.trace.size)
        found.append(sums.astype(np.float64))
    return found
