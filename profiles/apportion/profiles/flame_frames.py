"""Frames in their places: a flame graph before its drawing.

Plain lists, because a picture has some thousand frames whatever the number of stacks behind it, and
drawing one needs no more than the standard library then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apportion.profiles.weight import Weight

ROOT: Final = -1
BEFORE, AFTER, BOTH = 0, 1, 2
"""The weights of a difference."""


@dataclass(frozen=True, slots=True)
class FlameTree:
    """Frames by depth, callers first; frame 0 is the root, which holds everything. Shape n.

    frame: index into `names`; of the root `ROOT`. parent: index of the caller; the root is its own.
    start: what is drawn left of it, in the width's weight. totals: by weight, callees included.
    Shape (weights, n). own: what ran in the frame itself. hidden: callees too narrow to be drawn.
    """

    names: tuple[str, ...]
    weights: tuple[Weight, ...]
    width: int
    frame: Sequence[int]
    parent: Sequence[int]
    depth: Sequence[int]
    start: Sequence[int]
    totals: Sequence[Sequence[int]]
    own: Sequence[int]
    hidden: Sequence[int]
    narrow: int
    """How many frames were left out; those that they call are not counted."""

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def widths(self) -> Sequence[int]:
        """The total of each in the weight that is the width."""
        return self.totals[self.width]

    def name(self, index: int) -> str:
        """What stands in the frame."""
        code = self.frame[index]
        return "all" if code == ROOT else self.names[code]
