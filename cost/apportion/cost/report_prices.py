"""What a period's time costs by now: rates in force, those they replaced, the difference."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from apportion.cost import report_query as query
from apportion.cost.ledger.rows import rows
from apportion.cost.quantity import Quantity
from apportion.cost.report_rows import RateRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from apportion.cost.report_scope import Scope


class Prices:
    """Of one scope. Rates are those of the ledger, by agent and key."""

    def __init__(
        self, connection: Connection, scope: Scope, metered: Iterable[tuple[int, int, int]]
    ) -> None:
        """`metered`: (agent, rate or 0, nanoseconds) of what was settled, in any pieces."""
        times: Counter[tuple[int, int]] = Counter()
        for agent_id, key, device_ns in metered:
            times[agent_id, key] += device_ns
        self._changed: dict[tuple[int, int], Quantity] = {}
        for row in rows(connection, query.repriced(scope)):
            agent_id, device, before, after, units, device_ns = row
            times[agent_id, before or 0] -= device_ns
            times[agent_id, after] += device_ns
            unpriced_ns = -device_ns if before is None else 0
            self._add(agent_id, device, Quantity(0, units, None, unpriced_ns))
        ruled: set[tuple[int, int]] = set()
        for agent_id, device, key, units in rows(connection, query.by_rule(scope)):
            self._add(agent_id, device, Quantity(0, units))
            ruled |= {(agent_id, key)} if units else set()
        facts = {(row[0], row[1]): RateRow(*row[2:]) for row in rows(connection, query.rates())}
        priced = {place for place, device_ns in times.items() if device_ns and place[1]}
        in_force = {facts[place] for place in priced | ruled}
        used = {facts[place] for place in times if place[1]}
        self.in_force = tuple(sorted(in_force, key=_order))
        """What the period's time costs."""
        self.replaced = tuple(sorted(used - in_force, key=_order))
        """What all the time that was metered so costs no longer."""

    def _add(self, agent_id: int, device: int, amount: Quantity) -> None:
        known = self._changed.get((agent_id, device), Quantity())
        self._changed[agent_id, device] = known + amount

    def changed(self, agent_id: int, device: int) -> Quantity:
        """What new prices, and rules of price rows, made of what a device was metered.

        More money or less, and less time without a price.
        """
        return self._changed.get((agent_id, device), Quantity())


def _order(row: RateRow) -> tuple[str, str, str]:
    return row.device_name, row.as_of, row.per_hour
