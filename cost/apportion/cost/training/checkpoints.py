"""How often a run saves, how often it should, and what the difference costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from apportion.core.units import NS_PER_SECOND
from apportion.cost.training.attempts import Outcome, ProcessKey
from apportion.cost.training.checkpoint_interval import daly_s, waste_ratio, young_s
from apportion.cost.training.rollback import fates
from apportion.cost.training.run_rows import CheckpointRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.cost.quantity import Quantity
    from apportion.cost.training.attempts import Attempt


class Saved(NamedTuple):
    """What one process saved: how often, first and last start, and how long it took in all."""

    process: ProcessKey
    checkpoints: int
    first_ns: int
    last_ns: int
    duration_ns: int


class Endurance(NamedTuple):
    """How long a run lived and stepped, how often it was interrupted; ns, wall time.

    `restart_ns` is the mean time from an interruption to the next attempt's first step.
    """

    lived_ns: int
    stepped_ns: int
    failures: int
    restart_ns: int | None


def endurance(attempts: Sequence[Attempt]) -> Endurance:
    """From its attempts; one that nobody saw end lived as far as its last step."""
    lived_ns = stepped_ns = 0
    restarts: list[int] = []
    outcomes = [fate.outcome(one) for one, fate in zip(attempts, fates(attempts), strict=True)]
    for place, attempt in enumerate(attempts):
        last_ns = attempt.last_step_ns or attempt.born_ns
        lived_ns += max(attempt.end_ns or last_ns, last_ns) - attempt.born_ns
        if attempt.first_step_ns is not None:
            stepped_ns += max(0, last_ns - attempt.first_step_ns)
        later = attempts[place + 1] if place + 1 < len(attempts) else None
        if outcomes[place] is Outcome.INTERRUPTED and later is not None:
            ended_ns = attempt.end_ns or last_ns
            restarts.append(max(0, (later.first_step_ns or later.start_ns) - ended_ns))
    failures = outcomes.count(Outcome.INTERRUPTED)
    mean_ns = sum(restarts) // len(restarts) if restarts else None
    return Endurance(lived_ns, stepped_ns, failures, mean_ns)


def checkpoint_row(
    attempts: Sequence[Attempt],
    saved: Sequence[Saved],
    cost: Quantity,
    total: Quantity,
    mtbf_s: float | None,
) -> CheckpointRow | None:
    """None where nothing was saved. `cost` is that of all checkpoints, `total` the run's.

    Ranks save together: an attempt has as many checkpoints as its rank with most. What one takes
    is the mean over ranks. The interval is from one start to the next of the same rank, less that;
    where no rank saved twice, from its first step to what it saved.
    """
    by_ring = {one.process: one for one in saved}
    count = sum(
        max((by_ring[p.key].checkpoints for p in attempt.processes if p.key in by_ring), default=0)
        for attempt in attempts
    )
    if not count:
        return None
    times = endurance(attempts)
    checkpoint_s = (
        _seconds(sum(s.duration_ns for s in saved), sum(s.checkpoints for s in saved)) or 0.0
    )
    period_s = _seconds(
        sum(s.last_ns - s.first_ns for s in saved), sum(s.checkpoints - 1 for s in saved)
    )
    interval_s = None if period_s is None else max(0.0, period_s - checkpoint_s)
    if period_s is None:
        begun = [
            by_ring[p.key].first_ns - p.first_step_ns
            for attempt in attempts
            for p in attempt.processes
            if p.key in by_ring and p.first_step_ns is not None
        ]
        interval_s = _seconds(max(0, sum(begun)), len(begun))
    is_bound = mtbf_s is None and not times.failures
    mtbf = _seconds(times.lived_ns, max(1, times.failures)) if mtbf_s is None else mtbf_s
    restart_s = None if times.restart_ns is None else times.restart_ns / NS_PER_SECOND
    young = daly = now = least = None
    wasted_units: int | None = None
    if checkpoint_s and mtbf:
        young, daly = young_s(checkpoint_s, mtbf), daly_s(checkpoint_s, mtbf)
        if interval_s and not is_bound:
            now = waste_ratio(interval_s, checkpoint_s, mtbf, restart_s or 0.0)
            least = waste_ratio(young, checkpoint_s, mtbf, restart_s or 0.0)
            work_s = times.stepped_ns / NS_PER_SECOND - count * checkpoint_s
            if total.units is not None and not total.unpriced_ns and times.lived_ns and work_s > 0:
                units_per_s = total.units * NS_PER_SECOND / times.lived_ns
                wasted_units = round((now - least) * work_s * units_per_s)
    return CheckpointRow(
        count,
        checkpoint_s,
        None if cost.units is None or cost.unpriced_ns else round(cost.units / count),
        interval_s,
        times.failures,
        mtbf,
        mtbf_s is not None,
        is_bound,
        restart_s,
        young,
        daly,
        now,
        least,
        wasted_units,
    )


def _seconds(sum_ns: int, count: int) -> float | None:
    return sum_ns / count / NS_PER_SECOND if count else None
