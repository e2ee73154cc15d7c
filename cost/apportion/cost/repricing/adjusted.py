"""What adjustments a ledger has got since somebody looked: for who looks again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import case, func, select

from apportion.core.category import Category
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge
from apportion.cost.period import WallTime
from apportion.cost.repricing.recorded import Recorded
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Adjusted(NamedTuple):
    """What lines of one category and reason add to cost, and what others take away. Both >= 0."""

    category: Category
    reason: str
    raised_units: int
    lowered_units: int


class Adjustments(NamedTuple):
    """`sums` of the lines below a key, the lowest key now, and when the last was posted.

    `posted_unix_ns` None: never, or nothing is below that key.
    """

    sums: tuple[Adjusted, ...]
    least_key: int
    posted_unix_ns: int | None = None


def adjusted(connection: Connection, agent_id: int, below_key: int | None) -> Adjustments:
    """The adjustments of one agent with keys below `below_key`; None: only how far they go.

    Commands number their lines from -1 down, so that what came since a look has keys below the
    lowest one that was there.
    """
    recorded = Recorded(connection, agent_id)
    least_key = recorded.least_line()
    if below_key is not None and least_key >= below_key:
        return Adjustments((), least_key)
    posted_ns = recorded.last_posted_ns()
    posted_unix_ns = WallTime.load(connection).unix(agent_id, posted_ns) if posted_ns else None
    if below_key is None:
        return Adjustments((), least_key, posted_unix_ns)
    line = charge.c
    raised = wide_sum(case((line.units > 0, line.units)))
    lowered = wide_sum(case((line.units < 0, line.units)))
    by = (line.category, func.coalesce(line.reason, ""))
    query = select(*by, raised, lowered).where(
        line.agent_id == agent_id,
        line.charge_key < below_key,
        line.kind == int(ChargeKind.ADJUSTMENT),
    )
    found = [
        Adjusted(Category(category), reason, up or 0, -(down or 0))
        for category, reason, up, down in rows(connection, query.group_by(*by))
    ]
    return Adjustments(tuple(found), least_key, posted_unix_ns)
