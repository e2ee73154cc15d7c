"""A device that two agents metered at once: what was another agent's is left out, and named.

The shared ledger has all rows of its agents as they were committed, so that each agent's book is
whole and can be audited. It marks the hours in which an agent metered a device whose lease another
one held; a report leaves out what that agent has in them. Lines lie in one hour each, so the rest
still adds up exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, or_, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.shipping_tables import disowned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection


@dataclass(frozen=True, slots=True)
class Disowned:
    """By agent the starts of its marked hours, in its node time."""

    hours: Mapping[int, Sequence[int]]

    @classmethod
    def load(cls, connection: Connection) -> Disowned:
        """From the ledger; a node's own has none."""
        found: dict[int, list[int]] = {}
        query = select(disowned.c.agent_id, disowned.c.hour_ns).distinct()
        for agent_id, hour_ns in rows(connection, query.order_by(disowned.c.hour_ns)):
            found.setdefault(agent_id, []).append(hour_ns)
        return cls(found)

    def holds(
        self, agent_id: ColumnElement[int], instant_ns: ColumnElement[int]
    ) -> ColumnElement[bool]:
        """SQL: does a row of that agent and node time lie in a marked hour?"""
        hour_ns = instant_ns - instant_ns % NS_PER_HOUR
        terms = [and_(agent_id == known, hour_ns.in_(hours)) for known, hours in self.hours.items()]
        return or_(*terms)
