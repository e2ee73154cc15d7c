"""`roofline-two-part/1`: each iteration's batch is known by id.

Within an iteration a request pays for its own attention; the launch is divided evenly; of the
linear layers, what the batch would have cost anyway (reading the weights) evenly, and only what
its arithmetic adds to that by tokens. Experts that are read are divided by what each request alone
would have read of them: a long prompt meets nearly all, a single token few. A closed form that is
near the Shapley value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.engine_time import laid, uncovered
from apportion.cost.methods.plain import in_spells
from apportion.cost.methods.shares import Busy, TraceShares, weighed

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats, Roofline
    from apportion.cost.methods.trace import Column, Iterations, Trace

NAME: Final = "roofline-two-part/1"


def roofline_two_part(trace: Trace, iterations: Iterations, roofline: Roofline) -> TraceShares:
    """Weights by iteration, scaled to the time that each one took."""
    return by_iteration(NAME, trace, iterations, two_part_s(iterations, roofline), by_id=True)


def two_part_s(iterations: Iterations, roofline: Roofline) -> Floats:
    """Each member's part of its iteration by the roofline, in seconds, shape m."""
    owner, sizes = iterations.owner, iterations.sizes
    new = iterations.new_tokens.astype(np.float64)
    tokens = _sums(owner, new, sizes.size)
    experts, alone = roofline.experts_s(tokens), roofline.experts_s(new)
    by_expert = _ratio(experts, _sums(owner, alone, sizes.size))
    linear = roofline.linear_s(tokens)
    added = np.maximum(0.0, linear - roofline.weights_s(tokens))
    even = (roofline.launch_s + linear - added - experts) / np.maximum(sizes, 1)
    by_token = added / np.maximum(tokens, 1)
    own = roofline.own_s(new, iterations.context_tokens.astype(np.float64))
    parts: Floats = own + even[owner] + by_token[owner] * new + by_expert[owner] * alone
    return parts


def by_iteration(
    method: str, trace: Trace, iterations: Iterations, parts: Floats, *, by_id: bool = False
) -> TraceShares:
    """Shares of members in proportion to `parts` (shape m), iteration by iteration.

    `by_id`: batches are known and not rebuilt, so that what was computed twice can be seen.
    """
    start_ns, end_ns = laid(trace, iterations.start_ns, iterations.end_ns)
    owner, request = iterations.owner, iterations.request
    total = _sums(owner, parts, start_ns.size)
    took = (end_ns - start_ns).astype(np.float64)
    used = parts * _ratio(took, total)[owner]
    # Half of an iteration decides: its end and the first token are stamped by two clocks' reads.
    early = (start_ns + (end_ns - start_ns) // 2)[owner] < trace.first_token_ns[request]
    prefill = _sums(request, used * early, trace.size)
    decode = _sums(request, used * ~early, trace.size)
    spells = uncovered(trace, start_ns, end_ns)
    before, after = in_spells(trace, spells)
    busy = Busy.of(
        np.concatenate([start_ns, spells.start_ns]), np.concatenate([end_ns, spells.end_ns])
    )
    unknown_ns = float(took[total <= 0].sum())
    recompute: Floats | None = None
    if by_id:
        again = iterations.recomputed_tokens(trace) / np.maximum(iterations.new_tokens, 1)
        recompute = _sums(request, used * again, trace.size)
    return weighed(method, prefill + before, decode + after, busy, unknown_ns, recompute)


def _sums(group: Column, amounts: Floats, size: int) -> Floats:
    """The sum of each of `size` groups; `group` says which one an amount is in."""
    return np.bincount(group, amounts, minlength=size).astype(np.float64)


def _ratio(amounts: Floats, among: Floats) -> Floats:
    """`amounts` / `among`; 0 where there is nothing to divide among."""
    return np.divide(amounts, among, out=np.zeros_like(amounts), where=among > 0)
