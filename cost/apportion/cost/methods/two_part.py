"""`roofline-two-part/1`: each iteration's batch is known by id.

Within an iteration a request pays for its own attention; the launch is divided evenly; of the
linear layers, what the batch would have cost anyway (reading the weights) evenly, and only what
its arithmetic adds to that by tokens. A closed form that is near the Shapley value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.engine_time import laid, uncovered
from apportion.cost.methods.plain import in_spells
from apportion.cost.methods.shares import Busy, TraceShares, weighed

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats, Roofline
    from apportion.cost.methods.trace import Iterations, Trace

NAME: Final = "roofline-two-part/1"


def roofline_two_part(trace: Trace, iterations: Iterations, roofline: Roofline) -> TraceShares:
    """Weights by iteration, scaled to the time that each one took."""
    return by_iteration(NAME, trace, iterations, two_part_s(iterations, roofline))


def two_part_s(iterations: Iterations, roofline: Roofline) -> Floats:
    """Each member's part of its iteration by the roofline, in seconds, shape m."""
    owner, sizes = iterations.owner, iterations.sizes
    new = iterations.new_tokens.astype(np.float64)
    tokens: Floats = np.bincount(owner, new, minlength=sizes.size).astype(np.float64)
    linear = roofline.linear_s(tokens)
    added = np.maximum(0.0, linear - roofline.weights_s(tokens))
    members = np.maximum(sizes, 1)
    even = (roofline.launch_s + linear - added) / members
    by_token = added / np.maximum(tokens, 1)
    own = roofline.own_s(new, iterations.context_tokens.astype(np.float64))
    parts: Floats = own + even[owner] + by_token[owner] * new
    return parts


def by_iteration(method: str, trace: Trace, iterations: Iterations, parts: Floats) -> TraceShares:
    """Shares of members in proportion to `parts` (shape m), iteration by iteration."""
    start_ns, end_ns = laid(trace, iterations.start_ns, iterations.end_ns)
    owner, request = iterations.owner, iterations.request
    total = np.bincount(owner, parts, minlength=start_ns.size)
    took = (end_ns - start_ns).astype(np.float64)
    per_part = np.divide(took, total, out=np.zeros_like(took), where=total > 0)
    used = parts * per_part[owner]
    # Half of an iteration decides: its end and the first token are stamped by two clocks' reads.
    early = (start_ns + (end_ns - start_ns) // 2)[owner] < trace.first_token_ns[request]
    prefill = np.bincount(request, used * early, minlength=trace.size)
    decode = np.bincount(request, used * ~early, minlength=trace.size)
    spells = uncovered(trace, start_ns, end_ns)
    before, after = in_spells(trace, spells)
    busy = Busy.of(
        np.concatenate([start_ns, spells.start_ns]), np.concatenate([end_ns, spells.end_ns])
    )
    unknown_ns = float(took[total <= 0].sum())
    return weighed(method, prefill + before, decode + after, busy, unknown_ns)
