"""What became more and what less between two profiles, stack by stack."""

from __future__ import annotations

import numpy as np

from apportion.core.errors import ProfileTraceError
from apportion.profiles.flame_frames import AFTER, BEFORE, BOTH
from apportion.profiles.stacks import Stacks
from apportion.profiles.weight import Weight


def difference(before: Stacks, after: Stacks, weight: str | None) -> Stacks:
    """Every stack of either, with three weights: before, after, and both added up.

    Both together are the width of a picture: what vanished is seen as well as what is new.

    Raises:
        ProfileTraceError: one has no weight of this name, or its unit is another one.
    """
    rows = before.weight(weight), after.weight(weight)
    first, second = before.weights[rows[0]], after.weights[rows[1]]
    if (first.unit, first.currency) != (second.unit, second.currency):
        raise ProfileTraceError(
            f"before is {first.name} in {first.currency or first.unit}, after {second.name} in "
            f"{second.currency or second.unit}: only like can be compared"
        )
    weights = [
        Weight(name, first.unit, first.currency)
        for name in (f"{first.name} before", second.name, "both")
    ]
    columns = np.zeros((3, len(before)), np.int64), np.zeros((3, len(after)), np.int64)
    for place, values, column in zip(
        (BEFORE, AFTER),
        (before.values[rows[0]], after.values[rows[1]]),
        columns,
        strict=True,
    ):
        column[place] = column[BOTH] = values
    return before.weighed(weights, columns[0]).together(after.weighed(weights, columns[1]))
