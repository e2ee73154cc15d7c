"""For how long a ledger keeps what."""

from __future__ import annotations

from typing import Final, NamedTuple

from apportion.core.units import NS_PER_HOUR

LEAST_NS: Final = 24 * NS_PER_HOUR
"""Settlement goes back to rows of the last hours when it learns something late."""


class Keep(NamedTuple):
    """Of rows, and of the sums that they add up to; in node time, None: for ever."""

    rows_ns: int | None
    rollups_ns: int | None = None
