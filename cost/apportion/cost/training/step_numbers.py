"""Sets of step numbers as ranges: a run has millions of steps, and few gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """The numbers of `ranges`: (first, last) with both included, apart and in order."""

    ranges: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    @property
    def highest(self) -> int | None:
        """The highest number."""
        return self.ranges[-1][1] if self.ranges else None

    @classmethod
    def union(cls, many: Iterable[StepNumbers]) -> StepNumbers:
        """The numbers that are in any of them."""
        found: list[tuple[int, int]] = []
        for first, last in sorted(one for numbers in many for one in numbers.ranges):
            if found and first <= found[-1][1] + 1:
                found[-1] = (found[-1][0], max(found[-1][1], last))
            else:
                found.append((first, last))
        return cls(tuple(found))
