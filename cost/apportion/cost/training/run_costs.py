"""What runs cost, by attempt and line: of one ledger, and of several together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from apportion.core.category import Category, Phase
from apportion.cost.ledger.rows import rows
from apportion.cost.quantity import Quantity
from apportion.cost.training import run_query as query
from apportion.cost.training.attempts import RunKey
from apportion.cost.training.derived_loss import derived_loss
from apportion.cost.training.rollback import fates
from apportion.cost.training.run_rows import RunLine, run_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from apportion.cost.period import Period
    from apportion.cost.training.attempts import Attempt
    from apportion.cost.training.derived_loss import Derived


class Place(NamedTuple):
    """A line of an attempt by number; 0: of processes of the run that ran no steps."""

    attempt: int
    line: RunLine


@dataclass(slots=True)
class RunCosts:
    """Sums by place; `derived` is what of them no ledger has posted there."""

    totals: dict[Place, Quantity] = field(default_factory=dict[Place, Quantity])
    derived: dict[Place, Quantity] = field(default_factory=dict[Place, Quantity])

    def add(self, place: Place, amount: Quantity) -> None:
        """What a ledger says."""
        self.totals[place] = self.totals.get(place, Quantity()) + amount

    def derive(self, found: Derived) -> None:
        """What it would say if its agent had seen the restart."""
        target = Place(found.attempt, found.target)
        self.add(Place(found.attempt, found.source), -found.amount)
        self.add(target, found.amount)
        self.derived[target] = self.derived.get(target, Quantity()) + found.amount

    def of_line(self, line: RunLine) -> tuple[Quantity, Quantity]:
        """A line's total over all attempts, and how much of it is derived."""
        return _total(self.totals, line), _total(self.derived, line)

    def of_attempt(self, number: int, lines: Iterable[RunLine]) -> Quantity:
        """Some lines of one attempt."""
        wanted = {Place(number, line) for line in lines}
        return sum((q for place, q in self.totals.items() if place in wanted), Quantity())

    @property
    def total(self) -> Quantity:
        """Everything."""
        return sum(self.totals.values(), Quantity())


def add_costs(
    costs: Mapping[RunKey, RunCosts],
    connection: Connection,
    period: Period,
    attempts: Mapping[RunKey, Sequence[Attempt]],
) -> None:
    """Add what one ledger says. `attempts` are those of all ledgers together."""
    axis = query.Axis.of(period.wall)
    names = {
        (agent_id, key): (RunKey(workload, run), attempt or "")
        for agent_id, key, workload, run, attempt in rows(connection, query.entities())
    }
    by_run: dict[RunKey, dict[tuple[int, int], str]] = {}
    for place, (key, label) in names.items():
        if key in costs:
            by_run.setdefault(key, {})[place] = label
    since = [
        one for key, mine in by_run.items() for one in _repeated(axis, attempts.get(key, ()), mine)
    ]
    since.sort(key=lambda one: one[2], reverse=True)
    restarted = {
        key: {a.number for a, fate in zip(known, fates(known), strict=True) if fate.restarts}
        for key, known in attempts.items()
    }
    for agent_id, entity_key, part, category, phase, loss, *sums in rows(
        connection, query.cost(period, since)
    ):
        key, label = names[agent_id, entity_key]
        if key in costs:
            number = part or _first(attempts.get(key, ()), label)
            again = number in restarted.get(key, ())
            line = run_line(Category(category), Phase(phase or 0), loss, restarted=again)
            costs[key].add(Place(number, line), Quantity.of(*sums))
    for key, mine in by_run.items():
        for found in derived_loss(connection, period, axis, attempts.get(key, ()), mine):
            if not found.amount.same_amounts(Quantity()):
                costs[key].derive(found)


def _total(amounts: Mapping[Place, Quantity], line: RunLine) -> Quantity:
    return sum((q for place, q in amounts.items() if place.line is line), Quantity())


def _first(attempts: Sequence[Attempt], label: str) -> int:
    """The first attempt of that name; 0 where no process of that name ran steps."""
    return next((attempt.number for attempt in attempts if label in attempt.labels), 0)


def _repeated(
    axis: query.Axis, attempts: Sequence[Attempt], names: Mapping[tuple[int, int], str]
) -> list[tuple[int, Sequence[int], int, int]]:
    """Where one name was used for several attempts: from when on its lines are a later one's."""
    found: list[tuple[int, Sequence[int], int, int]] = []
    seen: set[str] = set()
    for attempt in attempts:
        again = attempt.labels & seen
        for agent_id in sorted({process.key.agent_id for process in attempt.processes}):
            keys = [
                k for (agent, k), label in names.items() if agent == agent_id and label in again
            ]
            if keys:
                starts = [p.start_ns for p in attempt.processes if p.key.agent_id == agent_id]
                found.append((agent_id, keys, axis.node(agent_id, min(starts)), attempt.number))
        seen |= attempt.labels
    return found
