"""Whom the ledger's cost went to, by name, and who of them spent most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from apportion.cost import report_query as query
from apportion.cost.disowned import Disowned
from apportion.cost.ledger.rows import many_rows
from apportion.cost.period import Period, WallTime
from apportion.cost.quantity import Quantity, summed
from apportion.cost.report_dimensions import Dimensions, Names
from apportion.cost.report_scope import Scope

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.ledger.reader import LedgerReader
    from apportion.cost.report_rows import Key

SPENDERS: Final = ("workload", "run", "tenant", "model")
"""Dimensions of a report that say who somebody is."""

Cost = tuple["Key", Quantity]
"""Names in the order of `SPENDERS`, and a part of what went to them."""


class Spending:
    """Cost of one ledger since some instants. Names are read once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wall, self._disowned = WallTime.load(connection), Disowned.load(connection)
        self._names = Names(connection, self._wall)

    def since(self, unix_ns: int) -> list[Cost]:
        """All of it from that hour on: posted and open, moves and new prices in it."""
        period = Period.around(unix_ns, None, self._wall, self._disowned)
        scope, by = Scope.now(self._connection, period), Dimensions(SPENDERS, self._names)
        width = len(by.columns)
        return [
            (by.key(row), summed(*row[width:]))
            for source in scope.cost(by.grains)
            for row in many_rows(self._connection, query.quantities(source, by.columns))
        ]


def top_spenders(ledger: LedgerReader, since_unix_ns: int) -> dict[str, dict[str, int]]:
    """What each name of each dimension cost, those that cost most first.

    In units; where nothing of a dimension has a price, device time in nanoseconds.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with ledger.read() as connection:
        costs = Spending(connection).since(since_unix_ns)
    found: dict[str, dict[str, int]] = {}
    for place, dimension in enumerate(SPENDERS):
        sums: dict[str, Quantity] = {}
        for key, amount in costs:
            name = key[place]
            if name is not None:
                sums[name] = sums.get(name, Quantity()) + amount
        priced = any(amount.units is not None for amount in sums.values())
        spent = {
            name: (amount.units or 0) if priced else amount.device_ns
            for name, amount in sums.items()
        }
        order = sorted(spent, key=lambda name: (-spent[name], -sums[name].device_ns, name))
        found[dimension] = {name: spent[name] for name in order}
    return found
