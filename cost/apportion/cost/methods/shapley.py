"""The oracle: the exact Shapley value of each request in each iteration.

v(S) is the time that the device needs to run sub-batch S of an iteration by itself: a launch,
g of its tokens, and its members' own attention. Own terms are a member's alone and the launch is
divided evenly; of g, members with one new token are alike, so subsets are counted by how many of
them they hold: 2^p x D terms with p members of several tokens and D of one, and exact.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from math import lgamma
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.two_part import by_iteration

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Floats, Roofline
    from apportion.cost.methods.shares import TraceShares
    from apportion.cost.methods.trace import Iterations, Trace

NAME: Final = "shapley"
MAX_PREFILLS: Final = 16


def shapley(trace: Trace, iterations: Iterations, roofline: Roofline) -> TraceShares:
    """The oracle's shares of a trace.

    Raises:
        ValueError: an iteration has more than `MAX_PREFILLS` members of several tokens.
    """
    return by_iteration(NAME, trace, iterations, shapley_s(iterations, roofline))


def shapley_s(iterations: Iterations, roofline: Roofline) -> Floats:
    """Each member's Shapley value in its iteration, in seconds, shape m."""
    new = iterations.new_tokens.astype(np.float64)
    parts = roofline.own_s(new, iterations.context_tokens.astype(np.float64))
    offsets = iterations.offsets.tolist()
    for begin, end in pairwise(offsets):
        if end > begin:
            linear = linear_values(iterations.new_tokens[begin:end], roofline)
            parts[begin:end] += linear + roofline.launch_s / (end - begin)
    return parts


def linear_values(new_tokens: np.ndarray, roofline: Roofline) -> Floats:
    """The Shapley values of g over one batch, shape m."""
    several = new_tokens != 1
    sizes = [int(size) for size in new_tokens[several]]
    if len(sizes) > MAX_PREFILLS:
        message = f"{len(sizes)} members of several tokens: 2^{len(sizes)} subsets are too many"
        raise ValueError(message)
    members, units = new_tokens.size, int(new_tokens.size - len(sizes))
    values = np.empty(members)
    weigh = _Coalitions(members, roofline)
    if units:
        values[~several] = weigh.value(1, sizes, units - 1)
    values[several] = [
        weigh.value(size, sizes[:index] + sizes[index + 1 :], units)
        for index, size in enumerate(sizes)
    ]
    return values


class _Coalitions:
    """Sums marginal values over all coalitions that do not hold a given member."""

    def __init__(self, members: int, roofline: Roofline) -> None:
        self._members = members
        self._roofline = roofline
        self._log_factorial = np.array([lgamma(k + 1) for k in range(members + 1)])

    def value(self, size: int, others: list[int], units: int) -> float:
        """Of a member with `size` tokens, beside `others` and `units` members of one token."""
        log, counts = self._log_factorial, np.arange(units + 1)
        ways = log[units] - log[counts] - log[units - counts]
        total = 0.0
        for held in range(len(others) + 1):
            order = held + counts
            weights = np.exp(ways + log[order] + log[self._members - 1 - order] - log[-1])
            for chosen in combinations(others, held):
                tokens = (sum(chosen) + counts).astype(np.float64)
                without = np.where(order > 0, self._roofline.linear_s(tokens), 0.0)
                gain = self._roofline.linear_s(tokens + size) - without
                total += float(weights @ gain)
        return total
