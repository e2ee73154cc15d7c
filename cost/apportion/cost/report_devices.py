"""The meter's side of a report: devices, what each was metered, and where it went at first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.category import Category
from apportion.cost import report_query as query
from apportion.cost.idle_power import IdleState
from apportion.cost.ledger.rows import rows
from apportion.cost.quantity import Lacks, Quantity, summed
from apportion.cost.report_rows import DeviceRow, one_row_a_device
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from apportion.cost.report_prices import Prices
    from apportion.cost.report_scope import Scope

_METER: Final = ("agent_id", "device_key", "rate_key", "energy_source")
_PART: Final = ("agent_id", "device_key", "category")


class Metered(NamedTuple):
    """A device's time at one rate (0: none) and with one energy source (empty: none)."""

    agent_id: int
    device: int
    rate: int
    energy_source: str
    lacks: int
    amount: Quantity


def metered(connection: Connection, scope: Scope) -> list[Metered]:
    """Everything that was settled."""
    return [
        Metered._make((*row[:5], summed(*row[4:])))
        for source in scope.meters(GRAINS)
        for row in rows(connection, query.quantities(source, _METER))
    ]


def device_rows(
    connection: Connection,
    scope: Scope,
    meters: Sequence[Metered],
    prices: Prices,
    *,
    settles: bool,
) -> tuple[DeviceRow, ...]:
    """Devices that were metered in the period. `settles`: it is known how far they are settled."""
    amounts: dict[tuple[int, int], Quantity] = {}
    sources: dict[tuple[int, int], set[str]] = {}
    by_weights: dict[tuple[int, int], int] = {}
    for row in meters:
        place = row.agent_id, row.device
        amounts[place] = amounts.get(place, Quantity()) + row.amount
        sources.setdefault(place, set()).update({row.energy_source} - {""})
        if row.lacks & Lacks.IDLE_POWER:
            by_weights[place] = by_weights.get(place, 0) + (row.amount.energy_mj or 0)
    idle: dict[tuple[int, int], dict[str, int]] = {}
    for agent_id, key, state, power_mw in rows(connection, query.idle_powers()):
        idle.setdefault((agent_id, key), {})[IdleState(state).label] = power_mw
    parts = _parts(connection, scope)
    found: list[tuple[int, DeviceRow]] = []
    for agent_id, key, node, device, name, simulated, settled_ns in rows(
        connection, query.devices()
    ):
        place = agent_id, key
        if place not in amounts:
            continue
        until_ns: int | None = settled_ns if settles else None
        of_spell = DeviceRow(
            node,
            device,
            name,
            bool(simulated),
            None if until_ns is None else scope.period.wall.unix(agent_id, until_ns),
            tuple(sorted(sources[place])),
            amounts[place],
            prices.changed(agent_id, key),
            dict(sorted(parts.get(place, {}).items())),
            by_weights.get(place, 0),
            idle.get(place, {}),
        )
        found.append((agent_id, of_spell))
    return one_row_a_device(found)


def _parts(connection: Connection, scope: Scope) -> dict[tuple[int, int], dict[Category, Quantity]]:
    """By agent and device where the meter's time went."""
    parts: dict[tuple[int, int], dict[Category, Quantity]] = {}
    for source in scope.parts(GRAINS):
        for row in rows(connection, query.quantities(source, _PART)):
            of_device, category = parts.setdefault((row[0], row[1]), {}), Category(row[2])
            of_device[category] = of_device.get(category, Quantity()) + summed(*row[3:])
    return parts
