"""Who has the time of one clock hour, after all moves, and what was adjusted for them so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.repricing.slices import Change

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apportion.core.interval import Interval


class Line(NamedTuple):
    """A posted line, as far as adjustments depend on it; 0 where a key or the phase is NULL."""

    hour_ns: int
    kind: int
    group: int
    category: int
    phase: int
    entity: int
    ring: int
    number: int
    rate: int
    from_rate: int
    start_ns: int
    end_ns: int
    device_ns: int
    units: int | None
    priced_ns: int | None
    method: int
    incomplete: int


class Holder(NamedTuple):
    """Who time went to: a span's phase, or an entity (0: nobody) without a span."""

    group: int
    category: int
    phase: int
    entity: int
    ring: int
    number: int


class Amount(NamedTuple):
    """An adjustment: units, and how much of the time it gives a price to."""

    units: int = 0
    priced_ns: int = 0


@dataclass(slots=True)
class TimeHeld:
    """A holder's time at one metered rate: what is left of it, and the lines that gave it."""

    net_ns: int = 0
    given: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """(start, end, device time) of each."""

    def within(self, chosen: Sequence[Interval], whole: Sequence[Interval]) -> int:
        """How much of it lies in the intervals `chosen` of `whole`, all that has this rate.

        Each line's time is taken to be spread evenly over its own period of `whole`, and what
        was moved away to be like what was given. Negative where more was moved than given.
        """
        if chosen == whole or not chosen:
            return self.net_ns if chosen else 0
        total = inside = 0
        for start_ns, end_ns, device_ns in self.given:
            period, part = _overlap(start_ns, end_ns, whole), _overlap(start_ns, end_ns, chosen)
            if period == 0:  # time that was rounded to nothing: like the hour
                period, part = _length(whole), _length(chosen)
            total += device_ns
            inside += device_ns * part // period
        return self.net_ns * inside // total if total else 0


@dataclass(slots=True)
class Held:
    """What one holder has: time by metered rate, and adjustments by change of rate."""

    start_ns: int
    end_ns: int
    method: int
    incomplete: int
    times: dict[int, TimeHeld] = field(default_factory=dict[int, TimeHeld])
    adjusted: dict[Change, Amount] = field(default_factory=dict[Change, Amount])


def holdings(lines: Iterable[Line]) -> dict[Holder, Held]:
    """The lines of some groups in one hour, by whom they are about; in a stable order."""
    found: dict[Holder, Held] = {}
    for line in lines:
        holder = Holder(*line[2:8])
        held = found.get(holder)
        if held is None:
            held = found[holder] = Held(line.start_ns, line.end_ns, line.method, line.incomplete)
        else:
            held.start_ns = min(held.start_ns, line.start_ns)
            held.end_ns = max(held.end_ns, line.end_ns)
            held.method = max(held.method, line.method)
            held.incomplete = max(held.incomplete, line.incomplete)
        if line.kind == ChargeKind.ADJUSTMENT:
            change = Change(line.from_rate, line.rate)
            known = held.adjusted.get(change, Amount())
            units, priced_ns = line.units or 0, line.priced_ns or 0
            held.adjusted[change] = Amount(known.units + units, known.priced_ns + priced_ns)
            continue
        time = held.times.setdefault(line.rate, TimeHeld())
        time.net_ns += line.device_ns
        if line.device_ns > 0:
            time.given.append((line.start_ns, line.end_ns, line.device_ns))
    return dict(sorted(found.items()))


def _overlap(start_ns: int, end_ns: int, intervals: Sequence[Interval]) -> int:
    clipped = (min(end_ns, i.end_ns) - max(start_ns, i.start_ns) for i in intervals)
    return sum(length for length in clipped if length > 0)


def _length(intervals: Sequence[Interval]) -> int:
    return sum(interval.duration_ns for interval in intervals)
