"""From settled amounts to ledger lines: a charge is posted once, when it is complete.

A span's is complete when the span has ended and is settled, or on the hour; time without a span
is posted by the minute. Until then amounts run in accruals, which are state and no lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.core.category import Phase
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE
from apportion.cost.methods.names import BY_NEED, Method
from apportion.cost.settlement.accrual import Accrual, AccrualKey
from apportion.cost.settlement.amounts import Amounts, Quantity
from apportion.cost.settlement.lines import Lines, Who
from apportion.cost.settlement.phases import PhaseSlice, by_method, phase_durations
from apportion.cost.settlement.work import picked, spanless_method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from apportion.cost.ledger.batch import Row
    from apportion.cost.settlement.lines import PhaseOf
    from apportion.cost.settlement.settle import Bucket, Settled
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_WITHOUT_PHASES: Final = [(Phase.NONE, 1)]


@dataclass(slots=True)
class Posted:
    """The lines of one tick and the accruals after it."""

    charges: list[Row]
    by_phase: dict[PhaseOf, Quantity]
    """Sums of the charges of spans."""
    accruals: dict[AccrualKey, Accrual]
    changed: dict[AccrualKey, Accrual]
    removed: list[AccrualKey]


class Book:
    """Turns one tick's amounts into charges and accruals; the accruals given stay untouched.

    `settled_ns(group)` is how far every device of a group is settled after this tick.
    `slices(ring, number)` are the phases of a root that are known so far; only spans of the
    rings `with_phases` have any.
    """

    def __init__(
        self,
        accruals: Mapping[AccrualKey, Accrual],
        *,
        settled_ns: Callable[[int], int],
        slices: Callable[[int, int], list[PhaseSlice]],
        with_phases: list[int],
        first_charge_key: int,
        posted_ns: int,
    ) -> None:
        self._before, self._accruals = accruals, dict(accruals)
        self._touched: dict[AccrualKey, None] = {}
        self._settled_ns, self._slices, self._with_phases = settled_ns, slices, with_phases
        self._lines = Lines(first_charge_key, posted_ns)

    def post(self, settled: Settled) -> Posted:
        """The whole tick: add its amounts, post what is complete, keep the rest running."""
        roots = settled.roots
        ended = ~roots["open"] & (roots["end_ns"] <= self._settled_by_root(roots))
        self._add_spans(settled, ended)
        self._add_spanless(settled)
        self._post_complete(roots, ended)
        changed = {
            key: self._accruals[key]
            for key in self._touched
            if key in self._accruals and self._accruals[key] != self._before.get(key)
        }
        removed = [key for key in self._before if key not in self._accruals]
        lines = self._lines
        return Posted(lines.rows, lines.by_phase, self._accruals, changed, removed)

    def _settled_by_root(self, roots: Roots) -> Column:
        groups, inverse = np.unique(roots["group"], return_inverse=True)
        by_group = np.array([self._settled_ns(group) for group in groups.tolist()], np.int64)
        found: Column = by_group[inverse]
        return found

    # -- spans -----------------------------------------------------------------------------
    def _add_spans(self, settled: Settled, ended: Flags) -> None:
        roots = settled.roots
        running = {(key.ring, key.number) for key in self._before if key.ring}
        fresh = (roots["number"] > 0) & ~_among(roots, running)
        for hour_ns, rate, amounts in _by_hour(settled):
            mine = roots[amounts.rows]
            inside = (mine["start_ns"] >= hour_ns) & (mine["end_ns"] <= hour_ns + NS_PER_HOUR)
            at_once = ended[amounts.rows] & fresh[amounts.rows] & inside
            self._post_at_once(picked(mine, at_once), amounts.take(at_once), rate)
            for index in np.flatnonzero(~at_once).tolist():
                quantity, prefill_ns = _quantity(amounts, index), int(amounts.prefill_ns[index])
                self._accrue_span(mine[index], quantity, prefill_ns, hour_ns, rate)

    def _post_at_once(self, roots: Roots, amounts: Amounts, rate: int) -> None:
        """Charges of spans that lie in one hour and never had a running sum: nearly all."""
        named = np.zeros(roots.size, np.bool_)
        for index in np.flatnonzero(np.isin(roots["ring"], self._with_phases)).tolist():
            root = roots[index]
            who, slices = _who(root), self._slices(int(root["ring"]), int(root["number"]))
            if not slices:
                continue
            named[index] = True
            period = (int(root["start_ns"]), int(root["end_ns"]))
            quantity, method = _quantity(amounts, index), _method(root)
            durations = phase_durations(*period, int(root["first_token_ns"]), slices)
            if method in BY_NEED:
                prefill_ns = int(amounts.prefill_ns[index])
                durations = by_method(durations, prefill_ns, quantity.device_ns)
            self._lines.post(
                who,
                period,
                durations,
                quantity,
                rate=rate,
                method=method,
                reason=None,
                incomplete=bool(root["incomplete"]),
            )
        self._lines.post_many(picked(roots, ~named), amounts.take(~named), rate)

    def _accrue_span(
        self, root: np.void, amount: Quantity, prefill_ns: int, hour_ns: int, rate: int
    ) -> None:
        key = AccrualKey(*_who(root), hour_ns, rate, "")
        settled_ns = self._settled_ns(key.group)
        start_ns = min(max(int(root["start_ns"]), hour_ns), settled_ns)
        end_ns = min(int(root["end_ns"]), hour_ns + NS_PER_HOUR, settled_ns)
        end_ns = max(start_ns, end_ns)
        state = (bool(root["incomplete"]), prefill_ns, _method(root))
        self._accrue(key, Accrual(start_ns, end_ns, *amount, *state))

    # -- time without a span -----------------------------------------------------------------
    def _add_spanless(self, settled: Settled) -> None:
        """Gaps between spans, which come in columns, and claims: summed by who and minute."""
        work = _Spanless(settled)
        for bucket, amounts in sorted(settled.by_bucket.items()):
            for key, accrual in work.sums(bucket, amounts):
                self._accrue(key, accrual)

    def _accrue(self, key: AccrualKey, added: Accrual) -> None:
        known = self._accruals.get(key)
        self._accruals[key] = added if known is None else known.plus(added)
        self._touched[key] = None

    # -- posting -----------------------------------------------------------------------------
    def _post_complete(self, roots: Roots, ended: Flags) -> None:
        waiting = {(key.ring, key.number) for key in self._accruals if key.ring}
        known = {
            _who(roots[index])._replace(category=0, entity=0): index
            for index in np.flatnonzero(_among(roots, waiting)).tolist()
        }
        for key in sorted(self._accruals):
            settled_ns = self._settled_ns(key.group)
            root = None
            if key.ring:
                index = known.get(Who(key.group, 0, 0, key.ring, key.number))
                over = index is not None and bool(ended[index])
                if not over and settled_ns < key.bucket_ns + NS_PER_HOUR:
                    continue
                root = None if index is None else roots[index]
            elif settled_ns < key.bucket_ns + NS_PER_MINUTE:
                continue
            self._post_accrual(key, self._accruals.pop(key), root)

    def _post_accrual(self, key: AccrualKey, accrual: Accrual, root: np.void | None) -> None:
        durations, period = _WITHOUT_PHASES, (accrual.start_ns, accrual.end_ns)
        if root is not None:
            start_ns = max(int(root["start_ns"]), key.bucket_ns)
            end_ns = max(start_ns, min(accrual.end_ns, int(root["end_ns"])))
            period, slices = (start_ns, end_ns), self._slices(key.ring, key.number)
            durations = phase_durations(*period, int(root["first_token_ns"]), slices)
            if accrual.method in BY_NEED:
                durations = by_method(durations, accrual.prefill_ns, accrual.device_ns)
        self._lines.post(
            Who(*key[:5]),
            period,
            durations,
            Quantity(accrual.device_ns, accrual.energy_mj, accrual.units),
            rate=key.rate,
            method=accrual.method,
            reason=key.reason or None,
            incomplete=accrual.incomplete,
        )


class _Spanless:
    """The rows of a tick's work that belong to no span, as columns."""

    def __init__(self, settled: Settled) -> None:
        roots, claims = settled.roots, settled.spanless
        gaps = np.flatnonzero(roots["number"] == 0)
        self._reasons = sorted({"", *(claim.reason for claim in claims)})
        table = [
            (
                c.group,
                int(c.category),
                c.entity,
                self._reasons.index(c.reason),
                c.start_ns,
                c.end_ns,
            )
            for c in claims
        ]
        names = ("group", "category", "entity", None, "start_ns", "end_ns")
        columns = [np.zeros(gaps.size) if name is None else roots[name][gaps] for name in names]
        ours = np.stack(columns, axis=1).astype(np.int64)
        self._table = np.concatenate([ours, np.array(table, np.int64).reshape(-1, len(names))])
        self._place = np.full(roots.size + len(claims), -1)
        self._place[gaps] = np.arange(gaps.size)
        self._place[roots.size :] = gaps.size + np.arange(len(claims))

    def sums(self, bucket: Bucket, amounts: Amounts) -> list[tuple[AccrualKey, Accrual]]:
        """What of `amounts`, of one minute and at one rate, goes to no span, by who it goes to."""
        places = self._place[amounts.rows]
        amounts, table = amounts.take(places >= 0), self._table[places[places >= 0]]
        who, inverse = np.unique(table[:, :4], axis=0, return_inverse=True)
        stop_ns = bucket.minute_ns + NS_PER_MINUTE
        starts = np.clip(table[:, 4], bucket.minute_ns, stop_ns - 1)
        ends = np.maximum(starts, np.minimum(table[:, 5], stop_ns))
        first, last = np.full(len(who), stop_ns), np.full(len(who), bucket.minute_ns)
        np.minimum.at(first, inverse, starts)
        np.maximum.at(last, inverse, ends)
        sums = amounts.sums(inverse, len(who))
        found: list[tuple[AccrualKey, Accrual]] = []
        keys: list[list[int]] = who.tolist()
        for index, (group, category, entity, reason) in enumerate(keys):
            place = (bucket.minute_ns, bucket.rate, self._reasons[reason])
            key = AccrualKey(group, category, entity, 0, 0, *place)
            device_ns, energy_mj, units = sums[index]
            edges = (int(first[index]), int(last[index]))
            method = int(spanless_method(key.reason))
            found.append((key, Accrual(*edges, device_ns, energy_mj, units, method=method)))
        return found


def _among(roots: Roots, spans: set[tuple[int, int]]) -> Flags:
    """Which of `roots` are in `spans`, (ring, number) pairs."""
    found = np.zeros(roots.size, np.bool_)
    if spans:
        numbers = np.array([number for _, number in spans], np.int64)
        for index in np.flatnonzero(np.isin(roots["number"], numbers)).tolist():
            found[index] = (int(roots["ring"][index]), int(roots["number"][index])) in spans
    return found


def _who(root: np.void) -> Who:
    return Who(*(int(root[name]) for name in Who._fields))


def _method(root: np.void) -> int:
    return max(int(root["method"]), int(Method.TIME_SHARE))


def _quantity(amounts: Amounts, row: int) -> Quantity:
    energy_mj = int(amounts.energy_mj[row]) if amounts.metered[row] else None
    units = None if amounts.units is None else int(amounts.units[row])
    return Quantity(int(amounts.device_ns[row]), energy_mj, units)


def _by_hour(settled: Settled) -> list[tuple[int, int, Amounts]]:
    """Amounts of spans, summed over the minutes of each hour and rate."""
    numbers = settled.roots["number"]
    hours: dict[tuple[int, int], list[Amounts]] = {}
    for bucket, amounts in sorted(settled.by_bucket.items()):
        key = (bucket.minute_ns - bucket.minute_ns % NS_PER_HOUR, bucket.rate)
        mine = amounts.take(amounts.rows < numbers.size)
        hours.setdefault(key, []).append(mine.take(numbers[mine.rows] > 0))
    return [(hour_ns, rate, Amounts.joined(parts)) for (hour_ns, rate), parts in hours.items()]
