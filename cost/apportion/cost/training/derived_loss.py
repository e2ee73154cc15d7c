"""Lost work that no ledger has posted: it is derived from a run's attempts.

An agent moves lost work to `lost` when it sees the restart. One whose node died, or whose job went
elsewhere, never sees it. The same statements give the same amounts here; what is posted is no
longer where it was, and they do not find it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from apportion.core.category import Category, Phase
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge
from apportion.cost.quantity import Quantity
from apportion.cost.training import run_query as query
from apportion.cost.training.attempts import Outcome, ProcessKey, name_ends_ns
from apportion.cost.training.lost_query import (
    Hang,
    batches,
    step_cost,
    vain_steps,
    waiting_cost,
)
from apportion.cost.training.rollback import EVER_NS, fates, rollbacks
from apportion.cost.training.run_rows import RunLine, run_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from apportion.cost.period import Period
    from apportion.cost.training.attempts import Attempt, Process


class Derived(NamedTuple):
    """What belongs to another line than the ledger says, of an attempt by number."""

    attempt: int
    source: RunLine
    target: RunLine
    amount: Quantity


def derived_loss(
    connection: Connection,
    period: Period,
    axis: query.Axis,
    attempts: Sequence[Attempt],
    names: Mapping[tuple[int, int], str],
) -> Iterator[Derived]:
    """All of it that one ledger has, of one run.

    `names` are what the run's (agent, entity) call their attempt.
    """
    agents = period.wall.offsets.keys()
    numbers = {
        process.key: attempt.number
        for attempt in attempts
        for process in attempt.processes
        if process.key.agent_id in agents
    }
    held = period.holds(charge.c.agent_id, charge.c.start_ns)
    vain = [axis.rollback(one) for one in rollbacks(attempts) if one.process in numbers]
    for batch in batches(vain):
        for agent_id, ring, phase, *sums in rows(connection, step_cost(vain_steps(batch), held)):
            source = run_line(Category.DIRECT, Phase(phase or 0), "", restarted=False)
            number = numbers[ProcessKey(agent_id, ring)]
            yield Derived(number, source, RunLine.ROLLED_BACK, Quantity.of(*sums))
    hangs: list[Hang] = []
    waited: dict[str, int] = {}
    for place, (attempt, fate) in enumerate(zip(attempts, fates(attempts), strict=True)):
        mine = [process for process in attempt.processes if process.key in numbers]
        if not fate.followed or not mine:
            continue
        unended = [process.key for process in mine if process.end_ns is None]
        for running in rows(connection, query.open_steps(unended)) if unended else ():
            lines = (RunLine.STEPS, RunLine.OPEN_AT_DEATH)
            yield Derived(attempt.number, *lines, Quantity.of(*running))
        if fate.outcome(attempt) is Outcome.INTERRUPTED:
            hangs += _hangs(axis, mine, name_ends_ns(attempts, place), names)
            waited |= dict.fromkeys(attempt.labels - waited.keys(), attempt.number)
    for agent_id, entity, category, *sums in (
        rows(connection, waiting_cost(hangs, period)) if hangs else ()
    ):
        source = run_line(Category(category), Phase.NONE, "", restarted=False)
        number = waited[names[agent_id, entity]]
        yield Derived(number, source, RunLine.HANG, Quantity.of(*sums))


def _hangs(
    axis: query.Axis,
    members: Sequence[Process],
    until_ns: int | None,
    names: Mapping[tuple[int, int], str],
) -> list[Hang]:
    """The waiting of processes of one attempt, by agent."""
    found: list[Hang] = []
    for agent_id in sorted({process.key.agent_id for process in members}):
        mine = [process for process in members if process.key.agent_id == agent_id]
        labels = {process.attempt for process in mine}
        entities = [
            key for (agent, key), label in names.items() if agent == agent_id and label in labels
        ]
        births = [
            process.start_ns if process.born_ns is None else process.born_ns for process in mine
        ]
        since_ns = axis.node(agent_id, min(births))
        rings = tuple(process.key.ring for process in mine)
        named_ns = EVER_NS if until_ns is None else axis.node(agent_id, until_ns)
        found.append(Hang(agent_id, rings, tuple(entities), since_ns, named_ns))
    return found
