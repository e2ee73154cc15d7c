"""The phases of root spans that are not charged to their end, gathered as records come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.core.category import Phase, PhaseClock, SpanKind
from apportion.cost.settlement.phases import PhaseSlice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.agent.pipeline.spans import Decoded

MAX_ROOTS: Final = 100_000
"""Roots with phases that are remembered: beyond it the oldest are forgotten (phase NULL)."""
MAX_PHASES: Final = 10_000
"""Phases of one root that are remembered: what a longer one adds has no phase (NULL)."""


class RootPhases:
    """Phases by the number of their root. Inner spans end first, so they come first."""

    def __init__(self) -> None:
        self._below: dict[int, list[PhaseSlice]] = {}

    def absorb(self, decoded: Decoded) -> None:
        """Take the spans of `decoded` that are no roots."""
        records = decoded.records
        inner = np.flatnonzero((records["parent"] != 0) | (decoded.kind == int(SpanKind.PHASE)))
        if not inner.size:
            return
        names = ("number", "parent", "start_ns", "end_ns")
        columns = [records[name][inner].tolist() for name in names]
        phases, clocks = decoded.phase[inner].tolist(), decoded.clock[inner].tolist()
        for number, parent, start_ns, end_ns, phase, clock in zip(
            *columns, phases, clocks, strict=True
        ):
            piece = PhaseSlice(_PHASES[phase], start_ns, end_ns, number, _CLOCKS[clock])
            self.add(number, parent, piece)
        while len(self._below) > MAX_ROOTS:
            del self._below[next(iter(self._below))]

    def add(self, number: int, parent: int, piece: PhaseSlice) -> None:
        """One inner span `number` of `parent`; without a phase it only hands its own phases on."""
        below = self._below.pop(number, None)
        if piece.phase is Phase.NONE and below is None:
            return
        known = self._below.setdefault(parent, [])
        if below is not None:
            known += below
        if piece.phase is not Phase.NONE:
            known.append(piece)
        del known[MAX_PHASES:]

    def of(self, root: int) -> list[PhaseSlice]:
        """The phases of a root that are known so far."""
        return self._below.get(root, _NO_PHASES)

    def forget(self, roots: Iterable[int]) -> None:
        """These are charged to their end."""
        if self._below:
            for root in roots:
                self._below.pop(root, None)

    def __len__(self) -> int:
        return len(self._below)


_PHASES: Final = tuple(Phase)
_CLOCKS: Final = tuple(PhaseClock)
_NO_PHASES: Final[list[PhaseSlice]] = []
