"""Which steps of a run were done in vain: a later attempt began before them.

An attempt that begins at step k did not have what earlier ones did from k on, whether or not it
gets that far again. A process that goes back by itself, and says so, throws its own steps away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_MINUTE
from apportion.cost.training.attempts import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apportion.cost.training.attempts import Attempt, ProcessKey

FROM_SCRATCH: Final = 1
"""An attempt that begins at this step or below restored nothing; people count from 0 or from 1."""
CLOCKS_NS: Final = NS_PER_MINUTE
"""By so much the wall clocks of two nodes may differ."""
EVER_NS: Final = (1 << 63) - 1


class Fate(NamedTuple):
    """What became of an attempt. `keeps_below`: its steps from there on were lost; None: none.

    `followed`: a later attempt of the same training took its place; `restarts`: it took one's.
    """

    followed: bool = False
    keeps_below: int | None = None
    restarts: bool = False

    def outcome(self, attempt: Attempt) -> Outcome:
        """How it ended: one that was replaced does not run, though no agent saw it end."""
        ended = attempt.outcome
        return Outcome.INTERRUPTED if self.followed and ended is Outcome.RUNNING else ended


class Rollback(NamedTuple):
    """Steps of one process from `first_step` on that ended by `until_ns` were lost."""

    process: ProcessKey
    first_step: int
    until_ns: int


def fates(attempts: Sequence[Attempt]) -> tuple[Fate, ...]:
    """What became of each of a run's attempts, which are ordered by start."""
    found = [Fate()] * len(attempts)
    training: list[int] = []
    for place, attempt in enumerate(attempts):
        earlier = [n for n in training if _follows(attempt, attempts[n])]
        if earlier and _is_new(attempt, [attempts[n] for n in earlier]):
            training, earlier = [], []
        for n in earlier:
            known = [step for step in (found[n].keeps_below, attempt.begins_at) if step is not None]
            found[n] = found[n]._replace(followed=True, keeps_below=min(known, default=None))
        found[place] = Fate(restarts=bool(earlier))
        training.append(place)
    return tuple(found)


def rollbacks(attempts: Sequence[Attempt]) -> Iterator[Rollback]:
    """Everything that was lost of a run, by process: see the module. Steps may be in several."""
    for attempt, fate in zip(attempts, fates(attempts), strict=True):
        for process in attempt.processes:
            if fate.keeps_below is not None and _reaches(process.last_step, fate.keeps_below):
                yield Rollback(process.key, fate.keeps_below, EVER_NS)
            step, said_ns = process.resumed_step, process.resumed_ns
            if step is None or said_ns is None or process.first_step_ns is None:
                continue
            if process.first_step_ns < said_ns and _reaches(process.last_step, step + 1):
                yield Rollback(process.key, step + 1, said_ns)


def _reaches(last_step: int | None, step: int) -> bool:
    return last_step is not None and last_step >= step


def _follows(later: Attempt, earlier: Attempt) -> bool:
    """Did the earlier one do nothing more once the later one was at work?

    Executions that step side by side are no restarts of each other, whatever they are called.
    Times of one node are compared as they are, those of two with room for their clocks.
    """
    last_ns: dict[int, int] = {}
    for process in earlier.processes:
        if process.last_step_ns is not None:
            agent_id = process.key.agent_id
            last_ns[agent_id] = max(process.last_step_ns, last_ns.get(agent_id, 0))
    for process in later.processes:
        known = (process.first_step_ns, process.resumed_ns)
        began_ns = min((time_ns for time_ns in known if time_ns is not None), default=None)
        if began_ns is None:
            continue
        for agent_id, ended_ns in last_ns.items():
            leeway_ns = 0 if agent_id == process.key.agent_id else CLOCKS_NS
            if began_ns + leeway_ns < ended_ns:
                return False
    return True


def _is_new(attempt: Attempt, earlier: Sequence[Attempt]) -> bool:
    """Is it another training under a name that was used before?

    It is where it begins at the run's first step, and neither the program nor the launcher says
    that it is a restart: then nobody threw the earlier work away.
    """
    begins_at = attempt.begins_at
    if begins_at is None or attempt.resumed_step is not None or (attempt.restart_count or 0) > 0:
        return False
    known = [one.begins_at for one in earlier if one.begins_at is not None]
    return begins_at <= min([FROM_SCRATCH, *known])
