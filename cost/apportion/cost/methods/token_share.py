"""`token-share/1`: by tokens alone, as a price per token does; where no facts are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.occupancy import Occupancy, own_rate, prefill_starts
from apportion.cost.methods.shares import FIXED_BITS, Busy, TraceShares
from apportion.cost.methods.two_part import by_iteration

if TYPE_CHECKING:
    from apportion.cost.methods.trace import Iterations, Trace

NAME: Final = "token-share/1"


def token_share(trace: Trace, iterations: Iterations | None = None) -> TraceShares:
    """Each iteration by its new tokens; without iterations each instant by tokens a second."""
    if iterations is not None:
        return by_iteration(NAME, trace, iterations, iterations.new_tokens.astype(np.float64))
    token_ns, finish_ns = trace.first_token_ns, trace.finish_ns
    begun_ns = prefill_starts(trace.start_ns, token_ns, np.zeros(trace.size, np.int64))
    starts, ends = np.concatenate([begun_ns, token_ns]), np.concatenate([token_ns, finish_ns])
    tokens = np.concatenate([trace.computed_tokens, np.maximum(trace.output_tokens - 1, 0)])
    edges = np.unique(np.concatenate([trace.start_ns, starts, ends]))
    dt_ns = np.diff(edges)
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
    # Needs far above the time are scaled to it, and so divide it in proportion.
    own = own_rate(tokens.astype(np.float64), ends - starts)
    running = Occupancy.of(first, last, own, dt_ns.size)
    weights = running.weights(dt_ns, FIXED_BITS)
    admitted = np.searchsorted(edges, trace.start_ns)
    waiting = Occupancy.of(admitted, first[: trace.size], None, dt_ns.size)
    waited = waiting.weights(np.where(running.present > 0, 0, dt_ns), FIXED_BITS)
    prefill = weights[: trace.size] + waited
    return TraceShares(
        NAME,
        prefill + weights[trace.size :],
        prefill,
        Busy.of(trace.start_ns, finish_ns),
    )
