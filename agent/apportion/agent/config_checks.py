"""What values of the configuration must be besides their type. A wrong one is a ValueError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from apportion.agent.duration import Duration
from apportion.cost.keeping import LEAST_NS
from apportion.cost.price_row import CAPACITIES, LABEL, MATCHED

BOUNDS_NS: Final = {
    "sample_period": (50_000_000, 60_000_000_000),
    "dcgm_interval": (100_000_000, 600_000_000_000),
    "telemetry_gap": (100_000_000, 600_000_000_000),
    "tick_period": (50_000_000, 600_000_000_000),
    "lateness": (0, 600_000_000_000),
    "drain": (100_000_000, 600_000_000_000),
    "lease": (1_000_000_000, 3_600_000_000_000),
}
"""By key the shortest and the longest period."""

_LEAST_KEPT: Final = Duration(LEAST_NS)


def check_period(key: str, period: Duration) -> None:
    """A period of `BOUNDS_NS`."""
    least_ns, most_ns = BOUNDS_NS[key]
    if not least_ns <= period.ns <= most_ns:
        raise ValueError(
            f"{key} is {period}; it must be from {Duration(least_ns)} to {Duration(most_ns)}"
        )


def check_keeping(lines: Duration | None, rollups: Duration | None) -> None:
    """How long lines are kept, and the sums of what was let go; None is for ever."""
    if lines is not None and lines < _LEAST_KEPT:
        raise ValueError(f"keep_lines is {lines}; it must be {_LEAST_KEPT} or more")
    if rollups is not None and (lines is None or rollups < lines):
        raise ValueError(
            f"keep_rollups is {rollups}; sums are kept at least as long as their lines, and "
            f"keep_lines is {lines or 'unset'}"
        )


def check_placement(placement: Mapping[str, str]) -> None:
    """What a node is, in the words that a price table's `match` has."""
    for name in placement:
        if name not in MATCHED and not name.startswith(LABEL):
            raise ValueError(f"placement has {name!r}; it takes {', '.join(MATCHED)}, labels.NAME")
    if placement.get("capacity", CAPACITIES[0]) not in CAPACITIES:
        raise ValueError(f"placement: capacity must be one of {', '.join(CAPACITIES)}")
