"""Whose a device was: hours that are left out, and devices that two agents metered at once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import and_, select

from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost import report_query as query
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent, device
from apportion.cost.ledger.shipping_tables import disowned
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from apportion.cost.period import Period
    from apportion.cost.report_scope import Scope

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class _Spell(NamedTuple):
    """From when to when a device was metered within an hour, in node time."""

    hour_ns: int
    start_ns: int
    end_ns: int


def left_out(connection: Connection, period: Period, whole: Scope) -> Iterator[str]:
    """What `period` would have had in its disowned hours: a sentence for each agent.

    `whole` is the same period with them.
    """
    keys = select(device.c.agent_id, device.c.device_key, agent.c.node).join(
        agent, agent.c.agent_id == device.c.agent_id
    )
    keys = keys.where(device.c.agent_id.in_(sorted(period.disowned.hours)))
    nodes: dict[int, str] = {}
    places: list[tuple[int, int]] = []
    for agent_id, key, node in rows(connection, keys):
        nodes[agent_id] = node
        places.append((agent_id, key))
    spells = _spells(connection, whole, places)
    for agent_id, node in sorted(nodes.items(), key=lambda item: item[1]):
        hours = set(period.disowned.hours[agent_id])
        mine = [
            spell
            for place, found in spells.items()
            if place[0] == agent_id
            for spell in found
            if spell.hour_ns in hours
        ]
        if not mine:
            continue
        device_ns = sum(spell.end_ns - spell.start_ns for spell in mine)
        start_ns = min(spell.start_ns for spell in mine)
        end_ns = max(spell.end_ns for spell in mine)
        since = _hour(period.wall.unix(agent_id, start_ns))
        until = _hour(period.wall.unix(agent_id, end_ns) + NS_PER_HOUR - 1)
        names = ", ".join(_disowned_devices(connection, agent_id))
        yield (
            f"{node} metered {names} while another agent held the lease: the hours of "
            f"{node} in which it did, from {since} to {until}, are left out with all their "
            f"{device_ns / NS_PER_HOUR:.1f} device-hours"
        )


def metered_twice(connection: Connection, scope: Scope) -> list[str]:
    """Devices that several agents metered at the same time, without any mark: a sentence each."""
    owners: dict[str, dict[tuple[int, int], str]] = {}
    known = select(device.c.device, device.c.agent_id, device.c.device_key, agent.c.node)
    known = known.join(agent, agent.c.agent_id == device.c.agent_id)
    for name, agent_id, key, node in rows(connection, known):
        owners.setdefault(name, {})[agent_id, key] = node
    shared = {
        name: places
        for name, places in sorted(owners.items())
        if len({agent_id for agent_id, _ in places}) > 1
    }
    spells = _spells(connection, scope, [place for places in shared.values() for place in places])
    found: list[str] = []
    for name, places in shared.items():
        unix = {
            place: sorted(
                (
                    scope.period.wall.unix(place[0], spell.start_ns),
                    scope.period.wall.unix(place[0], spell.end_ns),
                )
                for spell in spells.get(place, ())
            )
            for place in places
        }
        agents = {
            place[0]: places[place]
            for one, other in combinations(places, 2)
            if one[0] != other[0] and _meet(unix[one], unix[other])
            for place in (one, other)
        }
        if agents:
            found.append(f"{name} was metered by {' and '.join(sorted(agents.values()))}")
    return found


def _spells(
    connection: Connection, scope: Scope, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], list[_Spell]]:
    """By agent and device; an hour of which rollups have one part has a spell for each."""
    found: dict[tuple[int, int], list[_Spell]] = {}
    if not places:
        return found
    for source in scope.meters(GRAINS[:1]):
        for agent_id, key, *spell in rows(connection, query.spells(source, places)):
            found.setdefault((agent_id, key), []).append(_Spell(*spell))
    return found


def _disowned_devices(connection: Connection, agent_id: int) -> Iterable[str]:
    same = and_(
        disowned.c.agent_id == device.c.agent_id, disowned.c.device_key == device.c.device_key
    )
    names = select(device.c.device).join(disowned, same).where(device.c.agent_id == agent_id)
    return sorted(connection.execute(names.distinct()).scalars())


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
