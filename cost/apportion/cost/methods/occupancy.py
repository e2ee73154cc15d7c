"""Who has how much of a device in each elementary interval: the kernel of `roofline-windows/1`.

A request in a window of its own (prefill or decode) needs `own` of the device: its arithmetic
and its keys and values over the window's length, constant there, so that cutting time anywhere
changes nothing. What nobody needs for himself (weights that all read, launches, waiting) is
divided evenly among those present; where needs exceed the time they are scaled to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats, Roofline
    from apportion.cost.methods.trace import Column

OWN_BITS: Final = 30
"""Fixed point of `own`: sums of integers do not depend on their order."""
_MAX_OWN: Final = 1 << 20
"""A need of a million times the window's length is a mistake in the facts, not a need."""


def own_fixed(own: Floats) -> Column:
    """`own`, device time needed per time of the window, in fixed point."""
    clipped = np.nan_to_num(np.clip(own, 0.0, _MAX_OWN), nan=0.0)
    return np.rint(clipped * (1 << OWN_BITS)).astype(np.int64)


def occupancy(dt_ns: Column, first: Column, last: Column, own: Column, bits: int) -> Column:
    """One integer weight a window, shape n: its part of the device time, times 2^`bits`.

    `dt_ns` (shape k) are the lengths of elementary intervals, 0 for those that do not count.
    Window i covers `first[i]` up to but not including `last[i]` and needs `own[i]`
    (`own_fixed`). Weights of each elementary interval sum to its length, but for rounding.
    """
    present = covering(first, last, None, dt_ns.size)
    needed = covering(first, last, own, dt_ns.size)
    one = 1 << OWN_BITS
    over = needed > one
    # Of each interval: the factor of every need, and what each one present gets on top.
    scale = np.where(over, one / np.maximum(needed, 1), 1.0)
    rest = np.where(over, 0, one - needed) / np.maximum(present, 1)
    time = dt_ns.astype(np.float64) * (1 << bits)
    by_need = _cumulative(np.rint(time * scale))
    by_presence = _cumulative(np.floor(time * (rest / one)))
    weights = np.rint((by_need[last] - by_need[first]) * (own / one)).astype(np.int64)
    share: Column = weights + by_presence[last] - by_presence[first]
    return share


def prefill_starts(start_ns: Column, first_token_ns: Column, compute_ns: Column) -> Column:
    """When each request's prefill most likely began, shape n; first come, first served.

    That is the last first token of the others before its own (those of one iteration come
    together and share a window), but early enough for its own arithmetic, and never before the
    request was admitted.
    """
    tokens = np.unique(first_token_ns)
    place = np.searchsorted(tokens, first_token_ns)
    never = np.iinfo(np.int64).min
    earlier = np.where(place > 0, tokens[np.maximum(place - 1, 0)], never)
    begun: Column = np.maximum(start_ns, np.minimum(earlier, first_token_ns - compute_ns))
    return begun


def needs(
    roofline: Roofline, input_tokens: Column, cached_input_tokens: Column, output_tokens: Column
) -> tuple[Floats, Floats]:
    """Device seconds that each request needs for itself, (prefill, decode), shape n both.

    Prefill: its arithmetic in linear layers and attention. Decode: reading its keys and values
    once a token, and each token's arithmetic in what all tokens share.
    """
    computed = (input_tokens - cached_input_tokens).astype(np.float64)
    context = cached_input_tokens.astype(np.float64)
    steps = np.maximum(output_tokens - 1, 0).astype(np.float64)
    prefill = roofline.alpha_s * computed + roofline.own_s(computed, context)
    mean_context = input_tokens + steps / 2
    decode = steps * (roofline.alpha_s + roofline.own_s(np.ones_like(steps), mean_context))
    return prefill, decode


def own_rate(need_s: Floats, window_ns: Column) -> Column:
    """`own_fixed` of needs spread over their windows."""
    return own_fixed(need_s * 1e9 / np.maximum(window_ns, 1))


def covering(first: Column, last: Column, amounts: Column | None, size: int) -> Column:
    """Sum of `amounts` (None: 1 each) of the windows over each elementary interval, shape size."""
    change = np.zeros(size + 1, dtype=np.int64)
    values = np.ones_like(first) if amounts is None else amounts
    some = last > first
    np.add.at(change, first[some], values[some])
    np.subtract.at(change, last[some], values[some])
    sums: Column = np.cumsum(change)[:size]
    return sums


def _cumulative(steps: Floats) -> Column:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(steps.astype(np.int64))])
