"""What a device draws while nothing runs on it, learnt from times that are proved idle.

Not the least power ever seen: a device that is cooler, or drops into a lower state for a moment,
would keep that for ever. The estimate is the median of recent samples, each over ten seconds of
uninterrupted rest. The first ten seconds of a rest are left out, because clocks take some seconds
to fall, and a device with a process on it (its context loaded) is told from one without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from statistics import median_low
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from typing_extensions import Self

SAMPLE_NS: Final = 10 * NS_PER_SECOND
"""A sample is the mean power over this time, which counters tell to about a hundredth."""
WANTED: Final = 6
"""So many samples make an estimate: a minute of rest, and the ten seconds before it."""
KEPT: Final = 60
"""The median is over so many samples at most: ten minutes of rest."""


class IdleState(IntEnum):
    """Stored in ledgers: a number never changes its meaning."""

    EMPTY = 1
    """No process is on the device."""
    LOADED = 2
    """A process holds it and computes nothing."""

    @property
    def label(self) -> str:
        """As people read it."""
        return self.name.lower()


class Rest(NamedTuple):
    """A time at which the device was proved idle, and what it used."""

    start_ns: int
    end_ns: int
    energy_mj: int
    state: IdleState


class _Stretch(NamedTuple):
    """Uninterrupted rest from `begun_ns` on; of it, what no sample has had is since `from_ns`."""

    state: IdleState
    begun_ns: int
    from_ns: int
    end_ns: int
    energy_mj: int


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Of one device. `samples` are mW by state, the oldest first."""

    samples: Mapping[IdleState, tuple[int, ...]] = field(
        default_factory=dict[IdleState, tuple[int, ...]]
    )
    _stretch: _Stretch | None = None
    """Not in the ledger: a rest that a restart interrupts begins anew."""

    def after(self, rests: Iterable[Rest]) -> Self:
        """With what `rests`, in order of time, add to it."""
        samples, stretch = dict(self.samples), self._stretch
        for rest in rests:
            if stretch is None or (stretch.state, stretch.end_ns) != (rest.state, rest.start_ns):
                begun_ns = rest.start_ns
                stretch = _Stretch(rest.state, begun_ns, begun_ns, begun_ns, 0)
            stretch = stretch._replace(
                end_ns=rest.end_ns, energy_mj=stretch.energy_mj + rest.energy_mj
            )
            elapsed_ns = stretch.end_ns - stretch.from_ns
            if elapsed_ns < SAMPLE_NS:
                continue
            if stretch.from_ns > stretch.begun_ns:
                power_mw = stretch.energy_mj * NS_PER_SECOND // elapsed_ns
                known = samples.get(rest.state, ())
                samples[rest.state] = (*known, power_mw)[-KEPT:]
            stretch = stretch._replace(from_ns=stretch.end_ns, energy_mj=0)
        return type(self)(samples, stretch)

    def of(self, state: IdleState) -> int | None:
        """The power at rest in `state`, mW; None while there are too few samples."""
        known = self.samples.get(state, ())
        return median_low(known) if len(known) >= WANTED else None

    @property
    def power_mw(self) -> int | None:
        """What to take for a device that work shares: loaded, else empty, which is no more."""
        loaded = self.of(IdleState.LOADED)
        return self.of(IdleState.EMPTY) if loaded is None else loaded

    @property
    def by_label(self) -> dict[str, int]:
        """What is known, by the state's name."""
        found = {state.label: self.of(state) for state in IdleState}
        return {label: power_mw for label, power_mw in found.items() if power_mw is not None}

    def rows(self, device: int) -> list[tuple[Any, ...]]:
        """Its rows of `idle_power`, without agent_id."""
        return [
            (device, int(state), self.of(state), ",".join(map(str, known)))
            for state, known in sorted(self.samples.items())
        ]

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[Any, ...]]) -> Self:
        """The inverse of `rows`, from those of one device."""
        return cls(
            {IdleState(row[1]): tuple(int(sample) for sample in row[3].split(",")) for row in rows}
        )
