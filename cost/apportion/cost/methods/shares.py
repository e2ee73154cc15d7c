"""What every method answers: an integer weight for each request, and when the device was busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats
    from apportion.cost.methods.trace import Column

FIXED_BITS: Final = 10
"""Weights are device nanoseconds in fixed point: a trace of a hundred days fits 63 bits."""


@dataclass(frozen=True, slots=True)
class Busy:
    """When a device had work: disjoint [start, end), ascending, shape k both."""

    start_ns: Column
    end_ns: Column

    @classmethod
    def of(cls, start_ns: Column, end_ns: Column) -> Busy:
        """The union of windows in any order; empty ones are nothing."""
        some = end_ns > start_ns
        start_ns, end_ns = start_ns[some], end_ns[some]
        order = np.argsort(start_ns, kind="stable")
        starts, reach = start_ns[order], np.maximum.accumulate(end_ns[order])
        if not starts.size:
            return cls(starts, reach)
        opens = np.concatenate([[True], starts[1:] > reach[:-1]])
        closes = np.concatenate([opens[1:], [True]])
        return cls(starts[opens], reach[closes])

    @property
    def total_ns(self) -> int:
        """How long in all."""
        return int((self.end_ns - self.start_ns).sum())


@dataclass(frozen=True, slots=True)
class TraceShares:
    """Who used a device: columns in the trace's order, shape n.

    `weights` and `prefill` (the part of it before the first token) are device nanoseconds times
    2^`FIXED_BITS`. `unknown` is the weight of busy time that no request of the trace explains.
    `recompute` is the part of `weights` that computed again what a preemption had thrown away;
    None where iterations are not known by id.
    """

    allocation_method: str
    weights: Column
    prefill: Column
    busy: Busy
    unknown: int = 0
    recompute: Column | None = None

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The weights as device seconds, for comparisons."""
        return self.weights / (1e9 * (1 << FIXED_BITS))


def weighed(
    method: str,
    prefill_ns: Floats,
    decode_ns: Floats,
    busy: Busy,
    unknown_ns: float,
    recompute_ns: Floats | None,
) -> TraceShares:
    """Shares from device nanoseconds in float, shape n each."""
    prefill = fixed(prefill_ns)
    weights: Column = prefill + fixed(decode_ns)
    unknown = int(fixed(np.array([unknown_ns]))[0])
    recompute = None if recompute_ns is None else np.minimum(fixed(recompute_ns), weights)
    return TraceShares(method, weights, prefill, busy, unknown, recompute)


def fixed(nanoseconds: Floats) -> Column:
    """Fixed point, rounded half to even."""
    return np.rint(nanoseconds * (1 << FIXED_BITS)).astype(np.int64)
