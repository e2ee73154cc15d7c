"""What a whole trace of torch.profiler computed, for the roofline of its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.profiles.device_trace import DeviceTrace

NO_SHAPES: Final = (
    "its operators have no shapes, so that nothing can be counted: record with record_shapes=True"
)


@dataclass(frozen=True, slots=True)
class RankWork:
    """Operations and time of one trace, host and device together.

    flop: of the matrix products whose shapes were recorded; None where there is none.
    """

    source: str
    rank: int | None
    device_name: str | None
    duration_ns: int
    flop: int | None
    warnings: tuple[str, ...]
    unverified: str | None

    @classmethod
    def of(cls, trace: DeviceTrace) -> RankWork:
        """From the first operator or kernel to the last one's end."""
        tables = [table for table in (trace.events, trace.operators) if len(table)]
        duration_ns = 0
        if tables:
            begun_ns = min(int(table.start_ns.min()) for table in tables)
            duration_ns = max(int(np.max(table.end_ns)) for table in tables) - begun_ns
        uncounted = ", ".join(trace.products.uncounted)
        warnings: list[str] = []
        if not trace.products.flop:
            warnings.append(NO_SHAPES)
        elif uncounted:
            warnings.append(f"not counted: {uncounted}; its operations are a lower bound")
        return cls(
            source=trace.source,
            rank=trace.rank,
            device_name=trace.device_name,
            duration_ns=duration_ns,
            flop=trace.products.flop or None,
            warnings=tuple(warnings),
            unverified=trace.unverified,
        )
