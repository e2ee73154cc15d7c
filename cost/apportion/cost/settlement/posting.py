"""From settled amounts to ledger lines: a charge is posted once, when it is complete.

A span's is complete when the span has ended and is settled, or on the hour; time without a span
is posted by the minute. Until then amounts run in accruals, which are state and no lines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.core.category import Phase
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.settlement.accrual import Accrual, AccrualKey
from apportion.cost.settlement.phases import PhaseSlice, phase_durations, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from apportion.cost.ledger.batch import Row
    from apportion.cost.settlement.settle import Amounts, Settled


_CHARGE: Final = int(ChargeKind.CHARGE)
_PREFILL, _DECODE = int(Phase.PREFILL), int(Phase.DECODE)
_NO_ENERGY: Final = -1
"""In a column of millijoules, which are never negative here."""


class RootFacts(NamedTuple):
    """What posting needs of a root span beyond its amounts."""

    start_ns: int
    end_ns: int
    first_token_ns: int


@dataclass(slots=True)
class Posted:
    """The lines of one tick and the accruals after it."""

    charges: list[Row]
    accruals: dict[AccrualKey, Accrual]
    changed: dict[AccrualKey, Accrual]
    removed: list[AccrualKey]


class Book:
    """Turns one tick's amounts into charges and accruals; the accruals given stay untouched.

    `settled_ns(group)` is how far every device of a group is settled after this tick.
    `slices(ring, number)` are the phases of a root that are known so far.
    """

    def __init__(
        self,
        accruals: Mapping[AccrualKey, Accrual],
        *,
        settled_ns: Callable[[int], int],
        slices: Callable[[int, int], list[PhaseSlice]],
        first_charge_key: int,
        posted_ns: int,
        method_key: int,
    ) -> None:
        self._accruals = dict(accruals)
        self._with_accrual = {(key.ring, key.number) for key in accruals if key.ring}
        self._before = accruals
        self._touched: dict[AccrualKey, None] = {}
        self._settled_ns = settled_ns
        self._slices = slices
        self._next_key = first_charge_key
        self._posted_ns = posted_ns
        self._method_key = method_key
        self._charges: list[Row] = []

    def post(self, settled: Settled) -> Posted:
        """The whole tick: add its amounts, post what is complete, keep the rest running."""
        self._add_roots(settled)
        self._add_spanless(settled)
        self._post_complete(settled)
        changed = {
            key: self._accruals[key]
            for key in self._touched
            if key in self._accruals and self._accruals[key] != self._before.get(key)
        }
        removed = [key for key in self._before if key not in self._accruals]
        return Posted(self._charges, self._accruals, changed, removed)

    # -- spans -----------------------------------------------------------------------------
    def _add_roots(self, settled: Settled) -> None:
        roots = settled.roots
        if not roots.size:
            return
        complete = ~roots["open"] & (roots["end_ns"] <= self._settled_by_root(roots))
        fresh = self._fresh(roots)
        for hour_ns, rate, amounts in _by_hour(settled, roots.size):
            some = amounts.some
            whole = (roots["start_ns"] >= hour_ns) & (roots["end_ns"] <= hour_ns + NS_PER_HOUR)
            at_once = some & complete & fresh & whole
            self._post_at_once(roots, np.flatnonzero(at_once), amounts, rate)
            for index in np.flatnonzero(some & ~at_once).tolist():
                self._accrue_root(roots[index], index, amounts, hour_ns, rate)

    def _settled_by_root(self, roots: NDArray[np.void]) -> NDArray[np.int64]:
        groups, inverse = np.unique(roots["group"], return_inverse=True)
        by_group = np.array([self._settled_ns(group) for group in groups.tolist()], np.int64)
        return by_group[inverse]

    def _post_at_once(
        self, roots: NDArray[np.void], rows: NDArray[np.int64], amounts: Amounts, rate: int
    ) -> None:
        """Charges of spans that lie in one hour and never had a running sum: nearly all."""
        chosen = roots[rows]
        names = ("group", "category", "entity", "ring", "number", "start_ns", "end_ns")
        columns = [chosen[name].tolist() for name in (*names, "first_token_ns", "incomplete")]
        units = amounts.units[rows].tolist() if amounts.units is not None else [None] * rows.size
        energies = np.where(amounts.metered, amounts.energy_mj, _NO_ENERGY)[rows].tolist()
        times = amounts.device_ns[rows].tolist()
        slices = self._slices
        for group, category, entity, ring, number, start, end, first, lossy, *amount in zip(
            *columns, times, energies, units, strict=True
        ):
            device_ns, energy_mj, cost = amount
            if energy_mj == _NO_ENERGY:
                energy_mj = None
            who, period = (group, category, entity, ring, number), (start, end)
            named = slices(ring, number)
            total = (device_ns, energy_mj, cost)
            if named:
                durations = phase_durations(start, end, first, named)
                self._line(who, period, durations, total, rate, None, incomplete=lossy)
            elif start < first < end:
                parts = [_first_of_two(amount, first - start, end - start) for amount in total]
                rest = [
                    None if amount is None or part is None else amount - part
                    for amount, part in zip(total, parts, strict=True)
                ]
                self._append(who, period, _PREFILL, parts, rate, None, lossy)
                self._append(who, period, _DECODE, rest, rate, None, lossy)
            else:
                phase = None if first <= 0 else _DECODE if first <= start else _PREFILL
                self._append(who, period, phase, total, rate, None, lossy)

    def _fresh(self, roots: NDArray[np.void]) -> NDArray[np.bool_]:
        if not self._with_accrual:
            return np.ones(roots.size, np.bool_)
        pairs = zip(roots["ring"].tolist(), roots["number"].tolist(), strict=True)
        known = self._with_accrual
        return np.fromiter((pair not in known for pair in pairs), np.bool_, roots.size)

    def _accrue_root(
        self, root: np.void, index: int, amounts: Amounts, hour_ns: int, rate: int
    ) -> None:
        key = AccrualKey(
            int(root["group"]),
            int(root["category"]),
            int(root["entity"]),
            int(root["ring"]),
            int(root["number"]),
            hour_ns,
            rate,
            "",
        )
        settled_ns = self._settled_ns(key.group)
        start_ns = min(max(int(root["start_ns"]), hour_ns), settled_ns)
        end_ns = min(int(root["end_ns"]), hour_ns + NS_PER_HOUR, settled_ns)
        self._accrue(key, amounts, index, start_ns, max(start_ns, end_ns), bool(root["incomplete"]))

    # -- time without a span -----------------------------------------------------------------
    def _add_spanless(self, settled: Settled) -> None:
        offset = settled.roots.size
        for bucket, amounts in sorted(settled.by_bucket.items()):
            for index in np.flatnonzero(amounts.some[offset:]).tolist():
                claim = settled.spanless[index]
                key = AccrualKey(
                    claim.group,
                    int(claim.category),
                    claim.entity,
                    0,
                    0,
                    bucket.minute_ns,
                    bucket.rate,
                    claim.reason,
                )
                stop_ns = bucket.minute_ns + NS_PER_MINUTE
                # Late energy has no time of its own: it is dated in the minute it is posted in.
                start_ns = min(max(claim.start_ns, bucket.minute_ns), stop_ns - 1)
                end_ns = max(start_ns, min(claim.end_ns, stop_ns))
                self._accrue(key, amounts, offset + index, start_ns, end_ns, incomplete=False)

    def _accrue(
        self,
        key: AccrualKey,
        amounts: Amounts,
        row: int,
        start_ns: int,
        end_ns: int,
        incomplete: bool,  # noqa: FBT001 - a column
    ) -> None:
        added = Accrual(
            start_ns,
            end_ns,
            int(amounts.device_ns[row]),
            int(amounts.energy_mj[row]) if amounts.metered[row] else None,
            None if amounts.units is None else int(amounts.units[row]),
            incomplete,
        )
        known = self._accruals.get(key)
        self._accruals[key] = added if known is None else known.plus(added)
        self._touched[key] = None

    # -- posting -----------------------------------------------------------------------------
    def _post_complete(self, settled: Settled) -> None:
        roots = settled.roots
        ended: dict[tuple[int, int], RootFacts] = {}
        known: dict[tuple[int, int], RootFacts] = {}
        waiting = {(key.ring, key.number) for key in self._accruals if key.ring}
        if waiting and roots.size:
            pairs = zip(roots["ring"].tolist(), roots["number"].tolist(), strict=True)
            complete = ~roots["open"] & (roots["end_ns"] <= self._settled_by_root(roots))
            for index, pair in enumerate(pairs):
                if pair in waiting:
                    root = roots[index]
                    facts = RootFacts(
                        int(root["start_ns"]), int(root["end_ns"]), int(root["first_token_ns"])
                    )
                    known[pair] = facts
                    if complete[index]:
                        ended[pair] = facts
        for key in sorted(self._accruals):
            accrual = self._accruals[key]
            settled_ns = self._settled_ns(key.group)
            if key.ring:
                pair = (key.ring, key.number)
                if pair not in ended and settled_ns < key.bucket_ns + NS_PER_HOUR:
                    continue
                self._post_accrual(key, accrual, known.get(pair))
            elif settled_ns >= key.bucket_ns + NS_PER_MINUTE:
                self._post_accrual(key, accrual, None)
            else:
                continue
            del self._accruals[key]

    def _post_accrual(self, key: AccrualKey, accrual: Accrual, facts: RootFacts | None) -> None:
        durations = [(Phase.NONE, 1)]
        period = (accrual.start_ns, accrual.end_ns)
        if facts is not None:
            start_ns = max(facts.start_ns, key.bucket_ns)
            end_ns = max(start_ns, min(accrual.end_ns, facts.end_ns))
            period = (start_ns, end_ns)
            durations = phase_durations(
                start_ns, end_ns, facts.first_token_ns, self._slices(key.ring, key.number)
            )
        self._line(
            key[:5],
            period,
            durations,
            (accrual.device_ns, accrual.energy_mj, accrual.units),
            key.rate,
            key.reason or None,
            incomplete=accrual.incomplete,
        )

    def _line(
        self,
        who: tuple[int, int, int, int, int],
        period: tuple[int, int],
        durations: list[tuple[Phase, int]],
        amounts: tuple[int, int | None, int | None],
        rate: int,
        reason: str | None,
        *,
        incomplete: bool,
    ) -> None:
        device_ns, energy_mj, units = amounts
        times = split(device_ns, durations)
        energies = None if energy_mj is None else split(energy_mj, durations)
        costs = None if units is None else split(units, durations)
        for index, (phase, _) in enumerate(durations):
            part = (
                times[index],
                None if energies is None else energies[index],
                None if costs is None else costs[index],
            )
            self._append(who, period, int(phase) or None, part, rate, reason, incomplete)

    def _append(
        self,
        who: tuple[int, int, int, int, int],
        period: tuple[int, int],
        phase: int | None,
        amounts: Sequence[int | None],
        rate: int,
        reason: str | None,
        incomplete: bool,  # noqa: FBT001 - a column
    ) -> None:
        group, category, entity, ring, number = who
        self._charges.append(
            (
                self._next_key,
                _CHARGE,
                group,
                category,
                phase,
                entity or None,
                ring or None,
                number or None,
                *period,
                self._posted_ns,
                *amounts,
                rate or None,
                self._method_key,
                reason,
                int(incomplete),
            )
        )
        self._next_key += 1


def _first_of_two(amount: int | None, first_ns: int, total_ns: int) -> int | None:
    """The part of the first `first_ns` of `total_ns`: largest remainder, ties to the first."""
    if amount is None:
        return None
    part, remainder = divmod(amount * first_ns, total_ns)
    return part + 1 if remainder and 2 * remainder >= total_ns else part


def _by_hour(settled: Settled, size: int) -> Iterable[tuple[int, int, Amounts]]:
    """Amounts of the first `size` rows, summed over the minutes of each hour and rate."""
    hours: dict[tuple[int, int], Amounts] = {}
    for bucket, amounts in sorted(settled.by_bucket.items()):
        key = (bucket.minute_ns - bucket.minute_ns % NS_PER_HOUR, bucket.rate)
        known = hours.get(key)
        if known is None:
            hours[key] = _first(amounts, size)
        else:
            known.device_ns += amounts.device_ns[:size]
            known.energy_mj += amounts.energy_mj[:size]
            known.metered |= amounts.metered[:size]
            if known.units is not None and amounts.units is not None:
                known.units += amounts.units[:size]
    return [(hour_ns, rate, amounts) for (hour_ns, rate), amounts in hours.items()]


def _first(amounts: Amounts, size: int) -> Amounts:
    return replace(
        amounts,
        device_ns=amounts.device_ns[:size].copy(),
        units=None if amounts.units is None else amounts.units[:size].copy(),
        energy_mj=amounts.energy_mj[:size].copy(),
        metered=amounts.metered[:size].copy(),
    )
