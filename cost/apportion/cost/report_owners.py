"""Devices that two agents metered at the same time: their cost is in a ledger twice."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_MINUTE
from apportion.cost import report_query as query
from apportion.cost.ledger.rows import rows
from apportion.cost.period import instant

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.period import Period

TOLERANCE_NS: Final = NS_PER_MINUTE
"""Clocks of two hosts differ, and one takes over when the other has just stopped."""


class _Owner(NamedTuple):
    """Who metered a device, and when (unix ns)."""

    device: str
    node: str
    since_ns: int
    until_ns: int


def overlaps(connection: Connection, period: Period) -> list[str]:
    """For each two owners of a device that metered it at once, within a period: who and when."""
    owners: dict[str, list[_Owner]] = {}
    for agent_id, _, node, device, _, _, since_ns, settled_ns in rows(connection, query.devices()):
        if since_ns is not None and since_ns < settled_ns:
            edges = (period.wall.unix(agent_id, at) for at in (since_ns, settled_ns))
            owners.setdefault(device, []).append(_Owner(device, node, *edges))
    found: list[str] = []
    for one, other in (pair for known in owners.values() for pair in combinations(known, 2)):
        starts = (one.since_ns, other.since_ns, period.start_unix_ns)
        ends = (one.until_ns, other.until_ns, period.end_unix_ns)
        start_ns = max(at for at in starts if at is not None)
        end_ns = min(at for at in ends if at is not None)
        if end_ns - start_ns > TOLERANCE_NS:
            nodes = " and ".join(sorted((one.node, other.node)))
            times = f"from {instant(start_ns)} to {instant(end_ns)}"
            found.append(f"{one.device} was metered by {nodes} {times}")
    return sorted(found)
