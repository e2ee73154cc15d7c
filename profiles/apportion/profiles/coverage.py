"""Sets of instants as sorted disjoint intervals: what `core.interval` does, in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.profiles.device_trace import Ints


@dataclass(frozen=True, slots=True)
class Coverage:
    """The instants that some intervals cover: sorted, disjoint, non-touching. Shape n."""

    start_ns: Ints
    end_ns: Ints

    @classmethod
    def of(cls, start_ns: Ints, end_ns: Ints) -> Coverage:
        """The union of intervals in any order; empty ones cover nothing."""
        chosen = np.flatnonzero(end_ns > start_ns)
        order = chosen[np.argsort(start_ns[chosen], kind="stable")]
        starts = start_ns[order]
        reached = np.maximum.accumulate(end_ns[order])
        apart = starts[1:] > reached[:-1]
        edge = np.ones(min(1, len(starts)), dtype=np.bool_)
        return cls(starts[np.concatenate((edge, apart))], reached[np.concatenate((apart, edge))])

    @property
    def covered_ns(self) -> int:
        """How long it is, without its gaps."""
        return int((self.end_ns - self.start_ns).sum())

    @property
    def span_ns(self) -> int:
        """From its first instant to its last, gaps included."""
        return int(self.end_ns[-1] - self.start_ns[0]) if len(self.end_ns) else 0

    def gaps(self) -> Coverage:
        """What lies between its intervals."""
        return Coverage(self.end_ns[:-1], self.start_ns[1:])

    def clipped(self, start_ns: int, end_ns: int) -> Coverage:
        """What of it lies in `[start_ns, end_ns)`."""
        return Coverage.of(np.maximum(self.start_ns, start_ns), np.minimum(self.end_ns, end_ns))


def durations_by_mask(sets: Sequence[Coverage]) -> Ints:
    """How long exactly which sets hold: entry m sums the instants in the sets of m's bits.

    Shape 2 ** len(sets). Entry 0, instants in no set, is 0: they have no bounds.
    """
    weights = [np.full(len(one.start_ns), 1 << bit) for bit, one in enumerate(sets)]
    times = np.concatenate([edge for one in sets for edge in (one.start_ns, one.end_ns)])
    changes = np.concatenate([edge for weight in weights for edge in (weight, -weight)])
    order = np.argsort(times, kind="stable")
    masks = np.cumsum(changes[order])[:-1]
    totals = np.zeros(1 << len(sets), dtype=np.int64)
    np.add.at(totals, masks, np.diff(times[order]))
    totals[0] = 0
    return totals
