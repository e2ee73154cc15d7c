"""What competes for devices in one tick: root spans, and time that belongs to no span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apportion.core.category import Category
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.meter import Meter
from apportion.cost.methods.names import Method

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction

    from apportion.cost.energy import EnergyCurve

ROOT: Final = np.dtype(
    [
        ("start_ns", "i8"),  # from when it competes: admission where known
        ("end_ns", "i8"),  # of an open span: how long it was seen open
        ("first_token_ns", "i8"),  # 0: none
        ("number", "i8"),
        ("applied_start_ns", "i8"),  # what it claimed when its devices were last settled;
        ("applied_end_ns", "i8"),  # equal: nothing yet
        ("input_tokens", "i8"),
        ("cached_input_tokens", "i8"),
        ("output_tokens", "i8"),
        ("begun_ns", "i8"),  # when its prefill began (of an open one: may have begun), and
        ("prefill_own", "i8"),  # what it needs for itself then and
        ("decode_own", "i8"),  # in decode (methods.occupancy); with methods BY_NEED alone
        ("ring", "i4"),
        ("entity", "i4"),
        ("group", "i4"),
        ("engine", "i4"),  # 1 + its index, where there are several; -1: one of them; 0: the one
        ("category", "u1"),
        ("step", "?"),
        ("open", "?"),
        ("incomplete", "?"),
        ("held", "?"),  # it was settled while it ran, without its tokens
        ("method", "u1"),  # methods.names.Method; 0 is TIME_SHARE
    ]
)
"""Columns of root spans; keys are the ledger's, times node time."""

Roots = NDArray[np.void]
"""Rows of type `ROOT`."""


def picked(roots: Roots, chosen: NDArray[np.bool_]) -> Roots:
    """The chosen rows, which nobody may change: no copy where they are all of `roots`."""
    return roots if chosen.all() else roots[chosen]


def joined(parts: Sequence[Roots]) -> Roots:
    """The rows of all `parts`, in their order; the caller owns them.

    Copied as plain bytes: numpy would compare the types of any two parts field by field.
    """
    raw = [np.ascontiguousarray(part).view(np.uint8) for part in parts]
    return np.concatenate([np.zeros(0, np.uint8), *raw]).view(ROOT)


LATE_ENERGY_NS: Final = 1
"""Energy that came too late for its own time is settled with a piece of this length, so that it
can be told from the energy of the time that it stands beside."""
HEAD_ELSEWHERE: Final = "head_elsewhere"
"""Why direct time has no span: it is a worker's, whose requests a process of another node has."""
NOBODY: Final = 0
"""Entity key of time that belongs to nobody."""
NO_RATE: Final = 0
"""Rate key of a device without a price."""


class Spanless(NamedTuple):
    """Time without a span: of all devices of `group`, or of `device` alone where given."""

    start_ns: int
    end_ns: int
    category: Category
    group: int
    entity: int
    reason: str
    device: int | None = None


def spanless_method(reason: str) -> Method:
    """How time without a span that has this `reason` is divided."""
    return Method.HEAD_SHARE if reason == HEAD_ELSEWHERE else Method.TIME_SHARE


class RatePeriod(NamedTuple):
    """A rate of a device and when it holds, in node time; open ends are None."""

    rate: int
    units_per_hour: Fraction
    from_ns: int | None
    to_ns: int | None


class Segment(NamedTuple):
    """A piece of a device's time in one clock minute and at one rate."""

    start_ns: int
    end_ns: int
    rate: int
    meter: Meter | None


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """One device to settle over [start_ns, end_ns).

    `late_mj` is energy of time that is settled already: it is posted `unattributed` with
    `late_reason`, beside the first nanosecond. `group` is the device's own single-device group.
    `idle_mw` is its power at rest, None where that is not known: then all of its energy is
    divided by weights.
    """

    device: int
    group: int
    start_ns: int
    end_ns: int
    rates: Sequence[RatePeriod]
    energy: EnergyCurve | None
    energy_source: str | None
    late_mj: int = 0
    late_reason: str = ""
    idle_mw: int | None = None

    def segments(self) -> Iterator[Segment]:
        """The interval in pieces between minutes and changes of rate."""
        first_ns = self.start_ns
        if self.late_mj and first_ns < self.end_ns:
            first_ns += LATE_ENERGY_NS
            yield from segments(self.start_ns, first_ns, self.rates)
        yield from segments(first_ns, self.end_ns, self.rates)


def segments(start_ns: int, end_ns: int, rates: Sequence[RatePeriod]) -> Iterator[Segment]:
    """[start_ns, end_ns) in pieces between clock minutes and changes of rate."""
    minute_ns = NS_PER_MINUTE
    cuts = {edge for period in rates for edge in (period.from_ns, period.to_ns) if edge is not None}
    begin_ns = start_ns
    while begin_ns < end_ns:
        stop_ns = min(end_ns, (begin_ns // minute_ns + 1) * minute_ns)
        stop_ns = min([stop_ns, *(cut for cut in cuts if begin_ns < cut < stop_ns)])
        period = next((rate for rate in rates if _holds(rate, begin_ns)), None)
        if period is None:
            yield Segment(begin_ns, stop_ns, NO_RATE, None)
        else:
            meter = Meter.within_hour(period.units_per_hour, begin_ns, period.from_ns)
            yield Segment(begin_ns, stop_ns, period.rate, meter)
        begin_ns = stop_ns


def _holds(period: RatePeriod, time_ns: int) -> bool:
    return (period.from_ns is None or period.from_ns <= time_ns) and (
        period.to_ns is None or time_ns < period.to_ns
    )
