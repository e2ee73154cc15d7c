"""Which of the host's spans held which, thread by thread, and the path to each from outermost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.profiles.device_trace import HostSpans, Ints

NOTHING: Final = -1


class Paths:
    """Stacks of names, each once: a path is the number of its caller's path and its own name."""

    def __init__(self) -> None:
        self._codes: dict[tuple[int, int], int] = {}

    def below(self, path: int, name: int) -> int:
        """The path of `name` called from `path`, which may be `NOTHING`."""
        return self._codes.setdefault((path, name), len(self._codes))

    def names(self) -> list[tuple[int, ...]]:
        """By path, its names from the outermost on."""
        found: list[tuple[int, ...]] = []
        for path, name in self._codes:
            found.append((name,) if path == NOTHING else (*found[path], name))
        return found


@dataclass(frozen=True, slots=True)
class HostNesting:
    """Spans by thread and start, the longer of two that begin at once first. Shape n.

    holder: index of the innermost other span of its thread that runs when it begins, or `NOTHING`.
    path: that of each.
    """

    spans: HostSpans
    holder: Ints
    path: Ints

    @classmethod
    def of(cls, spans: HostSpans, paths: Paths) -> HostNesting:
        """Of spans in any order; their paths are entered in `paths`."""
        order = np.lexsort((-spans.duration_ns, spans.start_ns, spans.thread))
        own = spans.where(order)
        holders: list[int] = []
        found: list[int] = []
        running: list[int] = []
        thread = None
        ends: list[int] = own.end_ns.tolist()
        rows = zip(own.thread.tolist(), own.start_ns.tolist(), own.name.tolist(), strict=True)
        for index, (own_thread, start_ns, name) in enumerate(rows):
            if own_thread != thread:
                running, thread = [], own_thread
            while running and ends[running[-1]] <= start_ns:
                running.pop()
            holder = running[-1] if running else NOTHING
            holders.append(holder)
            found.append(paths.below(NOTHING if holder == NOTHING else found[holder], name))
            running.append(index)
        return cls(own, np.array(holders, np.int64), np.array(found, np.int64))

    def innermost(self, thread: Ints, instant_ns: Ints) -> Ints:
        """The innermost span of each thread at each instant; `NOTHING` where none runs."""
        if not len(self.spans):
            return np.full(len(thread), NOTHING, np.int64)
        # threads lie behind each other, so that one search serves all
        threads = np.unique(self.spans.thread)
        first = np.searchsorted(self.spans.thread, thread, side="left")
        lane = np.minimum(np.searchsorted(threads, thread), len(threads) - 1)
        zero_ns = min(int(self.spans.start_ns.min()), int(instant_ns.min(initial=1 << 62)))
        width_ns = max(int(self.spans.end_ns.max()), int(instant_ns.max(initial=0))) - zero_ns + 1
        starts = (
            self.spans.start_ns - zero_ns + np.searchsorted(threads, self.spans.thread) * width_ns
        )
        found = np.searchsorted(starts, instant_ns - zero_ns + lane * width_ns, side="right") - 1
        found = np.where((threads[lane] == thread) & (found >= first), found, NOTHING)
        ends = self.spans.end_ns
        while True:
            over = (found != NOTHING) & (ends[found] <= instant_ns)
            if not over.any():
                return found
            found[over] = self.holder[found[over]]
