"""Which part of a ledger a report is about: whole hours, in each agent's own node time.

Ledger lines lie within one hour of node time each, so only whole hours can be added up exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, not_, or_, select, true

from apportion.core.units import NS_PER_HOUR
from apportion.cost.disowned import Disowned
from apportion.cost.ledger.schema import agent, wall_offset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection


@dataclass(frozen=True, slots=True)
class WallTime:
    """Every agent's dated offsets between its node time and the wall clock."""

    offsets: Mapping[int, Sequence[tuple[int, int]]]
    """By agent: (since_ns, offset_ns) in ascending order; no row: no offset."""

    @classmethod
    def load(cls, connection: Connection) -> WallTime:
        """From the ledger."""
        offsets: dict[int, list[tuple[int, int]]] = {
            agent_id: [] for agent_id in connection.execute(select(agent.c.agent_id)).scalars()
        }
        query = select(wall_offset.c.agent_id, wall_offset.c.since_ns, wall_offset.c.offset_ns)
        for agent_id, since_ns, offset_ns in connection.execute(
            query.order_by(wall_offset.c.agent_id, wall_offset.c.since_ns)
        ):
            offsets.setdefault(agent_id, []).append((since_ns, offset_ns))
        return cls(offsets)

    def unix(self, agent_id: int, node_ns: int) -> int:
        """Wall time of an instant of an agent's node time."""
        known = self.offsets.get(agent_id, ())
        if not known:
            return node_ns
        index = bisect_right(known, node_ns, key=lambda offset: offset[0]) - 1
        return node_ns + known[max(0, index)][1]

    def hour(self, agent_id: int, node_ns: int) -> int:
        """The hour of the wall clock (unix ns) that is nearest to an hour of node time."""
        unix_ns = self.unix(agent_id, node_ns) + NS_PER_HOUR // 2
        return unix_ns - unix_ns % NS_PER_HOUR

    def same_hours(self, agent_id: int) -> bool:
        """Have the agent's hours always been those of the wall clock, so that its days are?"""
        return all(abs(offset) < NS_PER_HOUR // 2 for _, offset in self.offsets.get(agent_id, ()))

    def node(self, agent_id: int, unix_ns: int) -> int:
        """Node time of an instant of the wall clock, by the last offset that held before it.

        Later instants never come earlier: one that the clock was set past is where it was set.
        """
        known = self.offsets.get(agent_id) or ((0, 0),)
        last = 0
        for index, (since_ns, offset_ns) in enumerate(known):
            if since_ns + offset_ns <= unix_ns:
                last = index
        found_ns = unix_ns - known[last][1]
        return found_ns if last + 1 == len(known) else min(found_ns, known[last + 1][0])


NOTHING_DISOWNED: Final = Disowned({})


@dataclass(frozen=True, slots=True)
class Period:
    """[start_unix_ns, end_unix_ns) in whole hours, without those of `disowned`; None is open."""

    start_unix_ns: int | None
    end_unix_ns: int | None
    wall: WallTime
    disowned: Disowned = NOTHING_DISOWNED

    def with_disowned(self) -> Period:
        """The same with every hour."""
        return replace(self, disowned=NOTHING_DISOWNED)

    @classmethod
    def around(
        cls,
        start_unix_ns: int | None,
        end_unix_ns: int | None,
        wall: WallTime,
        disowned: Disowned = NOTHING_DISOWNED,
    ) -> Period:
        """The shortest whole hours of the wall clock that hold what is asked for."""
        if start_unix_ns is not None:
            start_unix_ns -= start_unix_ns % NS_PER_HOUR
        if end_unix_ns is not None:
            end_unix_ns += -end_unix_ns % NS_PER_HOUR
        return cls(start_unix_ns, end_unix_ns, wall, disowned)

    def over_by(self, unix_ns: int) -> Period:
        """What of it was over at some instant."""
        last_ns = unix_ns - unix_ns % NS_PER_HOUR
        end_ns = last_ns if self.end_unix_ns is None else min(self.end_unix_ns, last_ns)
        return replace(self, end_unix_ns=end_ns)

    def holds(
        self, agent_id: ColumnElement[int], instant_ns: ColumnElement[int]
    ) -> ColumnElement[bool]:
        """SQL: does a row of that agent and node time belong to the period?

        An edge is the hour of node time that is nearest to it: the two clocks differ by little.
        """
        inside = self._inside(agent_id, instant_ns)
        if not self.disowned.hours:
            return inside
        return and_(inside, not_(self.disowned.holds(agent_id, instant_ns)))

    def _inside(
        self, agent_id: ColumnElement[int], instant_ns: ColumnElement[int]
    ) -> ColumnElement[bool]:
        if self.start_unix_ns is None and self.end_unix_ns is None:
            return true()
        agents: dict[tuple[int | None, int | None], list[int]] = {}
        for known in self.wall.offsets:
            agents.setdefault(self.edges(known), []).append(known)
        choices: list[ColumnElement[bool]] = []
        for (start_ns, end_ns), members in agents.items():
            terms: list[ColumnElement[bool]] = [agent_id.in_(members)]
            if start_ns is not None:
                terms.append(instant_ns >= start_ns)
            if end_ns is not None:
                terms.append(instant_ns < end_ns)
            choices.append(and_(*terms))
        return or_(*choices) if choices else true()

    def edges(self, agent_id: int) -> tuple[int | None, int | None]:
        """Where it starts and ends in an agent's node time."""
        return self._edge(agent_id, self.start_unix_ns), self._edge(agent_id, self.end_unix_ns)

    def _edge(self, agent_id: int, unix_ns: int | None) -> int | None:
        if unix_ns is None:
            return None
        node_ns = self.wall.node(agent_id, unix_ns) + NS_PER_HOUR // 2
        return node_ns - node_ns % NS_PER_HOUR
