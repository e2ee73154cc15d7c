"""What noisy measurements say: a trimmed mean, and how well it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TRIMMED: Final = 0.2
"""The part of the values that is left out at each end."""
RESAMPLES: Final = 2_000


class Estimate(NamedTuple):
    """A trimmed mean, and the interval that holds 95 % of its bootstrap."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike, trimmed: float = TRIMMED) -> Estimate:
        """Of values that count alike (shape n)."""
        all_of, source = np.asarray(values, np.float64), np.random.default_rng(1)
        drawn = (source.choice(all_of, all_of.size) for _ in range(RESAMPLES))
        low, high = np.percentile([_mean(each, trimmed) for each in drawn], [2.5, 97.5])
        return cls(_mean(all_of, trimmed), float(low), float(high))

    @classmethod
    def of_ratios(cls, mine: ArrayLike, theirs: ArrayLike, trimmed: float = TRIMMED) -> Estimate:
        """How much more `mine` are than `theirs` (shape n each), pair by pair, as parts of one."""
        logs = np.log(np.asarray(mine, np.float64) / np.asarray(theirs, np.float64))
        return cls(*np.expm1(cls.of(logs, trimmed)).tolist())

    @property
    def half(self) -> float:
        """Of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.mean:+.3%} ({self.low:+.3%} to {self.high:+.3%})"


def _mean(values: NDArray[np.float64], trimmed: float) -> float:
    cut = int(trimmed * values.size)
    return float(np.sort(values)[cut : values.size - cut].mean())
