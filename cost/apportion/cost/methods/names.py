"""The methods of a ledger's lines: what `allocation_method` says, and its key."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Method(IntEnum):
    """Stored in ledgers (`method.method_key`): a number never changes its meaning."""

    TIME_SHARE = 1
    STEP_EXCLUSIVE = 2
    ROOFLINE_WINDOWS = 3
    PRICE_RULE = 4
    """Nothing was divided: money by a rule of a price row, that is nobody's."""

    HEAD_SHARE = 5
    """Not divided yet: a report that knows the head's requests divides it as they share theirs."""

    ROOFLINE_COUNTS = 6
    ROOFLINE_TWO_PART = 7

    @property
    def label(self) -> str:
        """The name and version of the method."""
        return _LABELS[self]


_LABELS = {
    Method.TIME_SHARE: "time-share/1",
    Method.STEP_EXCLUSIVE: "step-exclusive/1",
    Method.ROOFLINE_WINDOWS: "roofline-windows/1",
    Method.PRICE_RULE: "price-rule/1",
    Method.HEAD_SHARE: "head-share/1",
    Method.ROOFLINE_COUNTS: "roofline-counts/1",
    Method.ROOFLINE_TWO_PART: "roofline-two-part/1",
}

BY_NEED: Final = (Method.ROOFLINE_WINDOWS, Method.ROOFLINE_COUNTS, Method.ROOFLINE_TWO_PART)
"""Those that tell prefill from decode, by what they know of the requests, the least first."""


def of_both(one: int, other: int) -> int:
    """The method of an amount that two methods made: of those by need what knows less."""
    least = min(one, other)
    return least if least in BY_NEED else max(one, other)
