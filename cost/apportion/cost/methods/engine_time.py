"""Iterations laid end to end while requests are in flight, so that busy time has no holes."""

from __future__ import annotations

import numpy as np

from apportion.cost.methods.shares import Busy
from apportion.cost.methods.trace import Column, Trace

__all__ = ["laid", "uncovered"]


def laid(trace: Trace, start_ns: Column, end_ns: Column) -> tuple[Column, Column]:
    """Each iteration from the end of the one before, or the first admission, to its own end.

    What an engine does between two forward passes is done for the next one. An engine that
    schedules ahead says less than an iteration took, so `start_ns` only counts where nobody was
    in flight. The last iteration of a busy spell lasts as long as the spell. Shapes n, by end.
    """
    flight = Busy.of(trace.start_ns, trace.finish_ns)
    if not start_ns.size or not flight.start_ns.size:
        return start_ns, end_ns
    spell = np.searchsorted(flight.start_ns, end_ns, side="left") - 1
    inside = (spell >= 0) & (flight.end_ns[np.maximum(spell, 0)] > start_ns)
    opened = flight.start_ns[np.maximum(spell, 0)]
    begun = np.where(inside, np.minimum(start_ns, opened), start_ns)
    ended = np.maximum.accumulate(end_ns)
    begun[1:] = np.maximum(begun[1:], ended[:-1])
    ended = np.maximum(ended, begun)
    closes = np.concatenate([spell[1:] != spell[:-1], [True]]) & inside
    limit = np.concatenate([begun[1:], [np.iinfo(np.int64).max]])
    longer = np.minimum(np.maximum(ended, flight.end_ns[np.maximum(spell, 0)]), limit)
    return begun, np.where(closes, longer, ended)


def uncovered(trace: Trace, start_ns: Column, end_ns: Column) -> Busy:
    """Busy spells of requests that no iteration touches: their iterations are not on record."""
    flight = Busy.of(trace.start_ns, trace.finish_ns)
    order = np.argsort(start_ns, kind="stable")
    starts, ends = start_ns[order], np.maximum.accumulate(end_ns[order]) if end_ns.size else end_ns
    following = np.searchsorted(starts, flight.end_ns, side="left")
    touched = np.zeros(flight.start_ns.size, dtype=np.bool_)
    some = following > 0
    touched[some] = ends[following[some] - 1] > flight.start_ns[some]
    return Busy(flight.start_ns[~touched], flight.end_ns[~touched])
