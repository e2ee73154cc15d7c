"""What a device's time without a span was, judged by its activity in one reading window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.category import Category
from apportion.cost.idle_power import Rest
from apportion.cost.settlement.work import HEAD_ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.cost.idle_power import IdleState

TOLERATED_PART: Final = 5
"""Activity beyond the spans up to a fifth of the uncovered time is idleness (kernels that
outlast a step, sampling error); above it somebody computes without a span."""
IDLE_RATIO: Final = 0.005
"""Activity up to here is none: sources that say percent say 0."""


class Window(NamedTuple):
    """The time between two readings. `activity_ratio` is None without a source of evidence.

    `energy_mj` is what was used in it, None where the counter does not say.
    """

    start_ns: int
    end_ns: int
    activity_ratio: float | None
    reason: str = ""
    """Why there is no evidence, where there is none."""
    energy_mj: int | None = None

    def is_rest(self, covered_ns: int) -> bool:
        """Is it proved that nothing ran in it, by activity and by spans, which cover so much?"""
        quiet = self.activity_ratio is not None and self.activity_ratio <= IDLE_RATIO
        return quiet and not covered_ns and self.energy_mj is not None

    def rest(self, state: IdleState) -> Rest:
        """It, as a time at rest."""
        return Rest(self.start_ns, self.end_ns, self.energy_mj or 0, state)


class Verdict(NamedTuple):
    """What the uncovered time of a window is, and who it goes to (entity keys, maybe none)."""

    start_ns: int
    end_ns: int
    category: Category
    entities: tuple[int, ...]
    reason: str


def judge(
    window: Window,
    covered_ns: int,
    holders: Sequence[int],
    users: Sequence[int],
    members: Sequence[int] = (),
) -> Verdict:
    """Classify the time of `window` that spans, which cover `covered_ns` of it, leave.

    `holders` are the entities of the workloads that hold the device (one that holds several
    replicas of it is there several times), `users` those of other processes on it:
    uninstrumented activity goes to the former, else to the latter. `members` are the entities of
    those that compute for requests of another node: theirs is direct, without a span.
    """
    if window.activity_ratio is None:
        reason = window.reason or "no_activity_source"
        return Verdict(window.start_ns, window.end_ns, Category.UNATTRIBUTED, (), reason)
    duration_ns = window.end_ns - window.start_ns
    uncovered_ns = duration_ns - covered_ns
    active_ns = round(window.activity_ratio * duration_ns)
    if (active_ns - covered_ns) * TOLERATED_PART > uncovered_ns:
        if members and not covered_ns:
            edges = (window.start_ns, window.end_ns)
            return Verdict(*edges, Category.DIRECT, tuple(members), HEAD_ELSEWHERE)
        who = tuple(sorted(holders or users))
        return Verdict(window.start_ns, window.end_ns, Category.UNINSTRUMENTED, who, "")
    if holders:
        who = tuple(sorted(holders))
        return Verdict(window.start_ns, window.end_ns, Category.ALLOCATED_IDLE, who, "")
    return Verdict(window.start_ns, window.end_ns, Category.UNALLOCATED, (), "")
