"""What an hour's new prices mean for those who hold its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apportion.core.interval import Interval
from apportion.cost.repricing.holders import Amount
from apportion.cost.rounding import largest_remainder, stable_hash
from apportion.cost.settlement.work import NO_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from apportion.cost.repricing.holders import Held, Holder
    from apportion.cost.repricing.slices import Change, Repricing, Slice

_NOTHING = Amount()


class Adjustment(NamedTuple):
    """What is still to be posted to a holder for one change of rate."""

    holder: Holder
    change: Change
    amount: Amount


def adjustments(
    cut: Iterable[Slice],
    posted: Iterable[Repricing],
    held: Mapping[Holder, Held],
    groups: Mapping[int, Sequence[int]],
    *,
    identity: Callable[[Holder], str],
) -> list[Adjustment]:
    """The differences between what stands beside an hour's charges and what should.

    `cut` and `posted` are all slices and repricings of devices that share `groups`, new ones
    included, `held` all that these groups have. The repricings of each change of rate are divided
    by the time that holders have of what was re-priced: largest remainder, ties by a stable hash
    of `identity`. So the adjustments are the repricings to the unit, and where nothing was
    re-priced or moved since the last time there is nothing to post.
    """
    totals: dict[Change, int] = {}
    for row in posted:
        totals[row.change] = totals.get(row.change, 0) + row.units
    coverage = _Coverage(cut, groups)
    holders = list(held)

    def tie(indices: NDArray[np.int64]) -> NDArray[np.uint64]:
        hashes = (stable_hash(identity(holders[index])) for index in map(int, indices))
        return np.fromiter(hashes, np.uint64, indices.size)

    found: list[Adjustment] = []
    for change, units in sorted(totals.items()):
        times = [coverage.time_ns(*one, change) for one in held.items()]
        weights = np.maximum(np.array(times, np.int64), 0)
        if not weights.any():  # moved away, as far as can be told from the hour's lines
            everything = [coverage.time_ns(*one, change, anywhere=True) for one in held.items()]
            weights = np.maximum(np.array(everything, np.int64), 0)
        parts = largest_remainder(abs(units), weights, np.arange(len(holders)), tie)
        if units < 0:
            parts = -parts
        for holder, time_ns, part in zip(holders, times, parts.tolist(), strict=True):
            known = held[holder].adjusted.get(change, _NOTHING)
            priced_ns = time_ns if change.from_rate == NO_RATE else 0
            amount = Amount(part - known.units, priced_ns - known.priced_ns)
            if amount != _NOTHING:
                found.append(Adjustment(holder, change, amount))
    return found


class _Coverage:
    """Which time of each metered rate a change of rate is about, device by device."""

    def __init__(self, cut: Iterable[Slice], groups: Mapping[int, Sequence[int]]) -> None:
        self._groups = groups
        self._whole: dict[int, dict[int, list[Interval]]] = {}
        self._changed: dict[Change, dict[int, dict[int, list[Interval]]]] = {}
        for piece in cut:
            interval = Interval(piece.start_ns, piece.end_ns)
            _add(self._whole, piece, interval)
            for change in set(piece.changes):
                _add(self._changed.setdefault(change, {}), piece, interval)
        self._of_group: dict[tuple[Change, int, int], tuple[list[Interval], list[Interval]]] = {}

    def time_ns(self, holder: Holder, held: Held, change: Change, *, anywhere: bool = False) -> int:
        """How much of a holder's time the change is about; `anywhere` in the hour, or exactly."""
        total_ns = 0
        for rate in self._changed.get(change, ()):
            time = held.times.get(rate)
            if time is not None:
                changed, whole = self._intervals(change, rate, holder.group)
                total_ns += time.net_ns if anywhere else time.within(changed, whole)
        return total_ns

    def _intervals(
        self, change: Change, rate: int, group: int
    ) -> tuple[list[Interval], list[Interval]]:
        """What of a group's devices, one after the other, was metered at a rate: changed, all."""
        known = self._of_group.get((change, rate, group))
        if known is None:
            changed, whole = self._changed[change][rate], self._whole[rate]
            members = self._groups[group]
            known = self._of_group[change, rate, group] = (
                [interval for key in members for interval in changed.get(key, ())],
                [interval for key in members for interval in whole.get(key, ())],
            )
        return known


def _add(by_rate: dict[int, dict[int, list[Interval]]], piece: Slice, interval: Interval) -> None:
    by_device = by_rate.setdefault(piece.metered, {})
    known = by_device.setdefault(piece.device, [])
    if known and known[-1].end_ns == interval.start_ns:
        interval = Interval(known.pop().start_ns, interval.end_ns)
    known.append(interval)
