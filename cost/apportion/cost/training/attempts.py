"""The attempts of a run: which of its processes were one execution, and in which order.

What launchers call an attempt helps and is not enough: a pod that restarts counts from 0 again,
and without a launcher each process has a random name. So processes of one name are taken apart
where what the next one replaces had ended before, and ranks of different names are
put together where they stepped at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RunKey(NamedTuple):
    """One logical training job of a workload."""

    workload: str | None
    run: str


class ProcessKey(NamedTuple):
    """A process by its ring, in the ledger of the agent that read it."""

    agent_id: int
    ring: int


@dataclass(frozen=True, slots=True)
class Process:
    """What an agent knows of one process of a run. Times in ns, on one axis for a whole run.

    `start_ns` is when it made its ring, `born_ns` when it started, where that is known; `end_ns`
    is None while nobody has seen it dead. `clean`: it said that it ended, and its last step had
    not failed. Steps are numbers that it gave; `last_step` is the highest that was finished,
    `last_step_ns` when the last one was. `resumed_step` is the last step of the checkpoint that
    it said it had loaded, at `resumed_ns`. `manifest` is with what it computed.
    """

    key: ProcessKey
    attempt: str
    start_ns: int
    born_ns: int | None = None
    end_ns: int | None = None
    clean: bool = False
    rank: int | None = None
    world_size: int | None = None
    restart_count: int | None = None
    first_step: int | None = None
    first_step_ns: int | None = None
    last_step: int | None = None
    last_step_ns: int | None = None
    resumed_step: int | None = None
    resumed_ns: int | None = None
    manifest: tuple[tuple[str, str], ...] = ()

    @property
    def is_trainer(self) -> bool:
        """Did it begin a step, or say with which one it goes on?"""
        return self.first_step_ns is not None or self.resumed_step is not None

    @property
    def begins_at(self) -> int | None:
        """The lowest step that it ran, or said that it would go on with; None: not known yet."""
        known = [] if self.resumed_step is None else [self.resumed_step + 1]
        return min([*known, *([] if self.first_step is None else [self.first_step])], default=None)


class Outcome(Enum):
    """How an attempt ended."""

    RUNNING = "running"
    FINISHED = "finished"
    """Every process said that it ended, and no last step had failed."""
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a run: its processes, ordered by rank. `number` counts from 1 by start."""

    number: int
    processes: tuple[Process, ...]

    @property
    def label(self) -> str:
        """What its launcher calls it; of several names the first."""
        return self.processes[0].attempt

    @property
    def labels(self) -> frozenset[str]:
        """What launchers call its processes' attempt."""
        return frozenset(process.attempt for process in self.processes)

    @property
    def start_ns(self) -> int:
        """When its first process made its ring."""
        return min(process.start_ns for process in self.processes)

    @property
    def born_ns(self) -> int:
        """When its first process started, or made its ring where that is not known."""
        births = [p.start_ns if p.born_ns is None else p.born_ns for p in self.processes]
        return min(births)

    @property
    def end_ns(self) -> int | None:
        """When the last of its processes that are seen dead ended; None while one lives."""
        ends = [process.end_ns for process in self.processes]
        known = [end_ns for end_ns in ends if end_ns is not None]
        return max(known) if len(known) == len(ends) else None

    @property
    def begins_at(self) -> int | None:
        """The step that it began with, or will."""
        return _lowest(process.begins_at for process in self.processes)

    @property
    def resumed_step(self) -> int | None:
        """The last step of the checkpoint that its processes said they had loaded."""
        return _lowest(process.resumed_step for process in self.processes)

    @property
    def last_step(self) -> int | None:
        """The highest step that any of its processes finished."""
        return _highest(process.last_step for process in self.processes)

    @property
    def first_step_ns(self) -> int | None:
        """When its first step began."""
        return _lowest(process.first_step_ns for process in self.processes)

    @property
    def last_step_ns(self) -> int | None:
        """When its last step ended."""
        return _highest(process.last_step_ns for process in self.processes)

    @property
    def restart_count(self) -> int | None:
        """How often launchers say that the run had restarted before."""
        return _highest(process.restart_count for process in self.processes)

    @property
    def ranks(self) -> frozenset[int]:
        """The ranks that are known."""
        return frozenset(p.rank for p in self.processes if p.rank is not None)

    @property
    def outcome(self) -> Outcome:
        """How it ended, as far as its own processes tell."""
        ended = [process for process in self.processes if process.end_ns is not None]
        if any(not process.clean for process in ended):
            return Outcome.INTERRUPTED
        return Outcome.FINISHED if len(ended) == len(self.processes) else Outcome.RUNNING


def attempts_of(processes: Iterable[Process]) -> tuple[Attempt, ...]:
    """The attempts of one run, by start. Processes without steps belong to none.

    The outcome does not depend on the order of `processes`.
    """
    trainers = [process for process in processes if process.is_trainer]
    trainers.sort(key=lambda process: (process.start_ns, process.key))
    executions: list[list[Process]] = []
    latest: dict[str, list[Process]] = {}
    for process in trainers:
        known = latest.get(process.attempt)
        if known is None or _is_over(known, process):
            latest[process.attempt] = known = list[Process]()
            executions.append(known)
        known.append(process)
    found: list[Attempt] = []
    for members in executions:
        attempt = _attempt(members)
        place = next((n for n, other in enumerate(found) if _are_one(other, attempt)), None)
        if place is None:
            found.append(attempt)
        else:
            found[place] = _attempt([*found[place].processes, *members])
    found.sort(key=lambda attempt: (attempt.start_ns, attempt.processes[0].key))
    return tuple(replace(attempt, number=n) for n, attempt in enumerate(found, 1))


def name_ends_ns(attempts: Sequence[Attempt], place: int) -> int | None:
    """When an attempt's name began to mean a later one; None: it never did."""
    labels = attempts[place].labels
    later = [one.born_ns for one in attempts[place + 1 :] if one.labels & labels]
    return min(later, default=None)


def _attempt(members: Sequence[Process]) -> Attempt:
    def rank(process: Process) -> tuple[bool, int, int, ProcessKey]:
        return (process.rank is None, process.rank or 0, process.start_ns, process.key)

    return Attempt(0, tuple(sorted(members, key=rank)))


def _is_over(members: Sequence[Process], after: Process) -> bool:
    """Had what this process replaces ended when it began?

    That is the process of its rank on its node, else all that the node has of them. Nodes are not
    compared: their clocks differ.
    """
    here = [other for other in members if other.key.agent_id == after.key.agent_id]
    replaced = [other for other in here if other.rank == after.rank] or here
    return bool(replaced) and all(
        other.end_ns is not None and other.end_ns <= after.start_ns for other in replaced
    )


def _are_one(one: Attempt, other: Attempt) -> bool:
    """Are these ranks of one execution to which nobody gave one name?"""
    named = all(len(attempt.ranks) == len(attempt.processes) for attempt in (one, other))
    if not named or one.ranks & other.ranks or one.label == other.label:
        return False
    edges = (one.first_step_ns, one.last_step_ns, other.first_step_ns, other.last_step_ns)
    if None in edges:
        return False
    first, last, its_first, its_last = edges
    return (first or 0) < (its_last or 0) and (its_first or 0) < (last or 0)


def _lowest(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
