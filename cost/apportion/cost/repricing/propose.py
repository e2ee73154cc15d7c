"""From a price table and a ledger to what has to be posted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.meter import hour_of
from apportion.cost.quantity import plus
from apportion.cost.repricing.division import adjustments
from apportion.cost.repricing.holders import holdings
from apportion.cost.repricing.posting import Posting
from apportion.cost.repricing.proposal import Kept, PriceChange, Proposal, RuleChange, Skipped
from apportion.cost.repricing.rates import Rates
from apportion.cost.repricing.rules import PriceRules
from apportion.cost.repricing.slices import repricings, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from apportion.core.category import Category
    from apportion.cost.period import Period
    from apportion.cost.price_row import Rate
    from apportion.cost.repricing.holders import Line
    from apportion.cost.repricing.rates import PricePeriod
    from apportion.cost.repricing.recorded import Recorded
    from apportion.cost.repricing.rules import Amounts
    from apportion.cost.repricing.slices import Change, DeviceHour, Repricing, Slice

NO_PRICE: Final = "the table has no price for it"
ONLY_ESTIMATED: Final = "an estimate replaces no price that somebody chose"


def propose(
    recorded: Recorded,
    period: Period,
    rates_of: Callable[[str], Sequence[Rate]],
    *,
    now_ns: int,
) -> Proposal:
    """What makes every completely posted hour of `period` cost what the price table says.

    `rates_of` are the rows of the table that hold on the agent's node for a device by that name,
    of which at most one is valid at a time. Where the table has no price, what is there stays.
    `now_ns` (node time) dates what is posted, but never before what was settled or posted earlier.

    Raises:
        LedgerError: it would be too much for one transaction.
    """
    return _Proposer(recorded, period, rates_of, now_ns).proposal()


@dataclass(slots=True)
class _DeviceWork:
    """One device in one hour: as it is, and what the table asks for."""

    hour: DeviceHour
    cut: list[Slice]
    new: list[Repricing]


class _Proposer:
    def __init__(
        self,
        recorded: Recorded,
        period: Period,
        rates_of: Callable[[str], Sequence[Rate]],
        now_ns: int,
    ) -> None:
        self._recorded, self._period, self._now_ns = recorded, period, now_ns
        self._devices = recorded.devices()
        self._rates = Rates(recorded.rates())
        self._periods: dict[int, list[PricePeriod]] = {
            key: self._rates.periods(rates_of(device.name), device.shares, self._node_ns)
            for key, device in self._devices.items()
        }
        self._running = recorded.running()
        self._changes: dict[tuple[int, Change], list[int | None]] = {}
        self._kept: dict[tuple[int, str], int] = {}
        self._skipped: list[Skipped] = []
        self._over_ns = max((each.settled.end_ns for each in self._devices.values()), default=0)
        # Never before the time that it is about: a clock may be wrong, and retention goes by this.
        self._posting = Posting(max(now_ns, recorded.last_posted_ns() + 1, self._over_ns))
        self._left: set[tuple[int, int]] = set()
        self._hours: set[int] = set()

    def proposal(self) -> Proposal:
        hours = self._recorded.hours(self._period)
        needed: dict[int, dict[int, _DeviceWork]] = {}
        for hour_ns, devices in hours.items():
            works = {key: self._work(devices[key]) for key in devices if key in self._devices}
            if hour_ns + NS_PER_HOUR > self._over_ns:
                self._skip(hour_ns, list(works.values()), "it is not over in the ledger")
            elif any(work.new or work.hour.posted for work in works.values()):
                needed[hour_ns] = works
        for hour_ns, works, lines in self._with_lines(needed):
            before = self._posting.lines
            groups = {group: self._members(group) for group in {line.group for line in lines}}
            for together in _linked(works, groups.values()):
                mine = {group for group, members in groups.items() if members & together}
                self._redo(
                    hour_ns,
                    [work for key, work in works.items() if key in together],
                    [line for line in lines if line.group in mine],
                )
            if self._posting.lines > before:
                self._hours.add(hour_ns)
        rules = self._add_rules(hours)
        return Proposal(
            self._summary(),
            self._rule_summary(rules),
            tuple(
                Kept(*self._devices[key][:2], reason, device_ns)
                for (key, reason), device_ns in sorted(self._kept.items())
            ),
            tuple(self._skipped),
            len(self._hours),
            self._posting.lines,
            self._posting.batch(self._rates, self._recorded.least_line()),
        )

    def _node_ns(self, unix_ns: int) -> int:
        return self._period.wall.node(self._recorded.agent_id, unix_ns)

    def _members(self, group: int) -> frozenset[int]:
        return frozenset(self._recorded.groups.get(group, ()))

    def _work(self, hour: DeviceHour) -> _DeviceWork:
        cut = slices(hour, self._periods[hour.device])
        for piece in cut:
            reason = NO_PRICE if piece.wanted is None else ""
            if piece.wanted is not None and not self._rates.may_replace(piece.wanted, piece.rate):
                reason = ONLY_ESTIMATED
            if reason:
                place = hour.device, reason
                known_ns = self._kept.get(place, 0)
                self._kept[place] = known_ns + piece.end_ns - piece.start_ns
        return _DeviceWork(hour, cut, repricings(cut, self._rates))

    def _with_lines(
        self, needed: Mapping[int, dict[int, _DeviceWork]]
    ) -> Iterator[tuple[int, dict[int, _DeviceWork], list[Line]]]:
        """The needed hours with their lines; none where the ledger has none any more."""
        left = dict(needed)
        if left:
            for hour_ns, lines in self._recorded.lines(min(left), max(left) + NS_PER_HOUR):
                works = left.pop(hour_ns, None)
                if works is not None:
                    yield hour_ns, works, lines
        for hour_ns, works in left.items():
            yield hour_ns, works, []

    def _redo(self, hour_ns: int, works: Sequence[_DeviceWork], lines: Sequence[Line]) -> None:
        """One hour of devices that share groups."""
        cut = [piece for work in works for piece in work.cut]
        if _time_by_rate(cut) != _posted_by_rate(lines):
            groups = [group for at_ns, group in self._running if at_ns == hour_ns]
            mine = {work.hour.device for work in works}
            running = any(self._members(group) & mine for group in groups)
            gone = "its lines are no longer in the ledger"
            self._skip(hour_ns, works, "not all of it is posted yet" if running else gone)
            return
        for work in works:
            work.hour.posted += work.new
        after = [
            piece for work in works for piece in slices(work.hour, self._periods[work.hour.device])
        ]
        posted = [row for work in works for row in work.hour.posted]
        held = holdings(lines)
        recorded = self._recorded
        found = adjustments(after, posted, held, recorded.groups, identity=recorded.identity)
        for one in found:
            self._posting.adjust(one, held[one.holder])
        for work in works:
            self._posting.reprice(work.new)
            for row in work.new:
                self._count(row)

    def _skip(self, hour_ns: int, works: Sequence[_DeviceWork], reason: str) -> None:
        self._left |= {(hour_ns, work.hour.device) for work in works}
        names = [self._devices[work.hour.device].device for work in works if work.new]
        if names:
            hour_unix_ns = self._period.wall.unix(self._recorded.agent_id, hour_ns)
            self._skipped.append(Skipped(hour_unix_ns, tuple(sorted(names)), reason))

    def _count(self, row: Repricing) -> None:
        before = self._rates.units(row.change.from_rate, row.start_ns, row.end_ns)
        place = row.device, row.change
        sums = self._changes.setdefault(place, [0, None, 0])
        added = (row.end_ns - row.start_ns, before, (before or 0) + row.units)
        sums[:] = [plus(one, other) for one, other in zip(sums, added, strict=True)]

    def _summary(self) -> tuple[PriceChange, ...]:
        """By device, in the order of time."""
        found: list[PriceChange] = []
        by_device = sorted(self._changes.items(), key=lambda item: item[0][0])
        for (key, change), (device_ns, units, new_units) in by_device:
            before = self._rates.facts(change.from_rate) if change.from_rate else None
            after = self._rates.facts(change.to_rate)
            sums = (device_ns or 0, units, new_units or 0)
            found.append(PriceChange(self._devices[key].device, before, after, *sums))
        return tuple(found)

    def _add_rules(self, hours: Mapping[int, Mapping[int, DeviceHour]]) -> Amounts:
        """Post what rules of price rows add, or take back."""
        rules = PriceRules(self._devices, self._periods, self._rates, hours, self._left)
        found = rules.differences(self._recorded.by_rule(), self._now_ns)
        for piece, amount in found.items():
            self._posting.add_rule(piece, amount, self._devices[piece.device].group)
            self._hours.add(hour_of(piece.start_ns))
        return found

    def _rule_summary(self, rules: Amounts) -> tuple[RuleChange, ...]:
        sums: Counter[tuple[int, Category, int]] = Counter()
        for piece, amount in rules.items():
            sums[piece.device, piece.category, piece.rate] += amount.units
        return tuple(
            RuleChange(self._devices[key].device, category, self._rates.facts(rate), units)
            for (key, category, rate), units in sorted(sums.items())
        )


def _linked(devices: Iterable[int], groups: Iterable[frozenset[int]]) -> list[frozenset[int]]:
    """The devices in the fewest sets of which no two are in one group."""
    found: list[frozenset[int]] = []
    for members in [*(frozenset({key}) for key in devices), *set(groups)]:
        touching = [known for known in found if known & members]
        found = [known for known in found if not known & members]
        found.append(members.union(*touching))
    return found


def _time_by_rate(cut: Iterable[Slice]) -> dict[int, int]:
    found: dict[int, int] = {}
    for piece in cut:
        found[piece.metered] = found.get(piece.metered, 0) + piece.end_ns - piece.start_ns
    return found


def _posted_by_rate(lines: Iterable[Line]) -> dict[int, int]:
    found: dict[int, int] = {}
    for line in lines:
        if line.kind == ChargeKind.CHARGE:
            found[line.rate] = found.get(line.rate, 0) + line.device_ns
    return {rate: device_ns for rate, device_ns in found.items() if device_ns}
