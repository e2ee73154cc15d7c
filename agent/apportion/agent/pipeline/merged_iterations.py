"""One engine's iterations in their order, out of what several processes heard of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from apportion.client import layout
from apportion.cost.methods.trace import IterationCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apportion.cost.methods.trace import Column

ITERATION: Final = np.dtype(
    [
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        *((name, "i8") for name in layout.ITERATION_FIELDS),
        ("engine", "i8"),
        ("exact", "i8"),  # 1: it is known by id who was in it
    ]
)
"""Columns of iterations; `end_ns` is when they were told of, `start_ns` as long before as they
say that they took."""
Iterations = NDArray[np.void]
"""Rows of type `ITERATION`."""
NO_ITERATIONS: Final = np.zeros(0, ITERATION)

_LONGEST_NS: Final = 600_000_000_000
"""No iteration takes longer."""
_RESTART: Final = 64
"""An index so far below the one before it is another engine's: processes that are told at once
may tell in another order, but not by so many."""


def told(
    records: NDArray[np.void], anchor_ns: int, kind: np.dtype[np.void], fields: Mapping[str, str]
) -> NDArray[np.void]:
    """Ring records (type `RECORD`) of what an engine did, as rows of type `kind`.

    Times are moved by `anchor_ns`; `fields` are the columns that the record has by another name.
    """
    rows = np.zeros(records.size, kind)
    for name in ("start_ns", "end_ns"):
        rows[name] = records[name] + anchor_ns
    for name, field in fields.items():
        rows[name] = np.maximum(records[field], 0)
    rows["engine"] = records["engine"]
    return rows


def iterations_of(records: NDArray[np.void], anchor_ns: int) -> Iterations:
    """Ring records (type `RECORD`) of iterations; times are moved by `anchor_ns`."""
    rows = told(records, anchor_ns, ITERATION, layout.ITERATION_FIELDS)
    rows["exact"] = records["packed"] >> (layout.FLAGS_SHIFT + 1) & 1
    return rows


def of_engines(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of ring records (type `RECORD`) are no spans, but what an engine did."""
    kinds: NDArray[np.bool_] = (records["packed"] & 0xFF) >= layout.KINDS["iteration"]
    return kinds


@dataclass(frozen=True, slots=True)
class MergedIterations:
    """The iterations of one engine by end, laid end to end; columns of equal length n.

    What an engine does between two forward passes is done for the next one. Where `after_gap`, the
    iteration before it is not known, and its own begins where it says so itself; `missing` are how
    many are not.
    """

    counts: IterationCounts
    index: Column
    begun_ns: Column
    after_gap: NDArray[np.bool_]
    missing: Column

    @classmethod
    def of(cls, parts: Sequence[Iterations]) -> MergedIterations:
        """In any order."""
        rows = np.concatenate([NO_ITERATIONS, *parts])
        rows = rows[np.argsort(rows["end_ns"], kind="stable")]
        started = np.diff(rows["index"], prepend=rows["index"][:1]) < -_RESTART
        engine = np.cumsum(started)  # a server that restarts counts from 0 again
        order = np.lexsort((rows["index"], engine))
        rows, engine = rows[order], engine[order]
        same = (np.diff(rows["index"], prepend=-1) == 0) & (np.diff(engine, prepend=-1) == 0)
        rows, engine = rows[~same], engine[~same]
        elapsed_ns = np.clip(rows["end_ns"] - rows["start_ns"], 0, _LONGEST_NS)
        end_ns = _not_after_the_next(rows["end_ns"], elapsed_ns)
        before = np.diff(rows["index"], prepend=-1) - 1
        first = np.diff(engine, prepend=-1) != 0
        missing = np.where(first, rows["index"], before)
        after_gap = missing > 0
        ends_before = np.concatenate([[np.iinfo(np.int64).min], end_ns[:-1]])[: end_ns.size]
        said_ns = np.maximum(end_ns - elapsed_ns, ends_before)
        begun_ns = np.where(after_gap, said_ns, ends_before)
        counts = IterationCounts(
            end_ns,
            elapsed_ns,
            *(
                rows[name].astype(np.int64)
                for name in (
                    "prefill_requests",
                    "prefill_tokens",
                    "decode_requests",
                    "decode_tokens",
                )
            ),
        )
        # Where a sequence begins nobody knows of those before it: they are not missing.
        missing = np.where(first, 0, missing)
        return cls(counts, rows["index"], begun_ns, after_gap, missing)

    @property
    def size(self) -> int:
        """How many."""
        return self.index.size

    def cover(self, start_ns: Column, end_ns: Column) -> NDArray[np.bool_]:
        """Over which of these times the iterations are on record, shape of both.

        The last one a little beyond its end: other processes are told of it a little later.
        """
        ends_ns = self.counts.end_ns
        if not self.size:
            return np.zeros(start_ns.shape, np.bool_)
        first = np.searchsorted(ends_ns, start_ns, side="right")
        last = np.searchsorted(self.begun_ns, end_ns, side="left") - 1
        gaps = np.concatenate([[0], np.cumsum(self.after_gap)])
        inside = (first < self.size) & (last >= first)
        first, last = np.minimum(first, self.size - 1), np.clip(last, 0, self.size - 1)
        unbroken = gaps[last + 1] == gaps[first + 1]
        opens = self.begun_ns[first] <= start_ns
        closes = end_ns - ends_ns[last] <= TAIL_NS
        found: NDArray[np.bool_] = inside & unbroken & opens & closes
        return found


def _not_after_the_next(end_ns: Column, elapsed_ns: Column) -> Column:
    """Ends that leave each following iteration the time that it took, in order.

    Iterations are told of after they ended, some long after. One that ended later than the next
    one began was told of late.
    """
    took_ns = np.cumsum(elapsed_ns)
    lead_ns = np.minimum.accumulate((end_ns - took_ns)[::-1])[::-1]
    ends: Column = np.maximum.accumulate(lead_ns + took_ns)
    return ends


TAIL_NS: Final = 100_000_000
"""So long after its last iteration a request may end and be covered all the same."""
