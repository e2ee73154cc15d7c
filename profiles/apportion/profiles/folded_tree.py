"""Folded text as a tree of frames, without its columns: the picture of a large file in a moment.

Stacks are cut frame by frame from the root on, and no further than frames are wide enough to be
drawn: what nobody sees is never looked at. It is the tree of `flame_tree` for the same stacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from apportion.profiles.flame_frames import ROOT, FlameTree
from apportion.profiles.weight import LARGEST, Weight, too_much

Weighed = list[tuple[str, int]]
"""What is left of stacks, from some frame on, and what they weigh."""


def folded_tree(
    stacks: Iterable[tuple[str, int]], weight: Weight, least_share: float = 0.0
) -> FlameTree:
    """The tree of stacks whose frames are joined by semicolons.

    least_share: frames with less of the whole than this are left out; those without width always.

    Raises:
        ProfileTraceError: they weigh more than fits.
    """
    level: list[Weighed] = [[(stack, value) for stack, value in stacks if value]]
    whole = sum(value for _, value in level[0])
    if whole > LARGEST:
        raise too_much(weight)
    least = max(1, ceil(whole * least_share))
    codes: dict[str, int] = {}
    frame, parent, depth, start, total = [ROOT], [0], [0], [0], [whole]
    own: list[int] = []
    hidden: list[int] = []
    narrow, first = 0, 0
    while level:
        below: list[Weighed] = []
        for caller, rests in enumerate(level, start=first):
            totals = _totals(rests)
            names = sorted(totals)
            wide: dict[str, Weighed] = {name: [] for name in names if totals[name] >= least}
            left, unseen = start[caller], 0
            for name in names:
                if name in wide:
                    frame.append(codes.setdefault(name, len(codes)))
                    parent.append(caller)
                    depth.append(depth[caller] + 1)
                    start.append(left)
                    total.append(totals[name])
                else:
                    unseen += totals[name]
                left += totals[name]
            narrow += len(totals) - len(wide)
            own.append(total[caller] - (left - start[caller]))
            hidden.append(unseen)
            _hand_down(rests, wide)
            below += wide.values()
        first += len(level)
        level = below
    return FlameTree(
        names=tuple(codes),
        weights=(weight,),
        width=0,
        frame=frame,
        parent=parent,
        depth=depth,
        start=start,
        totals=[total],
        own=own,
        hidden=hidden,
        narrow=narrow,
    )


def _totals(rests: Weighed) -> dict[str, int]:
    """What each first frame weighs."""
    totals: dict[str, int] = {}
    for stack, value in rests:
        name = stack.partition(";")[0]
        totals[name] = totals.get(name, 0) + value
    return totals


def _hand_down(rests: Weighed, wide: dict[str, Weighed]) -> None:
    """What is behind the first frame goes to that frame, and `rests` are used up: text is large."""
    while rests:
        stack, value = rests.pop()
        name, is_more, rest = stack.partition(";")
        if is_more and name in wide:
            wide[name].append((rest, value))
