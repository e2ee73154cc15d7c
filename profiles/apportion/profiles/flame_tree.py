"""Stacks merged into a tree of frames, with the place of each: the picture before its drawing.

Built from the root outwards, a level at a time, in arrays. A frame narrower than asked for is not
expanded: it keeps its room and its weight stays in its caller's total, so that every total is
exact whatever is left out, and a million stacks cost little more than those that can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.profiles.device_trace import Flags, Ints
from apportion.profiles.flame_frames import ROOT, FlameTree
from apportion.profiles.stacks import Stacks


@dataclass(frozen=True, slots=True)
class _Level:
    """The frames of one depth; `parent` counts within the level before."""

    frame: Ints
    parent: Ints
    start: Ints
    totals: Ints

    def where(self, chosen: Flags) -> _Level:
        return _Level(
            self.frame[chosen], self.parent[chosen], self.start[chosen], self.totals[:, chosen]
        )


def flame_tree(stacks: Stacks, width: int, least_share: float = 0.0) -> FlameTree:
    """The tree of `stacks`, as wide as the weight `width` says, callees by name.

    least_share: frames with less of the whole than this are left out; those without width always.
    """
    values = stacks.values
    order = sorted(range(len(stacks.names)), key=stacks.names.__getitem__)
    by_name = np.array(order, np.int64)
    rank = np.empty(len(order), np.int64)
    rank[by_name] = np.arange(len(order))
    totals = np.array([[stacks.total(row)] for row in range(len(values))], np.int64)
    least = max(1, int(np.ceil(int(totals[width, 0]) * least_share)))
    zero = np.zeros(1, np.int64)
    levels = [_Level(np.full(1, ROOT, np.int64), zero, zero, totals)]
    called: list[Ints] = []
    hidden: list[Ints] = []
    narrow = 0
    rows = np.flatnonzero(values[width] > 0)
    node = np.zeros(len(rows), np.int64)
    while True:
        depth = len(levels) - 1
        deeper = stacks.offsets[rows] + depth < stacks.offsets[rows + 1]
        rows, node = rows[deeper], node[deeper]
        above = levels[-1]
        found, node, rows = _next_level(
            above, rank[stacks.frames[stacks.offsets[rows] + depth]], rows, node, values, width
        )
        wide = found.totals[width] >= least
        kept = found.where(wide)
        called.append(_added(found, len(above.frame), width))
        hidden.append(called[-1] - _added(kept, len(above.frame), width))
        narrow += len(wide) - int(wide.sum())
        if not len(kept.frame):
            break
        place = np.cumsum(wide) - 1
        seen = wide[node]
        rows, node = rows[seen], place[node[seen]]
        levels.append(kept)
    return _joined(stacks, width, levels, by_name, called, hidden, narrow)


def _next_level(
    above: _Level, ranks: Ints, rows: Ints, node: Ints, values: Ints, width: int
) -> tuple[_Level, Ints, Ints]:
    """The callees of every frame of the level above; each row's frame there, and the rows."""
    base = np.int64(ranks.max(initial=0)) + 1
    key = node * base + ranks
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    first: Flags = np.ones(len(key), np.bool_)
    first[1:] = key[1:] != key[:-1]
    edges = np.flatnonzero(first)
    parent, frame = np.divmod(key[edges], base)
    if len(edges):
        totals = np.add.reduceat(values[:, rows], edges, axis=1)
    else:
        totals = np.zeros((len(values), 0), np.int64)
    # callees begin where their caller does, one behind the other
    before = np.cumsum(totals[width]) - totals[width]
    eldest: Flags = np.ones(len(parent), np.bool_)
    eldest[1:] = parent[1:] != parent[:-1]
    family = np.cumsum(eldest) - 1
    start = above.start[parent] + before - before[np.flatnonzero(eldest)][family]
    return _Level(frame, parent, start, totals), np.cumsum(first) - 1, rows


def _added(level: _Level, callers: int, width: int) -> Ints:
    """What the frames of a level weigh together, by caller."""
    sums = np.zeros(callers, np.int64)
    np.add.at(sums, level.parent, level.totals[width])
    return sums


def _joined(
    stacks: Stacks,
    width: int,
    levels: list[_Level],
    by_name: Ints,
    called: list[Ints],
    hidden: list[Ints],
    narrow: int,
) -> FlameTree:
    sizes = [len(level.frame) for level in levels]
    begins = np.cumsum([0, 0, *sizes])[: len(levels)]
    totals = np.concatenate([level.totals for level in levels], axis=1)
    ranks = np.concatenate([level.frame for level in levels])
    frame = np.where(ranks == ROOT, ROOT, by_name[ranks] if len(by_name) else ROOT)
    return FlameTree(
        names=stacks.names,
        weights=stacks.weights,
        width=width,
        frame=frame.tolist(),
        parent=np.concatenate(
            [level.parent + begin for level, begin in zip(levels, begins, strict=True)]
        ).tolist(),
        depth=np.repeat(np.arange(len(levels)), sizes).tolist(),
        start=np.concatenate([level.start for level in levels]).tolist(),
        totals=totals.tolist(),
        own=(totals[width] - np.concatenate(called)).tolist(),
        hidden=np.concatenate(hidden).tolist(),
        narrow=narrow,
    )
