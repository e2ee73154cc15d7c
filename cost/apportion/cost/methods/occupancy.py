"""Who has how much of a device in each elementary interval: the kernel of `roofline-windows/1`.

A request in a window of its own (prefill or decode) needs `own` of the device: its arithmetic
and its keys and values over the window's length, constant there, so that cutting time anywhere
changes nothing. What nobody needs for himself (weights that all read, launches, waiting) is
divided evenly among those present; where needs exceed the time they are scaled to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.distinct import distinct

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats, Roofline
    from apportion.cost.methods.trace import Column

TOGETHER_NS: Final = 1_000_000
"""First tokens of one iteration are told one after the other, in less than this; two iterations
with prefills take longer."""
OWN_BITS: Final = 30
"""Fixed point of `own`: sums of integers do not depend on their order."""
_MAX_OWN: Final = 1 << 20
"""A need of a million times the window's length is a mistake in the facts, not a need."""


def own_fixed(own: Floats) -> Column:
    """`own`, device time needed per time of the window, in fixed point."""
    clipped = np.nan_to_num(np.clip(own, 0.0, _MAX_OWN), nan=0.0)
    return np.rint(clipped * (1 << OWN_BITS)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """n windows over k elementary intervals, and what each gets of every interval.

    Window i covers `first[i]` up to but not including `last[i]` and needs `own[i]` (`own_fixed`)
    of it; None: nobody needs anything for himself, and all is divided evenly. `present` (shape k)
    is how many cover each interval, `scale` the factor of every need there, `rest` what of the
    interval is left to be divided evenly.
    """

    first: Column
    last: Column
    own: Column | None
    present: Column
    scale: Floats
    rest: Floats

    @classmethod
    def of(cls, first: Column, last: Column, own: Column | None, size: int) -> Occupancy:
        """Windows over `size` intervals."""
        present = _covering(first, last, None, size)
        everyone = np.maximum(present, 1)
        if own is None:
            return cls(first, last, None, present, np.zeros(size), 1.0 / everyone)
        one, needed = 1 << OWN_BITS, _covering(first, last, own, size)
        over = needed > one
        scale = np.where(over, one / np.maximum(needed, 1), 1.0)
        rest = np.where(over, 0, one - needed) / everyone / one
        return cls(first, last, own, present, scale, rest)

    def weights(self, steps: Column, bits: int) -> Column:
        """One integer weight a window, shape n: its part of `steps`, times 2^`bits`.

        `steps` (shape k, >= 0) are what the intervals have to give: their lengths, or the energy
        used in them; 0 for those that do not count. Weights of each interval sum to its step,
        but for rounding.
        """
        given = steps.astype(np.float64) * (1 << bits)
        by_presence = _cumulative(np.floor(given * self.rest))
        share: Column = by_presence[self.last] - by_presence[self.first]
        if self.own is not None:
            by_need = _cumulative(np.rint(given * self.scale))
            needed = (by_need[self.last] - by_need[self.first]) * (self.own / (1 << OWN_BITS))
            share = share + np.rint(needed).astype(np.int64)
        return share


def prefill_starts(start_ns: Column, first_token_ns: Column, compute_ns: Column) -> Column:
    """When each request's prefill most likely began, shape n; first come, first served.

    That is the last first token of the others before its own (those of one iteration come
    together, within `TOGETHER_NS`, and share a window), but early enough for its own arithmetic,
    and never before the request was admitted.
    """
    tokens = distinct(first_token_ns)
    place = np.searchsorted(tokens, first_token_ns - (TOGETHER_NS - 1))
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


def _covering(first: Column, last: Column, amounts: Column | None, size: int) -> Column:
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
