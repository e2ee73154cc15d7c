"""A device that two agents metered at once: what was another agent's is left out, and named.

The shared ledger has all rows of its agents as they were committed, so that each agent's book is
whole and can be audited. It marks the hours in which an agent metered a device whose lease another
one held; a report leaves out what that agent has in them. Lines lie in one hour each, so the rest
still adds up exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import combinations
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, func, or_, select

from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, device, settlement
from apportion.cost.ledger.shipping_tables import disowned
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection

    from apportion.cost.period import Period

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


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


def left_out(connection: Connection, period: Period) -> Iterator[str]:
    """What `period` would have had in its marked hours: a sentence for each agent."""
    hours = period.disowned.hours
    if not hours:
        return
    whole = period.with_disowned()
    mine = and_(
        period.disowned.holds(settlement.c.agent_id, settlement.c.start_ns),
        whole.holds(settlement.c.agent_id, settlement.c.start_ns),
    )
    sums = (
        select(
            settlement.c.agent_id,
            agent.c.node,
            func.min(settlement.c.start_ns),
            func.max(settlement.c.end_ns),
            wide_sum(settlement.c.end_ns - settlement.c.start_ns),
        )
        .join(agent, agent.c.agent_id == settlement.c.agent_id)
        .where(mine)
        .group_by(settlement.c.agent_id, agent.c.node)
        .order_by(agent.c.node)
    )
    for agent_id, node, start_ns, end_ns, device_ns in rows(connection, sums):
        names = sorted(
            connection.execute(
                select(device.c.device)
                .join(
                    disowned,
                    and_(
                        disowned.c.agent_id == device.c.agent_id,
                        disowned.c.device_key == device.c.device_key,
                    ),
                )
                .where(device.c.agent_id == agent_id)
                .distinct()
            ).scalars()
        )
        since = _hour(period.wall.unix(agent_id, start_ns))
        until = _hour(period.wall.unix(agent_id, end_ns) + NS_PER_HOUR - 1)
        yield (
            f"{node} metered {', '.join(names)} while another agent held the lease: the hours of "
            f"{node} in which it did, from {since} to {until}, are left out with all their "
            f"{device_ns / NS_PER_HOUR:.1f} device-hours"
        )


def metered_twice(connection: Connection, period: Period) -> Iterator[str]:
    """Devices that several agents metered at the same time, without any mark: a sentence each."""
    owners: dict[str, dict[tuple[int, int], str]] = {}
    query = select(device.c.device, device.c.agent_id, device.c.device_key, agent.c.node)
    query = query.join(agent, agent.c.agent_id == device.c.agent_id)
    for name, agent_id, key, node in rows(connection, query):
        owners.setdefault(name, {})[agent_id, key] = node
    for name, places in sorted(owners.items()):
        if len({agent_id for agent_id, _ in places}) < 2:
            continue
        spells = {place: _spells(connection, period, *place) for place in places}
        agents = {
            place[0]: places[place]
            for one, other in combinations(places, 2)
            if one[0] != other[0] and _meet(spells[one], spells[other])
            for place in (one, other)
        }
        if agents:
            nodes = " and ".join(sorted(agents.values()))
            yield f"{name} was metered by {nodes}: its cost is in here twice"


def _spells(
    connection: Connection, period: Period, agent_id: int, key: int
) -> list[tuple[int, int]]:
    """By hour from when to when an agent metered one of its devices, in unix nanoseconds."""
    hour_ns = (settlement.c.start_ns - settlement.c.start_ns % NS_PER_HOUR).label("hour_ns")
    hours = (
        select(hour_ns, settlement.c.start_ns, settlement.c.end_ns)
        .where(
            settlement.c.agent_id == agent_id,
            settlement.c.device_key == key,
            period.holds(settlement.c.agent_id, settlement.c.start_ns),
        )
        .subquery("hours")
    )
    query = select(func.min(hours.c.start_ns), func.max(hours.c.end_ns)).group_by(hours.c.hour_ns)
    return sorted(
        (period.wall.unix(agent_id, start_ns), period.wall.unix(agent_id, end_ns))
        for start_ns, end_ns in rows(connection, query)
    )


def _meet(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
    """Have two sorted lists of intervals any time in common?"""
    left, right = 0, 0
    while left < len(one) and right < len(other):
        if one[left][1] <= other[right][0]:
            left += 1
        elif other[right][1] <= one[left][0]:
            right += 1
        else:
            return True
    return False


def _hour(unix_ns: int) -> str:
    instant = _EPOCH + timedelta(seconds=unix_ns // NS_PER_SECOND)
    return f"{instant:%Y-%m-%d %H:00}Z"
