"""One value of a declared metric family, on its way from a collector to /metrics."""

from __future__ import annotations

from typing import NamedTuple


class Sample(NamedTuple):
    """A value of the family `apportion_<name>`. What a source cannot tell is no sample at all.

    `value` has the family's unit; `labels` are (label, text) pairs that the family declares.
    """

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
