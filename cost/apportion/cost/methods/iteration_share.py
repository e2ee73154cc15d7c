"""The running agent's way to share an instant in which an engine's iteration is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.apportionment import WEIGHT_BITS, Weights
from apportion.cost.methods.window_share import WindowShare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from apportion.cost.apportionment import Claims, Division, Pieces
    from apportion.cost.methods.trace import Column

PART_BITS: Final = 30
"""Fixed point of a member's part of its iteration: sums do not depend on their order."""
_WINDOWS: Final = WindowShare()


@dataclass(frozen=True, slots=True)
class Batches:
    """Iterations of engines and who shared them; columns by iteration (n) and by member (m).

    Iterations of one `engine` do not overlap. `key` says which claim a member is (`Claims.key`),
    `part` its part of the iteration (`PART_BITS`, at least 1), `is_prefill` what it did there.
    `known` are the claims' keys that were looked for in them, ascending: whoever is known and in no
    batch of an instant waited. `by_id` are those whose batches the engine itself wrote down: they
    ran in all of them, whatever their claims' own times say.
    """

    engine: Column
    begun_ns: Column
    end_ns: Column
    owner: Column
    key: Column
    part: Column
    is_prefill: NDArray[np.bool_]
    known: Column
    by_id: Column

    def ran(self) -> tuple[Column, Column, Column]:
        """(key, from, to) of those `by_id` that are in a batch: over all that they were in."""
        chosen = np.isin(self.key, self.by_id)
        keys, place = np.unique(self.key[chosen], return_inverse=True)
        owner = self.owner[chosen]
        since_ns = np.full(keys.size, np.iinfo(np.int64).max)
        until_ns = np.full(keys.size, np.iinfo(np.int64).min)
        np.minimum.at(since_ns, place, self.begun_ns[owner])
        np.maximum.at(until_ns, place, self.end_ns[owner])
        return keys, since_ns, until_ns


class IterationShare:
    """By the batch of each iteration where one is known; by `WindowShare` where none is.

    Engines that run at once have an equal part of an instant each. Claims that no engine knows (a
    step beside requests) get their part of those present.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def cuts(self, claims: Claims) -> Column:
        """See `Apportioner`."""
        batches = self._batches
        mine = np.unique(batches.owner[np.isin(batches.key, claims.key)])
        return np.concatenate([_WINDOWS.cuts(claims), batches.begun_ns[mine], batches.end_ns[mine]])

    def division(self, pieces: Pieces) -> Division:
        """See `Apportioner`."""
        by_windows = _WINDOWS.division(pieces)
        shared = _Shared.of(self._batches, pieces)
        if shared is None:
            return by_windows

        def divide(steps: Column) -> Weights:
            rest = by_windows(np.where(shared.covered, 0, steps))
            whole, prefill = shared.weights(steps)
            if rest.prefill is not None:
                prefill = prefill + rest.prefill
            return Weights(whole + rest.whole, prefill)

        return divide


@dataclass(frozen=True, slots=True)
class _Shared:
    """Members in elementary intervals, a pair each: `part` of what `interval` gives to `claim`."""

    pieces: Pieces
    interval: Column
    claim: Column
    part: NDArray[np.float64]
    is_prefill: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    """Claims that no engine knows."""

    @classmethod
    def of(cls, batches: Batches, pieces: Pieces) -> _Shared | None:
        """None where no claim was in a batch."""
        edges, keys = pieces.edges_ns, pieces.claims.key
        order = np.argsort(keys)
        place = np.minimum(np.searchsorted(keys, batches.key, sorter=order), keys.size - 1)
        claim = order[place]
        some = keys[claim] == batches.key
        owner, claim = batches.owner[some], claim[some]
        first = np.searchsorted(edges, batches.begun_ns)[owner]
        last = np.searchsorted(edges, batches.end_ns)[owner]
        first = np.maximum(first, pieces.first[claim])
        last = np.minimum(last, pieces.last[claim])
        lengths = np.maximum(last - first, 0)
        pair = np.repeat(np.arange(lengths.size), lengths)
        if not pair.size:
            return None
        interval = first[pair] + np.arange(pair.size) - (np.cumsum(lengths) - lengths)[pair]
        engines, engine = np.unique(batches.engine[owner], return_inverse=True)
        slot = interval * engines.size + engine[pair]
        parts = batches.part[some][pair].astype(np.float64)
        size = pieces.sharing.size
        sums = np.bincount(slot, parts, minlength=size * engines.size)
        running = np.count_nonzero(sums.reshape(size, -1), axis=1)
        outside = ~np.isin(keys, batches.known)
        present = _covering(pieces.first[outside], pieces.last[outside], size)
        given = 1.0 - present / np.maximum(pieces.sharing, 1)
        part = parts / sums[slot] * (given / np.maximum(running, 1))[interval]
        is_prefill = batches.is_prefill[some][pair]
        return cls(pieces, interval, claim[pair], part, is_prefill, running > 0, outside)

    def weights(self, steps: Column) -> tuple[Column, Column]:
        """(whole, prefill) of each claim, of what the covered intervals give."""
        given = np.where(self.covered, steps, 0).astype(np.float64) * (1 << WEIGHT_BITS)
        amounts = np.rint(given[self.interval] * self.part).astype(np.int64)
        size = self.pieces.first.size
        whole, prefill = np.zeros(size, np.int64), np.zeros(size, np.int64)
        np.add.at(whole, self.claim, amounts)
        np.add.at(prefill, self.claim[self.is_prefill], amounts[self.is_prefill])
        if self.outside.any():
            each = np.floor(given / np.maximum(self.pieces.sharing, 1)).astype(np.int64)
            sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(each)])
            by_presence = sums[self.pieces.last] - sums[self.pieces.first]
            whole[self.outside] = by_presence[self.outside]
        return whole, prefill


def _covering(first: Column, last: Column, size: int) -> Column:
    change = np.bincount(first, minlength=size + 1) - np.bincount(last, minlength=size + 1)
    sums: Column = np.cumsum(change)[:size]
    return sums
