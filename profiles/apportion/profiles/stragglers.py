"""The same collective on several ranks: what it took on the wire, and who waited for whom.

A kernel of communication runs from when its rank is ready until all are done, so the shortest of
a collective's kernels, that of the rank which came last, is the time on the wire; what the others
took beyond it is waiting for stragglers. Only durations are compared: clocks may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.profiles.rank_collectives import Collective, RankCollectives

CLOCK_TOLERANCE_NS: Final = 1_000_000
"""Clocks of hosts that are kept by NTP differ by less; nothing is said below it."""
_Key = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """A collective of one rank beside the same one of the others.

    ranks: how many traces have it. wire_ns: the shortest; an upper bound while some ranks of the
    group are not at hand. None where no other trace has it.
    """

    trace: RankCollectives
    own: Collective
    ranks: int
    wire_ns: int | None

    @property
    def wait_ns(self) -> int | None:
        """For how long this rank waited for a later one."""
        return None if self.wire_ns is None else self.own.duration_ns - self.wire_ns


@dataclass(frozen=True, slots=True)
class Matched:
    """All operations of all ranks, in the order of the ranks, and what is doubtful about them."""

    operations: tuple[Operation, ...]
    warnings: tuple[str, ...]


def matched(traces: Sequence[RankCollectives]) -> Matched:
    """Find each operation's counterparts.

    The same operation has the same group and the profiler's sequence number; without numbers it
    is the n-th of its group in its step; without groups too, the n-th in its step, where all
    ranks of the world are here and agree about every kind in that order.
    """
    keys = [_keys(trace) for trace in traces]
    warnings: list[str] = []
    has_groups = all(one.group is not None for trace in traces for one in trace.operations)
    is_unknown = len(traces) > 1 and not (has_groups or _is_one_group(traces))
    if is_unknown:
        warnings.append(
            "groups are not known, and these are not all ranks of one world in the same order of "
            "collectives: no wire time and no wait can be told; give all ranks, or record with "
            "PyTorch 2.2 or newer"
        )
        keys = [[(number, *key) for key in own] for number, own in enumerate(keys)]
    keys = _ranks_once(traces, keys)
    together: dict[_Key, list[Collective]] = {}
    for trace, own in zip(traces, keys, strict=True):
        for key, operation in zip(own, trace.operations, strict=True):
            together.setdefault(key, []).append(operation)
    together, unequal = _of_one_kind(together)
    if unequal:
        warnings.append(
            f"{unequal} operations of one group and number differ in kind between ranks and were "
            "not compared: the traces are of different times or jobs"
        )
    if not is_unknown:
        warnings += _missing_ranks(traces, together.values())
    warnings += _clock_warnings(together.values())
    found = [
        _operation(trace, operation, together.get(key, []))
        for trace, own in zip(traces, keys, strict=True)
        for key, operation in zip(own, trace.operations, strict=True)
    ]
    return Matched(tuple(found), tuple(warnings))


def _keys(trace: RankCollectives) -> list[_Key]:
    counts: Counter[_Key] = Counter()
    keys: list[_Key] = []
    for one in trace.operations:
        group: _Key = (one.group, one.group_ranks)
        if one.sequence is not None:
            keys.append((*group, one.sequence, one.name))
        else:
            place: _Key = (*group, "in step", one.step)
            keys.append((*place, counts[place]))
            counts[place] += 1
    return keys


def _ranks_once(traces: Sequence[RankCollectives], keys: Sequence[list[_Key]]) -> list[list[_Key]]:
    """Keys that keep a rank's second trace to itself: a rank does not wait for itself."""
    first: dict[int | None, int] = {}
    return [
        own
        if trace.rank is None or first.setdefault(trace.rank, number) == number
        else [("repeated", number, *key) for key in own]
        for number, (trace, own) in enumerate(zip(traces, keys, strict=True))
    ]


def _is_one_group(traces: Sequence[RankCollectives]) -> bool:
    """Whether all ranks are here, and all did the same in the same order."""
    kinds = {tuple((one.kernel, one.step) for one in trace.operations) for trace in traces}
    return len(kinds) == 1 and all(trace.world_size == len(traces) for trace in traces)


def _of_one_kind(
    together: dict[_Key, list[Collective]],
) -> tuple[dict[_Key, list[Collective]], int]:
    agreeing = {
        key: members
        for key, members in together.items()
        if len({(one.name, one.size_bytes is None) for one in members}) == 1
    }
    return agreeing, sum(len(members) for members in together.values()) - sum(
        len(members) for members in agreeing.values()
    )


def _operation(trace: RankCollectives, own: Collective, members: Sequence[Collective]) -> Operation:
    if len(members) < 2:
        return Operation(trace, own, 1, None)
    return Operation(trace, own, len(members), min(one.duration_ns for one in members))


def _missing_ranks(
    traces: Sequence[RankCollectives], together: Iterable[Sequence[Collective]]
) -> list[str]:
    """Collectives of which not all ranks' traces are here."""
    world = max((trace.world_size or 0 for trace in traces), default=0)
    short = [members for members in together if len(members) < (members[0].group_size or world)]
    if not short:
        return []
    return [
        (
            f"{sum(map(len, short))} operations are not here of all ranks of their group: with one "
            "rank's trace wire time and wait are not known, with some ranks' traces the wire time "
            "is an upper bound; give the traces of all ranks"
        )
    ]


def _clock_warnings(together: Iterable[Sequence[Collective]]) -> list[str]:
    """A collective cannot end on one rank before it has begun on another."""
    apart = [
        max(one.start_ns for one in members) - min(one.end_ns for one in members)
        for members in together
        if len(members) > 1
    ]
    worst_ns = max(apart, default=0)
    if worst_ns <= CLOCK_TOLERANCE_NS:
        return []
    return [
        (
            f"the clocks of the ranks' hosts are at least {worst_ns / 1e6:,.3f} ms apart (a "
            "collective ended on one rank before it began on another): wire time and waits rest "
            "on durations and hold, but do not compare times of ranks; keep hosts in time by NTP"
        )
    ]
