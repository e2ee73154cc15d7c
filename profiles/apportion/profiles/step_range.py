"""Steps by number, from one to another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepRange:
    """`first` to `last`, both included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        """Refuse a range that holds nothing.

        Raises:
            ValueError: it ends before it begins.
        """
        if self.last < self.first:
            raise ValueError(f"the range {self.first} to {self.last} holds no step")

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.first}-{self.last}" if self.first < self.last else f"{self.first}"

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last
