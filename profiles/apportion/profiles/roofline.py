"""A kernel or a run on the roofline of its device.

Williams, Waterman and Patterson (2009): work of intensity I (operations a byte of memory traffic)
can reach min(peak arithmetic, I x peak bandwidth). Left of the ridge, where the two are equal,
memory bounds it, right of it arithmetic does.
"""

from __future__ import annotations

from dataclasses import dataclass

from apportion.core.units import NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Roof:
    """The peaks that something is held against; None where nobody knows them."""

    name: str
    flop_per_s: float | None
    bytes_per_s: float | None

    @property
    def ridge(self) -> float | None:
        """The intensity from which arithmetic bounds, operations a byte."""
        if not self.flop_per_s or not self.bytes_per_s:
            return None
        return self.flop_per_s / self.bytes_per_s

    def attainable(self, intensity: float) -> float | None:
        """Operations a second that work of this intensity can reach at most."""
        if self.flop_per_s is None or self.bytes_per_s is None:
            return None
        return min(self.flop_per_s, intensity * self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was done in a time; None where it was not measured.

    calls: how many kernels of this name it sums.
    """

    source: str
    name: str
    calls: int
    duration_ns: int
    flop: float | None
    size_bytes: float | None
    roof: Roof

    @property
    def intensity(self) -> float | None:
        """Operations a byte of memory traffic."""
        if self.flop is None or not self.size_bytes:
            return None
        return self.flop / self.size_bytes

    @property
    def flop_per_s(self) -> float | None:
        """Achieved arithmetic."""
        return self._rate(self.flop)

    @property
    def bytes_per_s(self) -> float | None:
        """Achieved memory traffic."""
        return self._rate(self.size_bytes)

    @property
    def attainable_flop_per_s(self) -> float | None:
        """What its intensity allows."""
        return None if self.intensity is None else self.roof.attainable(self.intensity)

    @property
    def bound(self) -> str | None:
        """`memory` or `compute`: which roof is lower at its intensity."""
        if self.intensity is None or self.roof.ridge is None:
            return None
        return "memory" if self.intensity < self.roof.ridge else "compute"

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: achieved over peak arithmetic."""
        return _ratio(self.flop_per_s, self.roof.flop_per_s)

    @property
    def mbu(self) -> float | None:
        """Memory bandwidth utilisation: achieved over peak bandwidth."""
        return _ratio(self.bytes_per_s, self.roof.bytes_per_s)

    @property
    def of_attainable(self) -> float | None:
        """Achieved over attainable: how far below its roof it is."""
        return _ratio(self.flop_per_s, self.attainable_flop_per_s)

    def _rate(self, amount: float | None) -> float | None:
        if amount is None or self.duration_ns <= 0:
            return None
        return amount * NS_PER_SECOND / self.duration_ns


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
