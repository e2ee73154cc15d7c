"""Which step each device event belongs to: the one in whose window it was launched.

Nesting by thread finds a fraction of a step's work, because backward passes are launched by
autograd's own threads; the window of the launch finds all of it. The price: a kernel that runs
after its step's end still belongs to the step that asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.profiles.device_trace import DeviceEvents, HostSpans, Ints

OUTSIDE: Final = -1
_STEP_NAMES: Final = (
    re.compile(r"^ProfilerStep\s*#\s*(\d+)$"),
    re.compile(r"^(?:train[ _]?)?step[ _#:]*(\d+)$", re.IGNORECASE),
)
"""The profiler's own steps, else the user's."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in order. A window goes from a step's start to the next one's, the last to its end."""

    numbers: tuple[int, ...]
    start_ns: Ints
    end_ns: Ints

    @staticmethod
    def is_name(name: str) -> bool:
        """Whether an annotation of this name marks a step."""
        return any(pattern.match(name) for pattern in _STEP_NAMES)

    @classmethod
    def of(cls, annotations: HostSpans, names: Sequence[str]) -> Steps:
        """The steps among a trace's annotations; a number that comes twice counts once."""
        found: dict[int, tuple[int, int]] = {}
        for pattern in _STEP_NAMES:
            for row, code in enumerate(annotations.name):
                match = pattern.match(names[int(code)])
                if match is not None:
                    window = (int(annotations.start_ns[row]), int(annotations.end_ns[row]))
                    found.setdefault(int(match[1]), window)
            if found:
                break
        rows = sorted((start_ns, end_ns, number) for number, (start_ns, end_ns) in found.items())
        starts = np.array([row[0] for row in rows], dtype=np.int64)
        ends = np.array([row[1] for row in rows], dtype=np.int64)
        if len(rows) > 1:
            ends = np.concatenate((starts[1:], ends[-1:]))
        return cls(tuple(row[2] for row in rows), starts, ends)

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, instants_ns: Ints) -> Ints:
        """The index of the step whose window holds each instant, else `OUTSIDE`."""
        if not len(self):
            return np.full(len(instants_ns), OUTSIDE, dtype=np.int64)
        index = np.searchsorted(self.start_ns, instants_ns, side="right") - 1
        return np.where(instants_ns < self.end_ns[index], index, OUTSIDE)

    @staticmethod
    def instants_of(events: DeviceEvents) -> Ints:
        """The instant that decides about each event: its launch, else (unknown) its start."""
        return np.where(events.launched, events.launch_ns, events.start_ns)

    def of_events(self, events: DeviceEvents) -> Ints:
        """The index of each event's step."""
        return self.at(self.instants_of(events))

    def but_last(self) -> Steps:
        """All but the last one, which ends where that began."""
        return Steps(self.numbers[:-1], self.start_ns[:-1], self.end_ns[:-1])
