"""The methods of a ledger's lines: what `allocation_method` says, and its key."""

from __future__ import annotations

from enum import IntEnum


class Method(IntEnum):
    """Stored in ledgers (`method.method_key`): a number never changes its meaning."""

    TIME_SHARE = 1
    STEP_EXCLUSIVE = 2
    ROOFLINE_WINDOWS = 3
    PRICE_RULE = 4
    """Nothing was divided: money by a rule of a price row, that is nobody's."""

    HEAD_SHARE = 5
    """Not divided yet: a report that knows the head's requests divides it as they share theirs."""

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
}
