"""What each frame weighs: by itself, and with what it called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.profiles.device_trace import Flags, Ints
from apportion.profiles.stacks import Stacks


@dataclass(frozen=True, slots=True)
class FrameTotals:
    """By index into the stacks' names. own: as the last frame of a stack. total: anywhere in it.

    A frame that calls itself counts once in a stack. Shape (names).
    """

    own: Ints
    total: Ints

    @classmethod
    def of(cls, stacks: Stacks, row: int) -> FrameTotals:
        """Of the weight of `row`."""
        values = stacks.values[row]
        own = np.zeros(len(stacks.names), np.int64)
        total = np.zeros(len(stacks.names), np.int64)
        filled = stacks.depths > 0
        np.add.at(own, stacks.frames[stacks.offsets[1:][filled] - 1], values[filled])
        stack = np.repeat(np.arange(len(stacks)), stacks.depths)
        order = np.lexsort((stacks.frames, stack))
        stack, frames = stack[order], stacks.frames[order]
        first: Flags = np.ones(len(frames), np.bool_)
        first[1:] = (stack[1:] != stack[:-1]) | (frames[1:] != frames[:-1])
        np.add.at(total, frames[first], values[stack[first]])
        return cls(own, total)
