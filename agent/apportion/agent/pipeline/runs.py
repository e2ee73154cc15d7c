"""The runs whose steps were read here: which work a restart made vain, and is not posted yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.agent.pipeline.restore import restore_rings
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.training.attempts import (
    Outcome,
    Process,
    ProcessKey,
    RunKey,
    attempts_of,
    name_ends_ns,
)
from apportion.cost.training.lost_query import HANG, ROLLED_BACK, Hang
from apportion.cost.training.rollback import EVER_NS, Rollback, fates, rollbacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.ledger.batch import LedgerState, Row
    from apportion.cost.ledger.history import RootRow
    from apportion.cost.training.attempts import Attempt


MAX_STEPS: Final = 20_000
"""Of all ranks together in one tick: their lines are one transaction. The rest follows."""


class LostWork(NamedTuple):
    """What is to be moved to `lost` now; it is posted once, and then `rows` say so."""

    rollbacks: tuple[Rollback, ...] = ()
    hangs: tuple[Hang, ...] = ()

    def rows(self, posted_ns: int) -> list[Row]:
        """Rows of `lost_work`."""
        rolled = [
            (one.process.ring, ROLLED_BACK, one.first_step, one.until_ns, posted_ns)
            for one in self.rollbacks
        ]
        hung = [
            (ring, HANG, 0, one.until_ns, posted_ns) for one in self.hangs for ring in one.rings
        ]
        return [*rolled, *hung]


class Runs:
    """Every process that ran steps, by run; those that are long dead are kept as plain facts."""

    def __init__(self, state: LedgerState, registry: Registry) -> None:
        self._agent_id, self._registry = state.agent_id, registry
        self._entities: dict[int, int] = {}
        self._processes: dict[int, Process] = {}
        self._members: dict[RunKey, set[int]] = {}
        self._rolled_back: dict[int, list[Rollback]] = {}
        self._hung: set[int] = set()
        self.update(restore_rings(state, registry, 0).values())
        for key, reason, first_step, until_ns, _ in state.tables.get("lost_work", []):
            self._note(key, reason, first_step, until_ns)

    def entity(self, ring: int) -> int:
        """Whom the lost work of a ring's process goes to: its run."""
        return self._entities[ring]

    def rolled_back(self, ring: int) -> Sequence[Rollback]:
        """What of a ring's steps is posted as `lost`."""
        return self._rolled_back.get(ring, ())

    def is_vain(self, row: RootRow, more: LostWork) -> bool:
        """Is this finished step posted as `lost`, or will it be with `more`?"""
        return any(
            one.process.ring == row.ring
            and row.step is not None
            and one.first_step <= row.step
            and row.end_ns <= one.until_ns
            for one in (*self.rolled_back(row.ring), *more.rollbacks)
        )

    def update(self, rings: Iterable[RingState]) -> set[RunKey]:
        """Take over what is known of rings now. The runs that they belong to."""
        found: set[RunKey] = set()
        for ring in rings:
            who, progress = self._registry.entities.value(ring.run_entity), ring.progress
            process = Process(
                ProcessKey(self._agent_id, ring.key),
                who.attempt or "",
                ring.attached_ns,
                ring.process_start_ns,
                ring.ended_ns,
                clean=ring.closed and not progress.failed,
                rank=ring.rank,
                restart_count=ring.restart_count,
                first_step=progress.first_step,
                first_step_ns=progress.first_ns,
                last_step=progress.last_step,
                last_step_ns=progress.last_ns,
                resumed_step=progress.resumed_step,
                resumed_ns=progress.resumed_ns,
            )
            if process.is_trainer and who.run is not None:
                self._processes[ring.key], self._entities[ring.key] = process, ring.run_entity
                run = RunKey(who.workload, who.run)
                self._members.setdefault(run, set()).add(ring.key)
                found.add(run)
        return found

    def due(self, rings: Mapping[int, RingState], settled_ns: Callable[[int], int]) -> LostWork:
        """What is known to be vain, whose cost is in the ledger, and which is not posted yet.

        `rings` are those that are not forgotten; `settled_ns(group)` is what is committed.
        """

        def charged_ns(ring: int) -> int:
            state = rings.get(ring)
            return EVER_NS if state is None else state.charged_ns(settled_ns)

        steps: list[Rollback] = []
        hangs: list[Hang] = []
        room = MAX_STEPS
        for run in sorted(self.update(rings.values()), key=str):
            members = [self._processes[ring] for ring in sorted(self._members[run])]
            attempts = attempts_of(members)
            for rollback in rollbacks(attempts):
                if room and charged_ns(rollback.process.ring) >= self._over_ns(rollback):
                    part = self._part(rollback, room)
                    if part is not None:
                        steps.append(part)
                        room -= min(room, self._reach(part) - part.first_step)
            hangs += self._hangs(attempts, charged_ns)
        return LostWork(tuple(steps), tuple(hangs))

    def _over_ns(self, rollback: Rollback) -> int:
        """Until when its steps can have ended; never, while its process lives."""
        if rollback.until_ns != EVER_NS:
            return rollback.until_ns
        end_ns = self._processes[rollback.process.ring].end_ns
        return EVER_NS if end_ns is None else end_ns

    def _part(self, rollback: Rollback, room: int) -> Rollback | None:
        """As much of it, its latest steps first, as is not posted and fits; None: all is posted."""
        known = [
            one
            for one in self.rolled_back(rollback.process.ring)
            if one.until_ns >= rollback.until_ns
        ]
        reach = min([self._reach(rollback), *(one.first_step for one in known)])
        if known and reach <= rollback.first_step:
            return None
        return rollback._replace(first_step=max(rollback.first_step, reach - room))

    def _reach(self, rollback: Rollback) -> int:
        """The step after the last one that its process finished."""
        last_step = self._processes[rollback.process.ring].last_step
        return rollback.first_step if last_step is None else last_step + 1

    def _hangs(
        self, attempts: Sequence[Attempt], charged_ns: Callable[[int], int]
    ) -> Iterator[Hang]:
        """The waiting of interrupted attempts, once every line of it is posted.

        Lines are posted by the minute, and a reading may say what a process did after its end.
        """
        for place, (attempt, fate) in enumerate(zip(attempts, fates(attempts), strict=True)):
            rings = tuple(process.key.ring for process in attempt.processes)
            is_over = fate.followed and attempt.outcome is Outcome.INTERRUPTED
            # One ring tells for all: the waiting is that of the attempt, whoever is found later.
            if not is_over or attempt.end_ns is None or not self._hung.isdisjoint(rings):
                continue
            posted_ns = attempt.end_ns + 2 * NS_PER_MINUTE
            if all(charged_ns(ring) >= posted_ns for ring in rings):
                entities = tuple(sorted({self._entities[ring] for ring in rings}))
                named_ns = name_ends_ns(attempts, place) or EVER_NS
                yield Hang(self._agent_id, rings, entities, attempt.born_ns, named_ns)

    def posted(self, lost: LostWork) -> None:
        """It is committed."""
        for row in lost.rows(0):
            self._note(*row[:4])

    def _note(self, ring: int, reason: str, first_step: int, until_ns: int) -> None:
        if reason == HANG:
            self._hung.add(ring)
        else:
            rollback = Rollback(ProcessKey(self._agent_id, ring), first_step, until_ns)
            self._rolled_back.setdefault(ring, []).append(rollback)
