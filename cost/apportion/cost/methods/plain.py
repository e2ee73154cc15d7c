"""`time-share/1` over a trace: every instant evenly, whatever a request needs. To compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.occupancy import Occupancy
from apportion.cost.methods.shares import FIXED_BITS, Busy, TraceShares

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats
    from apportion.cost.methods.trace import Column, Trace

TIME: Final = "time-share/1"


def time_share(trace: Trace) -> TraceShares:
    """Every instant divided evenly among those in flight."""
    prefill, decode = _even(trace, None)
    busy = Busy.of(trace.start_ns, trace.finish_ns)
    return TraceShares(TIME, prefill + decode, prefill, busy)


def in_spells(trace: Trace, spells: Busy) -> tuple[Floats, Floats]:
    """Nanoseconds of (prefill, decode) in `spells` alone, divided evenly, shape n both."""
    if not spells.start_ns.size:
        nothing = np.zeros(trace.size)
        return nothing, nothing
    prefill, decode = _even(trace, spells)
    return prefill / (1 << FIXED_BITS), decode / (1 << FIXED_BITS)


def _even(trace: Trace, only: Busy | None) -> tuple[Column, Column]:
    starts = np.concatenate([trace.start_ns, trace.first_token_ns])
    ends = np.concatenate([trace.first_token_ns, trace.finish_ns])
    edges = np.unique(np.concatenate([starts, ends]))
    dt_ns = np.diff(edges)
    if only is not None:
        place = np.searchsorted(only.start_ns, edges[:-1], side="right") - 1
        inside = (place >= 0) & (edges[:-1] < only.end_ns[np.maximum(place, 0)])
        dt_ns = np.where(inside, dt_ns, 0)
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
    weights = Occupancy.of(first, last, None, dt_ns.size).weights(dt_ns, FIXED_BITS)
    return weights[: trace.size], weights[trace.size :]
