"""One metered device: its readings, how far it may be settled, its energy and its windows."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from apportion.core.units import NS_PER_MINUTE
from apportion.cost.energy import EnergyCurve
from apportion.cost.idle_power import IdlePower
from apportion.cost.settlement.evidence import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from apportion.core.reading import DeviceInfo, Reading
    from apportion.cost.settlement.work import RatePeriod

GIVE_UP_NS: Final = 10 * NS_PER_MINUTE
"""A device that was metered before the start of this process is awaited for so long."""
MOST_POWER_W: Final = 2_000
"""No device draws more. A counter that fell and shows more than that since the last reading did not
begin at 0, so nobody knows what was used."""
_NS_PER_MJ: Final = 1_000_000
"""At one watt."""
PAST_NS: Final = 10 * NS_PER_MINUTE
"""For so long it is remembered when within its settled time energy was used: what is learnt late
moves what was posted, to the millijoule. Of older time a settlement's mean power is known."""
SLACK_NS: Final = NS_PER_MINUTE
"""Counters lag behind their readings, and were reset some time before them."""


@dataclass(frozen=True, slots=True)
class Knot:
    """What settlement keeps of a reading, in node time.

    `total_mj` is the energy counter made continuous over resets; `reset_mj` is what the counter
    showed after a reset: energy of unknown time; 0 where it cannot have begun at 0.
    """

    time_ns: int
    total_mj: int | None
    reset_mj: int
    activity_ratio: float | None
    cpu_ns_by_pid: dict[int, int]
    raw_mj: int | None = None
    boot: str = ""
    """Counters of another boot started anew."""
    index: int = -1
    """The device's place in its source's order then; a lost GPU has no other name."""

    def to_json(self) -> str:
        """For the ledger's `reading` table."""
        return json.dumps(
            [
                self.total_mj,
                self.reset_mj,
                self.activity_ratio,
                self.cpu_ns_by_pid,
                self.raw_mj,
                self.boot,
                self.index,
            ],
            separators=(",", ":"),
        )

    @classmethod
    def of_json(cls, time_ns: int, text: str) -> Knot:
        """The inverse of `to_json`."""
        total_mj, reset_mj, activity_ratio, by_pid, *others = json.loads(text)
        pids = {int(pid): int(cpu_ns) for pid, cpu_ns in by_pid.items()}
        return cls(time_ns, total_mj, reset_mj, activity_ratio, pids, *others)


@dataclass(slots=True)
class MeteredDevice:
    """The timeline of one device that this agent owns.

    `settled_ns` is its watermark; `settled_mj` the energy total that is accounted for up to it.
    Of knots before the watermark but one only time and energy are kept after a commit, in `past`.
    `awaited_since_ns` is when this process began to wait for its first reading of a device that
    the ledger knows. `ends_ns` is from when on the device does not exist: it is settled to there
    and no further.
    """

    key: int
    group: int
    info: DeviceInfo
    since_ns: int
    settled_ns: int
    settled_mj: int | None = None
    rates: list[RatePeriod] = field(default_factory=list["RatePeriod"])
    priced: bool = False
    """Whether `rates` are those of the price table, and not only those of the ledger."""
    knots: list[Knot] = field(default_factory=list[Knot])
    past: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    energy_source: str | None = None
    awaited_since_ns: int | None = None
    idle: IdlePower = field(default_factory=IdlePower)
    ends_ns: int | None = None
    _raw_mj: int | None = None
    _total_mj: int = 0
    _boot: str = ""

    def add(self, reading: Reading, time_ns: int, boot: str) -> Knot | None:
        """Take a reading (node time `time_ns`); None where it is older than the last one.

        One from a silence that is settled already counts right after it: as late energy.
        """
        if self.knots and time_ns <= self.knots[-1].time_ns:
            return None
        if time_ns < self.settled_ns:
            time_ns = self.settled_ns + 1
        sources = {self.energy_source, reading.energy_source} - {None}
        if len(sources) > 1:
            self._raw_mj = None  # another source counts from another zero
        before_ns = self.knots[-1].time_ns if self.knots else time_ns
        most_mj = MOST_POWER_W * (time_ns - before_ns + SLACK_NS) // _NS_PER_MJ
        total_mj, reset_mj = self._advance(reading.energy_mj, boot, most_mj)
        knot = Knot(
            time_ns,
            total_mj,
            reset_mj,
            reading.utilization_ratio,
            dict(reading.cpu_ns_by_pid),
            reading.energy_mj,
            boot,
            self.info.index,
        )
        self.knots.append(knot)
        self.awaited_since_ns = None
        self.energy_source = reading.energy_source or self.energy_source
        if self.settled_mj is None and total_mj is not None:
            self.settled_mj = total_mj
        return knot

    def end(self) -> None:
        """It exists no longer: its time is over with its last reading."""
        self.awaited_since_ns = None
        self.ends_ns = max([self.settled_ns, *(knot.time_ns for knot in self.knots)])

    def restore(self, knots: list[Knot]) -> None:
        """Go on from persisted readings."""
        self.knots = knots
        self._let_go()
        for knot in knots:
            if knot.total_mj is not None:
                self._total_mj, self._raw_mj, self._boot = knot.total_mj, knot.raw_mj, knot.boot

    def _advance(self, raw_mj: int | None, boot: str, most_mj: int) -> tuple[int | None, int]:
        if raw_mj is None:
            return None, 0
        reset_mj = 0
        if self._raw_mj is not None:
            if boot != self._boot or raw_mj < self._raw_mj:
                reset_mj = raw_mj if raw_mj <= most_mj else 0
            else:
                self._total_mj += raw_mj - self._raw_mj
        self._raw_mj, self._boot = raw_mj, boot
        return self._total_mj, reset_mj

    # -- settlement --------------------------------------------------------------------------
    def target_ns(self, limit_ns: int, *, patience_ns: int) -> int:
        """How far to settle: the last reading before `limit_ns`.

        The limit itself when telemetry is silent for longer than `patience_ns`. A device that is
        awaited stays where it is.
        """
        if self.awaited_since_ns is not None:
            return self.settled_ns
        if self.ends_ns is not None:
            limit_ns = min(limit_ns, self.ends_ns)
        last_ns = max((k.time_ns for k in self.knots if k.time_ns <= limit_ns), default=None)
        if last_ns is None or limit_ns - last_ns > patience_ns:
            return max(self.settled_ns, limit_ns)
        return max(self.settled_ns, last_ns)

    def curve(self) -> EnergyCurve | None:
        """Energy as a function of time; None where the device reports none."""
        knots = _energies(self.knots)
        return EnergyCurve.of(knots) if knots else None

    def past_curve(self) -> EnergyCurve:
        """The same with what this process remembers of settled time."""
        return EnergyCurve.of([*self.past, *_energies(self.knots)])

    def is_gone(self, now_ns: int) -> bool:
        """Was it awaited in vain since this process started?"""
        since_ns = self.awaited_since_ns
        return since_ns is not None and now_ns - since_ns > GIVE_UP_NS

    def accounted_mj(self, target_ns: int) -> int | None:
        """The energy total that is accounted for once settled up to `target_ns`.

        Where no time is settled, no energy is: late energy is posted with some time.
        """
        if target_ns <= self.settled_ns:
            return self.settled_mj
        known = _energies(self.knots)
        if not known or known[0][0] > target_ns:
            return self.settled_mj
        return max(self.settled_mj or 0, EnergyCurve.of(known).at(target_ns))

    def late_mj(self, target_ns: int) -> tuple[int, str]:
        """Energy up to the watermark that came after it was settled, and why."""
        curve = self.curve()
        resets = sum(k.reset_mj for k in self.knots if self.settled_ns < k.time_ns <= target_ns)
        if curve is None:
            return resets, "counter_reset" if resets else ""
        missed = curve.at(self.settled_ns) - (self.settled_mj or 0)
        return max(0, missed) + resets, "counter_reset" if resets else "telemetry_gap"

    def windows(
        self, target_ns: int, *, patience_ns: int, cpu_of: Collection[int] | None
    ) -> list[Window]:
        """The reading windows between the watermark and `target_ns`, without gaps.

        `cpu_of`: on the CPU device the pids whose own CPU time is the activity, where any are
        instrumented; None elsewhere.
        """
        windows: list[Window] = []
        begin_ns = self.settled_ns
        first = bisect_right(self.knots, begin_ns, key=lambda k: k.time_ns)
        before = self.knots[first - 1] if first else None
        for knot in self.knots[first:]:
            if begin_ns >= target_ns:
                break
            end_ns = min(knot.time_ns, target_ns)
            if before is None or knot.time_ns - before.time_ns > patience_ns:
                windows.append(Window(begin_ns, end_ns, None, "telemetry_gap"))
            else:
                activity = _activity(before, knot, cpu_of)
                energy_mj = _used_mj(before, knot, end_ns - begin_ns)
                windows.append(Window(begin_ns, end_ns, activity, energy_mj=energy_mj))
            begin_ns, before = end_ns, knot
        if begin_ns < target_ns:
            windows.append(Window(begin_ns, target_ns, None, "telemetry_gap"))
        return windows

    def settled(self, target_ns: int) -> None:
        """The settlement up to `target_ns` is committed."""
        self.settled_mj = self.accounted_mj(target_ns)
        self.settled_ns = target_ns
        self._let_go()

    def needed_from_ns(self, target_ns: int) -> int:
        """Readings before it have no use once the device is settled to `target_ns`."""
        kept_ns = max((k.time_ns for k in self.knots if k.time_ns <= target_ns), default=target_ns)
        return min(kept_ns, target_ns - PAST_NS)

    def _let_go(self) -> None:
        # The last knot at or before the watermark and what follows are needed whole.
        first = max(0, bisect_right(self.knots, self.settled_ns, key=lambda k: k.time_ns) - 1)
        self.past += _energies(self.knots[:first])
        self.past = self.past[bisect_right(self.past, (self.settled_ns - PAST_NS, 0)) :]
        self.knots = self.knots[first:]


def _energies(knots: Sequence[Knot]) -> list[tuple[int, int]]:
    return [(knot.time_ns, knot.total_mj) for knot in knots if knot.total_mj is not None]


def _used_mj(before: Knot, knot: Knot, duration_ns: int) -> int | None:
    """What a part of the time between two readings used; None where the counter began anew."""
    if before.raw_mj is None or knot.raw_mj is None:
        return None
    if before.boot != knot.boot or knot.raw_mj < before.raw_mj:
        return None
    return (knot.raw_mj - before.raw_mj) * duration_ns // (knot.time_ns - before.time_ns)


def _activity(before: Knot, knot: Knot, cpu_of: Collection[int] | None) -> float | None:
    if cpu_of:
        elapsed_ns = knot.time_ns - before.time_ns
        used_ns = sum(
            max(0, knot.cpu_ns_by_pid[pid] - before.cpu_ns_by_pid[pid])
            for pid in cpu_of
            if pid in knot.cpu_ns_by_pid and pid in before.cpu_ns_by_pid
        )
        return min(1.0, used_ns / elapsed_ns)
    return knot.activity_ratio
