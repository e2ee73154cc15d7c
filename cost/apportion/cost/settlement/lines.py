"""Lines of the ledger as they are posted, numbered in that order."""

from __future__ import annotations

from itertools import count, repeat
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.core.category import Phase
from apportion.cost.ledger.batch import UNADJUSTED, ChargeKind
from apportion.cost.methods.names import BY_NEED, Method
from apportion.cost.rounding import split_in_two
from apportion.cost.settlement.amounts import Quantity
from apportion.cost.settlement.phases import Durations, split
from apportion.cost.settlement.work import picked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from apportion.cost.ledger.batch import Row
    from apportion.cost.settlement.amounts import Amounts
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]

_CHARGE: Final = int(ChargeKind.CHARGE)
_NO_PHASE: Final = 0


class Who(NamedTuple):
    """Who a line is about; `ring` and `number` are 0 for time without a span."""

    group: int
    category: int
    entity: int
    ring: int
    number: int


class PhaseOf(NamedTuple):
    """A phase of the spans of one entity."""

    entity: int
    phase: int


class Lines:
    """Charges of one tick; `by_phase` are the sums of those that are about spans."""

    def __init__(self, first_charge_key: int, posted_ns: int) -> None:
        self._first_key, self._posted_ns = first_charge_key, posted_ns
        self.rows: list[Row] = []
        self.by_phase: dict[PhaseOf, Quantity] = {}

    def post(
        self,
        who: Who,
        period: tuple[int, int],
        durations: Durations,
        whole: Quantity,
        *,
        rate: int,
        method: int,
        reason: str | None,
        incomplete: bool,
    ) -> None:
        """One line for each of the phases in `durations`, together `whole`."""
        times = split(whole.device_ns, durations)
        energies = None if whole.energy_mj is None else split(whole.energy_mj, durations)
        costs = None if whole.units is None else split(whole.units, durations)
        for index, (phase, _) in enumerate(durations):
            amounts = Quantity(
                times[index],
                None if energies is None else energies[index],
                None if costs is None else costs[index],
            )
            if who.ring:
                self._add(PhaseOf(who.entity, int(phase)), amounts)
            self.rows.append(
                (
                    self._first_key + len(self.rows),
                    _CHARGE,
                    who.group,
                    who.category,
                    int(phase) or None,
                    who.entity or None,
                    who.ring or None,
                    who.number or None,
                    *period,
                    self._posted_ns,
                    *amounts,
                    rate or None,
                    method,
                    reason,
                    int(incomplete),
                    *UNADJUSTED,
                )
            )

    def post_many(self, roots: Roots, amounts: Amounts, rate: int) -> None:
        """Root spans without named phases, `amounts` beside them: prefill and decode, or one line.

        Divided by what the method gave to each, else by time. Equal to `post` of each, by columns.
        """
        first, length = roots["first_token_ns"], roots["end_ns"] - roots["start_ns"]
        lead = np.clip(first - roots["start_ns"], 0, length)
        by_need = np.isin(roots["method"], BY_NEED) & (length > 0)
        by_need &= amounts.device_ns > 0
        length = np.where(by_need, amounts.device_ns, length)
        lead = np.where(by_need, amounts.prefill_ns, lead)
        both = (first > 0) & (lead > 0) & (lead < length)
        only = np.where(lead > 0, int(Phase.PREFILL), int(Phase.DECODE))
        only = np.where((first > 0) & (length > 0), only, _NO_PHASE)
        if not both.all():
            self._append(picked(roots, ~both), amounts.take(~both), only[~both], rate)
        if both.any():
            parts = (lead[both], length[both])
            self._append_two(picked(roots, both), amounts.take(both), *parts, rate)

    def _append_two(
        self, roots: Roots, whole: Amounts, lead: Column, length: Column, rate: int
    ) -> None:
        prefill = whole.map(lambda amounts: split_in_two(amounts, lead, length))
        phases = np.full(roots.size, int(Phase.PREFILL))
        self._append(roots, prefill, phases, rate)
        self._append(roots, whole.less(prefill), np.full(roots.size, int(Phase.DECODE)), rate)

    def _append(self, roots: Roots, amounts: Amounts, phases: Column, rate: int) -> None:
        size = roots.size
        units = repeat(None, size) if amounts.units is None else amounts.units.tolist()
        self.rows += zip(
            count(self._first_key + len(self.rows)),
            repeat(_CHARGE, size),
            roots["group"].tolist(),
            roots["category"].tolist(),
            _or_none(phases),
            _or_none(roots["entity"]),
            roots["ring"].tolist(),
            roots["number"].tolist(),
            roots["start_ns"].tolist(),
            roots["end_ns"].tolist(),
            repeat(self._posted_ns),
            amounts.device_ns.tolist(),
            _where(amounts.metered, amounts.energy_mj),
            units,
            repeat(rate or None),
            np.maximum(roots["method"], int(Method.TIME_SHARE)).tolist(),
            repeat(None),
            roots["incomplete"].astype(np.int64).tolist(),
            *map(repeat, UNADJUSTED),
            strict=False,
        )
        self._add_many(roots["entity"], phases, amounts)

    def _add_many(self, entities: Column, phases: Column, amounts: Amounts) -> None:
        pairs, inverse = np.unique(entities.astype(np.int64) << 8 | phases, return_inverse=True)
        sums = amounts.sums(inverse, pairs.size)
        for pair, whole in zip(pairs.tolist(), sums, strict=True):
            self._add(PhaseOf(pair >> 8, pair & 0xFF), whole)

    def _add(self, phase: PhaseOf, amounts: Quantity) -> None:
        known = self.by_phase.get(phase)
        self.by_phase[phase] = amounts if known is None else known.plus(amounts)


def _or_none(column: Column) -> list[int | None]:
    return _where(column != 0, column)


def _where(known: NDArray[np.bool_], column: Column) -> list[int | None]:
    values: list[int | None] = column.tolist()
    if not known.all():
        for index in np.flatnonzero(~known).tolist():
            values[index] = None
    return values
