"""What a report on runs consists of, before any renderer shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from apportion.core.category import Category, Phase
from apportion.cost.quantity import Quantity
from apportion.cost.training.lost_query import HANG, PROCESS_DIED, ROLLED_BACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.cost.training.attempts import Outcome, RunKey


class RunLine(Enum):
    """Where a run's cost went. Every part of it is in exactly one line."""

    STEPS = "steps"
    COMMUNICATION = "communication in steps"
    DATA_WAIT = "data wait in steps"
    CHECKPOINTS_IN_STEPS = "checkpoints in steps"
    EVALUATION_IN_STEPS = "evaluation in steps"
    REQUESTS = "requests"
    BETWEEN_STEPS = "between steps"
    CHECKPOINTS = "checkpoints"
    EVALUATION = "evaluation"
    STARTUP = "startup"
    RESTARTS = "startup after restarts"
    ROLLED_BACK = "lost: rolled back"
    OPEN_AT_DEATH = "lost: open at death"
    HANG = "lost: hang"
    UNINSTRUMENTED = "uninstrumented"
    ALLOCATED_IDLE = "allocated idle"
    OTHER = "other"


USEFUL: Final = frozenset({RunLine.STEPS, RunLine.COMMUNICATION})
"""What goodput counts: the steps that were kept, less what they waited for data or saved."""
IN_STEPS: Final = frozenset(
    {
        RunLine.STEPS,
        RunLine.COMMUNICATION,
        RunLine.DATA_WAIT,
        RunLine.CHECKPOINTS_IN_STEPS,
        RunLine.EVALUATION_IN_STEPS,
    }
)
LOST: Final = frozenset({RunLine.ROLLED_BACK, RunLine.OPEN_AT_DEATH, RunLine.HANG})

_PHASES: Final = {
    Phase.DATA_WAIT: RunLine.DATA_WAIT,
    Phase.COMMUNICATION: RunLine.COMMUNICATION,
    Phase.CHECKPOINT: RunLine.CHECKPOINTS_IN_STEPS,
    Phase.EVALUATION: RunLine.EVALUATION_IN_STEPS,
    Phase.PREFILL: RunLine.REQUESTS,
    Phase.DECODE: RunLine.REQUESTS,
    Phase.GUARD_INPUT: RunLine.REQUESTS,
    Phase.GUARD_OUTPUT: RunLine.REQUESTS,
    Phase.CONSTRAIN: RunLine.REQUESTS,
}
_CATEGORIES: Final = {
    Category.CHECKPOINT: RunLine.CHECKPOINTS,
    Category.EVALUATION: RunLine.EVALUATION,
    Category.BETWEEN_STEPS: RunLine.BETWEEN_STEPS,
    Category.UNINSTRUMENTED: RunLine.UNINSTRUMENTED,
    Category.ALLOCATED_IDLE: RunLine.ALLOCATED_IDLE,
}
_LOSSES: Final = {
    ROLLED_BACK: RunLine.ROLLED_BACK,
    PROCESS_DIED: RunLine.OPEN_AT_DEATH,
    HANG: RunLine.HANG,
}


def run_line(category: Category, phase: Phase, loss: str, *, restarted: bool) -> RunLine:
    """The line of some ledger lines.

    `loss` is why they are in `lost`, if they are; `restarted`: of an attempt that took another
    one's place.
    """
    if category is Category.DIRECT:
        return _PHASES.get(phase, RunLine.STEPS)
    if category is Category.STARTUP:
        return RunLine.RESTARTS if restarted else RunLine.STARTUP
    if category is Category.LOST:
        return _LOSSES[loss]
    return _CATEGORIES.get(category, RunLine.OTHER)


@dataclass(frozen=True, slots=True)
class LineRow:
    """A line of a run. `derived` is the part of `total` that no ledger has posted in it."""

    line: RunLine
    total: Quantity
    derived: Quantity


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One execution of a run.

    `down_ns` is the time since the attempt before it ended, `resumed_step` the last step of what
    it restored, `kept_steps` how many of its `finished_steps` were not done in vain. `ranks` are
    its processes that the ledgers know. `manifest` is with what they computed: what each key had
    in some of them.
    """

    number: int
    label: str
    outcome: Outcome
    start_unix_ns: int
    end_unix_ns: int | None
    down_ns: int | None
    nodes: int
    ranks: int
    world_size: int | None
    resumed_step: int | None
    begins_at: int | None
    last_step: int | None
    finished_steps: int
    kept_steps: int
    total: Quantity
    lost: Quantity
    manifest: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """How often a run saves, and how often it should. Seconds; None where nothing is known.

    `mtbf_is_bound`: it never failed, so its MTBF and the intervals are at least these.
    `wasted_units` is what the present interval costs more than the optimal one would have.
    """

    count: int
    checkpoint_s: float
    units_each: int | None
    interval_s: float | None
    failures: int
    mtbf_s: float | None
    mtbf_is_given: bool
    mtbf_is_bound: bool
    restart_s: float | None
    young_s: float | None
    daly_s: float | None
    waste_ratio: float | None
    least_waste_ratio: float | None
    wasted_units: int | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. `lines` add up to `total`; open amounts are in both.

    Steps are counted once, however many ranks ran them. `units_per_step` is what one that was
    finished cost over all ranks, kept or not; `units_per_kept_step` and the price of a million
    training tokens divide the whole total by what was kept. None where a part has no price.
    """

    key: RunKey
    attempts: tuple[AttemptRow, ...]
    lines: tuple[LineRow, ...]
    total: Quantity
    finished_steps: int
    kept_steps: int
    last_step: int | None
    unnumbered_steps: int
    tokens: int | None
    kept_tokens: int | None
    units_per_step: int | None
    units_per_kept_step: int | None
    units_per_million_tokens: int | None
    goodput_of_time: float | None
    goodput_of_cost: float | None
    checkpoints: CheckpointRow | None
    notes: tuple[str, ...]

    def sum_of(self, lines: frozenset[RunLine]) -> Quantity:
        """Some of its lines together."""
        return sum((row.total for row in self.lines if row.line in lines), Quantity())


@dataclass(frozen=True, slots=True)
class RunReport:
    """Runs of one or several ledgers."""

    ledgers: tuple[str, ...]
    currency: str | None
    start_unix_ns: int | None
    end_unix_ns: int | None
    simulated: bool
    runs: tuple[RunRow, ...]
    warnings: tuple[str, ...] = ()
