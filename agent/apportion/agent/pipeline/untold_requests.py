"""Requests that may run and will be told of at their end: how long a device waits for them.

A door hears of a request when it has ended. Where the same ring tells of the engine's iterations,
it is known whether anything runs; what is settled meanwhile would have to be moved, by windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.client import layout
from apportion.core.category import SpanKind
from apportion.core.units import NS_PER_MINUTE

if TYPE_CHECKING:
    from apportion.agent.ingest.record import Records
    from apportion.agent.pipeline.merged_iterations import Iterations

RECENT_NS: Final = 10 * NS_PER_MINUTE
"""So long the longest request counts."""
SILENT_NS: Final = NS_PER_MINUTE
"""An engine that says nothing for so long runs nothing: no pass takes that long."""
_KIND_MASK: Final = 0xFF
_NEVER_OPEN: Final = np.uint64(layout.FLAG_NO_OPEN_SLOT << layout.FLAGS_SHIFT)


@dataclass(slots=True)
class _Ring:
    longest_ns: int = 0
    longest_end_ns: int = 0
    last_ns: int = 0
    idle_ns: dict[int, int] = field(default_factory=dict[int, int])
    """By engine up to when it is known to have been idle."""


@dataclass(slots=True)
class UntoldRequests:
    """What rings say that tell of requests at their end and of their engine's iterations."""

    _rings: dict[int, _Ring] = field(default_factory=dict[int, _Ring])

    def told(self, ring: int, records: Records, anchor_ns: int) -> None:
        """Spans of a ring; node time is the ring's plus `anchor_ns`."""
        if ring not in self._rings:
            return
        packed = records["packed"]
        chosen = records[
            (packed & _KIND_MASK == int(SpanKind.REQUEST)) & (packed & _NEVER_OPEN > 0)
        ]
        if not chosen.size:
            return
        known = self._rings[ring]
        longest_ns = int((chosen["end_ns"] - chosen["start_ns"]).max())
        end_ns = int(chosen["end_ns"].max()) + anchor_ns
        if longest_ns >= known.longest_ns or end_ns - known.longest_end_ns > RECENT_NS:
            known.longest_ns, known.longest_end_ns = longest_ns, end_ns

    def iterated(self, ring: int, rows: Iterations) -> None:
        """Iterations of a ring. One of nobody says that its engine is idle."""
        if not rows.size:
            return
        known = self._rings.setdefault(ring, _Ring())
        known.last_ns = max(known.last_ns, int(rows["end_ns"].max()))
        nobody = (rows["prefill_requests"] == 0) & (rows["decode_requests"] == 0)
        for engine in np.unique(rows["engine"]).tolist():
            ends = rows["end_ns"][nobody & (rows["engine"] == engine)]
            before = known.idle_ns.get(engine, 0)
            known.idle_ns[engine] = max(before, int(ends.max(initial=0)))

    def since_ns(self, ring: int, limit_ns: int) -> int | None:
        """Since when a request of the ring may run; None where none can.

        None that runs is taken to be longer than the longest of late.
        """
        known = self._rings.get(ring)
        if known is None or not known.longest_ns or known.last_ns < limit_ns - SILENT_NS:
            return None
        return max(limit_ns - known.longest_ns, min(known.idle_ns.values(), default=0))

    def forget(self, ring: int) -> None:
        """The ring is gone."""
        self._rings.pop(ring, None)
