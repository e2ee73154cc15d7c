"""The plain physical model of one device: power that follows use, exact energy, and heat.

    P = P_idle + (P_limit - P_idle) * utilisation            milliwatts, rounded down
    E = integral of P                                        exact: mW x ns are picojoules
    T -> T_inlet + heat * P / P_limit                        first order, time constant `lag`

A device's past is a short tuple of checkpoints, one where its utilisation changed, so every
quantity at a time is a pure function of it and does not depend on how often anybody asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from apportion.core.units import NS_PER_SECOND
from apportion.simulator.profiles import Profile

PPM: Final = 1_000_000
"""Utilisation is an integer in parts per million, so that sums over time are exact."""
PICOJOULES_PER_MILLIJOULE: Final = 1_000_000_000
ENERGY_TICK_NS: Final = 100_000_000
"""How often the energy counter of a real device moves."""
UTILIZATION_WINDOW_NS: Final = NS_PER_SECOND // 6
"""NVML averages utilisation over between a sixth of a second and one, by product."""
POWER_WINDOW_NS: Final = NS_PER_SECOND
"""NVML's average power is that of the last second."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything accumulated by `at_ns`, and the utilisation from then on.

    Units: `energy_pj` picojoules, `busy_ppm_ns` utilisation (ppm) integrated over nanoseconds.
    """

    at_ns: int
    utilization_ppm: int
    energy_pj: int
    busy_ppm_ns: int
    temperature_c: float


def parts_per_million(ratio: float) -> int:
    """A ratio within [0, 1] in ppm.

    Raises:
        ValueError: the ratio is outside, or not a number.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"utilisation {ratio!r} is not a ratio: give a number from 0 to 1")
    return round(ratio * PPM)


def power_mw(profile: Profile, utilization_ppm: int) -> int:
    """The power at a utilisation, milliwatts."""
    return (
        profile.power_idle_mw
        + (profile.power_limit_mw - profile.power_idle_mw) * utilization_ppm // PPM
    )


@dataclass(frozen=True, slots=True)
class DevicePhysics:
    """One device since `origin_ns` (monotonic), when it was idle and as warm as idling makes it."""

    profile: Profile
    origin_ns: int
    checkpoints: tuple[Checkpoint, ...]

    @classmethod
    def start(cls, profile: Profile, at_ns: int, *, energy_mj: int = 0) -> DevicePhysics:
        """A device that starts at `at_ns` with `energy_mj` on its counter."""
        warm_c = _settled_c(profile, 0)
        first = Checkpoint(at_ns, 0, energy_mj * PICOJOULES_PER_MILLIJOULE, 0, warm_c)
        return cls(profile, at_ns, (first,))

    def with_utilization(self, utilization_ppm: int, at_ns: int) -> DevicePhysics:
        """The same device, used by `utilization_ppm` from `at_ns` on.

        Raises:
            ValueError: `at_ns` is before the last change.
        """
        last = self.checkpoints[-1]
        if at_ns < last.at_ns:
            raise ValueError(
                f"utilisation set at {at_ns} ns, before the last change at {last.at_ns} ns: "
                "the clock must be monotonic"
            )
        if utilization_ppm == last.utilization_ppm:
            return self
        now = self.at(at_ns)
        changed = Checkpoint(
            at_ns, utilization_ppm, now.energy_pj, now.busy_ppm_ns, now.temperature_c
        )
        kept = self.checkpoints if at_ns > last.at_ns else self.checkpoints[:-1]
        return DevicePhysics(
            self.profile, self.origin_ns, (*_within_window(kept, at_ns - POWER_WINDOW_NS), changed)
        )

    def at(self, at_ns: int) -> Checkpoint:
        """Everything accumulated by `at_ns`, which may lie up to a second before the last change.

        Raises:
            ValueError: that long ago nothing is known any more.
        """
        for checkpoint in reversed(self.checkpoints):
            if checkpoint.at_ns <= at_ns:
                return _after(self.profile, checkpoint, at_ns)
        raise ValueError(
            f"nothing is known of {at_ns} ns: the oldest checkpoint is at "
            f"{self.checkpoints[0].at_ns} ns"
        )

    def published_energy_mj(self, at_ns: int) -> int:
        """The energy counter as a reader sees it at `at_ns`: that of the last 100 ms tick."""
        tick_ns = at_ns - (at_ns - self.origin_ns) % ENERGY_TICK_NS
        return self.at(tick_ns).energy_pj // PICOJOULES_PER_MILLIJOULE

    def average_power_mw(self, at_ns: int) -> int:
        """The mean power of the last second, or of the time since the start if that is less."""
        since = self.at(max(self.origin_ns, at_ns - POWER_WINDOW_NS))
        if since.at_ns == at_ns:
            return power_mw(self.profile, since.utilization_ppm)
        return (self.at(at_ns).energy_pj - since.energy_pj) // (at_ns - since.at_ns)

    def average_utilization_ppm(self, at_ns: int) -> int:
        """The mean utilisation of the last sixth of a second, or since the start."""
        since = self.at(max(self.origin_ns, at_ns - UTILIZATION_WINDOW_NS))
        if since.at_ns == at_ns:
            return since.utilization_ppm
        return (self.at(at_ns).busy_ppm_ns - since.busy_ppm_ns) // (at_ns - since.at_ns)


def _settled_c(profile: Profile, utilization_ppm: int) -> float:
    share = power_mw(profile, utilization_ppm) / profile.power_limit_mw
    return profile.inlet_c + profile.heat_kelvin * share


def _after(profile: Profile, start: Checkpoint, at_ns: int) -> Checkpoint:
    """What `start` has become by `at_ns` with its utilisation unchanged."""
    elapsed_ns = at_ns - start.at_ns
    settled_c = _settled_c(profile, start.utilization_ppm)
    left = math.exp(-elapsed_ns / (profile.heat_lag_seconds * NS_PER_SECOND))
    return Checkpoint(
        at_ns,
        start.utilization_ppm,
        start.energy_pj + power_mw(profile, start.utilization_ppm) * elapsed_ns,
        start.busy_ppm_ns + start.utilization_ppm * elapsed_ns,
        settled_c + (start.temperature_c - settled_c) * left,
    )


def _within_window(checkpoints: tuple[Checkpoint, ...], since_ns: int) -> tuple[Checkpoint, ...]:
    """`checkpoints` without those that are not needed to know everything from `since_ns` on."""
    first = 0
    while first + 1 < len(checkpoints) and checkpoints[first + 1].at_ns <= since_ns:
        first += 1
    return checkpoints[first:]
