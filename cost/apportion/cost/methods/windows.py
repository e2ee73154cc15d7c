"""`roofline-windows/1`: only admission, first token, finish and token counts are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.occupancy import (
    Occupancy,
    needs,
    own_rate,
    prefill_starts,
)
from apportion.cost.methods.shares import FIXED_BITS, Busy, TraceShares

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Roofline
    from apportion.cost.methods.trace import Trace

NAME: Final = "roofline-windows/1"


def roofline_windows(trace: Trace, roofline: Roofline) -> TraceShares:
    """A sweep over exact event boundaries, prefills first come, first served; see `occupancy`.

    Time in which somebody is admitted and no window runs goes to those who wait. A request without
    a first token has one window for all that it needs, from its admission on.
    """
    prefill_s, decode_s = needs(
        roofline, trace.input_tokens, trace.cached_input_tokens, trace.output_tokens
    )
    admitted_ns, token_ns, finish_ns = trace.start_ns, trace.first_token_ns, trace.finish_ns
    told = trace.has_first_token
    compute_ns = np.rint(prefill_s * 1e9).astype(np.int64)
    begun_ns = admitted_ns.copy()
    begun_ns[told] = prefill_starts(admitted_ns[told], token_ns[told], compute_ns[told])
    prefill_s = np.where(told, prefill_s, prefill_s + decode_s)
    edges = np.unique(np.concatenate([admitted_ns, begun_ns, token_ns, finish_ns]))
    dt_ns = np.diff(edges)
    admitted, begun, token, finish = (
        np.searchsorted(edges, times) for times in (admitted_ns, begun_ns, token_ns, finish_ns)
    )
    first, last = np.concatenate([begun, token]), np.concatenate([token, finish])
    own = np.concatenate(
        [own_rate(prefill_s, token_ns - begun_ns), own_rate(decode_s, finish_ns - token_ns)]
    )
    running = Occupancy.of(first, last, own, dt_ns.size)
    weights = running.weights(dt_ns, FIXED_BITS)
    waiting = Occupancy.of(admitted, begun, None, dt_ns.size)
    waited = waiting.weights(np.where(running.present > 0, 0, dt_ns), FIXED_BITS)
    prefill = weights[: trace.size] + waited
    return TraceShares(
        NAME, prefill + weights[trace.size :], prefill, Busy.of(admitted_ns, finish_ns)
    )
