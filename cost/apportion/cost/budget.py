"""Budgets: what somebody may cost in a day, a week or a month, and what of it the ledger has spent.

A period begins at midnight in the budget's time zone; a week begins on Monday. The ledger adds up
whole hours, so where a zone's midnight is none of UTC's hours the hour around it counts as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Literal

from apportion.core.units import NS_PER_SECOND
from apportion.cost.quantity import Quantity
from apportion.cost.spenders import SPENDERS, Cost, Spending

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apportion.cost.ledger.reader import LedgerReader
    from apportion.cost.report_rows import Key

Every = Literal["day", "week", "month"]


@dataclass(frozen=True, slots=True)
class Budget:
    """`amount_units` in each period. `chooses` maps a selector to the names that count.

    A selector that is not in it chooses everything: a budget with none is for all that the devices
    cost, idle ones too.
    """

    name: str
    amount_units: int
    every: Every
    zone: tzinfo
    chooses: Mapping[str, frozenset[str]]

    def period(self, unix_ns: int) -> tuple[int, int]:
        """The period that holds an instant of the wall clock: [start, end), unix ns."""
        today = datetime.fromtimestamp(unix_ns // NS_PER_SECOND, self.zone).date()
        if self.every == "day":
            first, after = today, today + timedelta(days=1)
        elif self.every == "week":
            first = today - timedelta(days=today.weekday())
            after = first + timedelta(days=7)
        else:
            first = today.replace(day=1)
            after = (first + timedelta(days=31)).replace(day=1)
        return self._midnight(first), self._midnight(after)

    def takes(self, key: Key) -> bool:
        """Does cost of these names, in the order of `SPENDERS`, count?"""
        return all(
            name not in self.chooses or value in self.chooses[name]
            for name, value in zip(SPENDERS, key, strict=True)
        )

    def _midnight(self, day: date) -> int:
        return int(datetime.combine(day, time(), self.zone).timestamp()) * NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Spent:
    """A budget in the period from `start_unix_ns` to `end_unix_ns`.

    `units` were spent, by what the ledger says now; None: nothing that was used has a price.
    """

    budget: Budget
    start_unix_ns: int
    end_unix_ns: int
    units: int | None = None


def spent(ledger: LedgerReader, budgets: Iterable[Budget], now_unix_ns: int) -> tuple[Spent, ...]:
    """What each budget has spent in its present period: posted and open, moves and new prices in.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    found: list[Spent] = []
    with ledger.read() as connection:
        spending = Spending(connection)
        costs: dict[int, list[Cost]] = {}
        for budget in budgets:
            start_ns, end_ns = budget.period(now_unix_ns)
            if start_ns not in costs:
                costs[start_ns] = spending.since(start_ns)
            taken = [amount for key, amount in costs[start_ns] if budget.takes(key)]
            units = sum(taken, Quantity()).units if taken else 0
            found.append(Spent(budget, start_ns, end_ns, units))
    return tuple(found)
