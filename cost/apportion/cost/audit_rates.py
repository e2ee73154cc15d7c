"""What rates say, for audits: the meter once more, in plain integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import rate

if TYPE_CHECKING:
    from sqlalchemy import Connection


class RateFacts(NamedTuple):
    """A rate in units per hour, as a fraction, and from when it holds."""

    numerator: int
    denominator: int
    valid_from_ns: int | None

    def origin_ns(self, time_ns: int) -> int:
        """From when the meter counts at `time_ns`: the hour's start or the rate's."""
        hour_ns = time_ns - time_ns % NS_PER_HOUR
        return hour_ns if self.valid_from_ns is None else max(hour_ns, self.valid_from_ns)

    def units(self, start_ns: int, end_ns: int) -> int:
        """What [start_ns, end_ns) of one hour costs."""
        origin_ns = self.origin_ns(start_ns)
        divisor = self.denominator * NS_PER_HOUR
        until_end = self.numerator * (end_ns - origin_ns) // divisor
        return until_end - self.numerator * (start_ns - origin_ns) // divisor


def rate_facts(connection: Connection) -> dict[tuple[int, int], RateFacts]:
    """By agent and key."""
    query = select(
        rate.c.agent_id, rate.c.rate_key, rate.c.numerator, rate.c.denominator, rate.c.valid_from_ns
    )
    return {
        (row[0], row[1]): RateFacts(int(row[2]), int(row[3]), row[4])
        for row in rows(connection, query)
    }
