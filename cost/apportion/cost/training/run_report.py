"""What training cost: runs, their attempts, and where the money went, over one or more ledgers.

Lines add up to a run's total exactly. Steps count once, however many ranks and nodes ran them.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import select

from apportion.core.errors import LedgerError
from apportion.cost.figure_text import instant
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent
from apportion.cost.period import Period, WallTime
from apportion.cost.quantity import Quantity, plus
from apportion.cost.rollups.marks import NEVER_NS
from apportion.cost.rollups.reach import kept_from
from apportion.cost.training import run_query as query
from apportion.cost.training.attempts import Attempt, ProcessKey, RunKey, attempts_of
from apportion.cost.training.checkpoints import Saved, checkpoint_row
from apportion.cost.training.rollback import Fate, Rollback, fates, rollbacks
from apportion.cost.training.run_costs import RunCosts, add_costs
from apportion.cost.training.run_rows import (
    IN_STEPS,
    LOST,
    USEFUL,
    AttemptRow,
    CheckpointRow,
    LineRow,
    RunLine,
    RunReport,
    RunRow,
)
from apportion.cost.training.step_numbers import StepNumbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from apportion.cost.ledger.reader import LedgerReader
    from apportion.cost.training.attempts import Process

TOKENS_PER_PRICE: Final = 1_000_000


class _Part(NamedTuple):
    """One ledger that is being read."""

    connection: Connection
    period: Period
    axis: query.Axis

    def mine(self, members: Sequence[Process]) -> list[ProcessKey]:
        """Those of some processes whose agents are in this ledger."""
        return [one.key for one in members if one.key.agent_id in self.period.wall.offsets]


def run_report(
    ledgers: Sequence[LedgerReader],
    start_unix_ns: int | None = None,
    end_unix_ns: int | None = None,
    *,
    run: str | None = None,
    mtbf_s: float | None = None,
) -> RunReport:
    """Runs over [start, end), widened to whole hours; None is open. `run`: those of that name.

    `mtbf_s` stands for the mean time between failures that a run itself shows.

    Raises:
        LedgerError: no such run, one ledger twice, several currencies, or one cannot be read.
    """
    with ExitStack() as stack:
        parts: list[_Part] = []
        for ledger in ledgers:
            connection = stack.enter_context(ledger.read())
            wall = WallTime.load(connection)
            period = Period.around(start_unix_ns, end_unix_ns, wall)
            parts.append(_Part(connection, period, query.Axis.of(wall)))
        names = tuple(ledger.name for ledger in ledgers)
        currency = _currency(parts, names)
        members: dict[RunKey, list[Process]] = {}
        for part in parts:
            for key, known in query.processes(part.connection, part.axis).items():
                if run is None or key.run == run:
                    members.setdefault(key, []).extend(known)
        if run is not None and not members:
            message = f"no run {run!r} with steps in {', '.join(names)}: see `report --by run`"
            raise LedgerError(message)
        attempts = {key: attempts_of(known) for key, known in members.items()}
        costs = {key: RunCosts() for key in members}
        for part in parts:
            add_costs(costs, part.connection, part.period, attempts)
        found = [
            _Run(parts, key, attempts[key], costs[key], mtbf_s).row()
            for key in sorted(members, key=lambda key: (key.workload or "", key.run))
        ]
        simulated = any(rows(part.connection, query.simulated_agents()) for part in parts)
        warnings = tuple(warning for part in parts for warning in _deleted(part))
    period = parts[0].period
    shown = tuple(
        row for row in found if row.finished_steps or not row.total.same_amounts(Quantity())
    )
    return RunReport(
        names, currency, period.start_unix_ns, period.end_unix_ns, simulated, shown, warnings
    )


def _deleted(part: _Part) -> Iterator[str]:
    """Agents whose lines and spans are not all kept: runs have no rollups of their own."""
    wall = part.period.wall
    for agent_id, node in rows(part.connection, select(agent.c.agent_id, agent.c.node)):
        kept_ns = kept_from(part.connection, agent_id)
        start_ns, _ = part.period.edges(agent_id)
        if kept_ns != NEVER_NS and (start_ns is None or start_ns < kept_ns):
            since = instant(wall.hour(agent_id, kept_ns))
            yield (
                f"lines and spans of {node} are kept from {since} on: what runs did before it is "
                "not in here"
            )


def _currency(parts: Sequence[_Part], names: Sequence[str]) -> str | None:
    """The one that all ledgers have."""
    known: set[int] = set()
    currencies: set[str] = set()
    for part, name in zip(parts, names, strict=True):
        for agent_id, currency in rows(part.connection, select(agent.c.agent_id, agent.c.currency)):
            if agent_id in known:
                raise LedgerError(f"{name} has an agent that another ledger has: give each once")
            known.add(agent_id)
            currencies |= set() if currency is None else {currency}
    if len(currencies) > 1:
        message = f"{', '.join(names)} have {', '.join(sorted(currencies))}, which cannot be added"
        raise LedgerError(message)
    return next(iter(currencies), None)


class _Run:
    """One run, over all ledgers."""

    def __init__(
        self,
        parts: Sequence[_Part],
        key: RunKey,
        attempts: Sequence[Attempt],
        costs: RunCosts,
        mtbf_s: float | None,
    ) -> None:
        self._parts, self._key, self._attempts, self._costs = parts, key, attempts, costs
        self._mtbf_s = mtbf_s
        self._vain = list(rollbacks(attempts))
        self._finished = [self._numbers(attempt, kept=False) for attempt in attempts]
        self._kept = [self._numbers(attempt, kept=True) for attempt in attempts]

    def row(self) -> RunRow:
        """Everything about it."""
        costs, total = self._costs, self._costs.total
        lines = tuple(
            LineRow(line, *amounts)
            for line in RunLine
            if not (amounts := costs.of_line(line))[0].same_amounts(Quantity())
        )
        useful = sum((row.total for row in lines if row.line in USEFUL), Quantity())
        in_steps = sum(
            (row.total for row in lines if row.line in IN_STEPS | {RunLine.ROLLED_BACK}),
            Quantity(),
        )
        tokens, kept_tokens = self._tokens()
        kept = StepNumbers.union(self._kept)
        finished = sum(len(numbers) for numbers in self._finished)
        return RunRow(
            self._key,
            tuple(self._attempt_rows()),
            lines,
            total,
            finished,
            len(kept),
            kept.highest,
            sum(self._unnumbered(attempt) for attempt in self._attempts),
            tokens,
            kept_tokens,
            _divided(in_steps, finished),
            _divided(total, len(kept)),
            _divided(total, kept_tokens, TOKENS_PER_PRICE),
            _ratio(useful.device_ns, total.device_ns),
            None if total.unpriced_ns else _ratio(useful.units, total.units),
            self._checkpoints(total),
            tuple(self._notes()),
        )

    def _attempt_rows(self) -> Iterator[AttemptRow]:
        before: Attempt | None = None
        states = fates(self._attempts)
        for attempt, fate, finished, kept in zip(
            self._attempts, states, self._finished, self._kept, strict=True
        ):
            down_ns = None
            if before is not None and before.end_ns is not None:
                down_ns = max(0, attempt.born_ns - before.end_ns)
            sizes = [p.world_size for p in attempt.processes if p.world_size is not None]
            yield AttemptRow(
                attempt.number,
                attempt.label,
                fate.outcome(attempt),
                attempt.born_ns,
                attempt.end_ns,
                down_ns,
                len({process.key.agent_id for process in attempt.processes}),
                len(attempt.processes),
                max(sizes, default=None),
                _resumed_step(attempt, fate),
                attempt.begins_at,
                attempt.last_step,
                len(finished),
                len(kept),
                self._costs.of_attempt(attempt.number, RunLine),
                self._costs.of_attempt(attempt.number, LOST),
                _manifest(attempt),
            )
            before = attempt

    # -- steps -----------------------------------------------------------------------------------
    def _numbers(self, attempt: Attempt, *, kept: bool) -> StepNumbers:
        found: list[StepNumbers] = []
        for part in self._parts:
            mine = part.mine(attempt.processes)
            vain = self._vain_of(part, mine) if kept else []
            ranges = rows(part.connection, query.step_ranges(mine, part.period, vain))
            found.append(StepNumbers(tuple((first, last) for first, last in ranges)))
        return StepNumbers.union(found)

    def _vain_of(self, part: _Part, members: Sequence[ProcessKey]) -> list[Rollback]:
        return [part.axis.rollback(one) for one in self._vain if one.process in members]

    def _unnumbered(self, attempt: Attempt) -> int:
        """Steps that nobody numbered: ranks run them together, so the rank with most counts."""
        counts = [0]
        for part in self._parts:
            mine = part.mine(attempt.processes)
            found = rows(part.connection, query.steps_without_number(mine, part.period))
            counts += [count for (count,) in found]
        return max(counts)

    def _tokens(self) -> tuple[int | None, int | None]:
        sums: list[int | None] = [None, None]
        for part, attempt in product(self._parts, self._attempts):
            mine = part.mine(attempt.processes)
            vain = self._vain_of(part, mine)
            for row in rows(part.connection, query.tokens(mine, part.period, vain)):
                sums = [plus(known, value) for known, value in zip(sums, row, strict=True)]
        return sums[0], sums[1]

    def _checkpoints(self, total: Quantity) -> CheckpointRow | None:
        members = [one for attempt in self._attempts for one in attempt.processes]
        saved: list[Saved] = []
        for part in self._parts:
            asked = query.checkpoints(part.mine(members), part.period)
            for agent_id, ring, count, first_ns, last_ns, duration_ns in rows(
                part.connection, asked
            ):
                times = (part.axis.at(agent_id, first_ns), part.axis.at(agent_id, last_ns))
                key = ProcessKey(agent_id, ring)
                saved.append(Saved(key, count, times[0] or 0, times[1] or 0, duration_ns))
        lines = frozenset({RunLine.CHECKPOINTS, RunLine.CHECKPOINTS_IN_STEPS})
        cost = sum((self._costs.of_line(line)[0] for line in lines), Quantity())
        return checkpoint_row(self._attempts, saved, cost, total, self._mtbf_s)

    def _notes(self) -> Iterator[str]:
        for attempt, fate in zip(self._attempts, fates(self._attempts), strict=True):
            name = f"attempt {attempt.number}"
            sizes = {one.world_size for one in attempt.processes} - {None}
            if sizes and len(attempt.processes) < max(size or 0 for size in sizes):
                yield (
                    f"{name}: {len(attempt.processes)} of {max(size or 0 for size in sizes)} ranks "
                    "are in these ledgers; the cost of the others is not in here"
                )
            begins_at, resumed = attempt.begins_at, attempt.resumed_step
            if resumed is not None and begins_at is not None and begins_at < resumed:
                yield (
                    f"{name} says that it goes on from step {resumed} and runs step {begins_at}: "
                    "number steps over the whole run"
                )
            if attempt.number > 1 and not fate.restarts:
                yield (
                    f"{name} took no earlier one's place: it runs beside it, or begins anew under "
                    "an old name (a restart is said by the launcher or by client.resumed())"
                )


def _manifest(attempt: Attempt) -> dict[str, tuple[str, ...]]:
    """With what its processes computed: each key's values, in the order in which it was said."""
    found: dict[str, dict[str, None]] = {}
    for process in attempt.processes:
        for key, text in process.manifest:
            found.setdefault(key, {})[text] = None
    return {key: tuple(sorted(texts)) for key, texts in found.items()}


def _resumed_step(attempt: Attempt, fate: Fate) -> int | None:
    """As it said, else the one before its first; None of one that took no other's place."""
    begins_at = attempt.begins_at
    if attempt.resumed_step is not None or not fate.restarts or begins_at is None:
        return attempt.resumed_step
    return begins_at - 1 if begins_at else None


def _divided(amount: Quantity, count: int | None, each: int = 1) -> int | None:
    """Units per thing (or `each` things), to the nearest unit; None where a part has no price."""
    if amount.units is None or amount.unpriced_ns or not count:
        return None
    return (2 * amount.units * each + count) // (2 * count)


def _ratio(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole
