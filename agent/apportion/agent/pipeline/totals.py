"""Running totals since the process started: what the counters on /metrics say. They only rise."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import numpy as np

from apportion.agent.metrics.labels import OTHER
from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.latencies import SERIES, Histogram, Latencies
from apportion.agent.snapshot import (
    LostKey,
    PhaseKey,
    RequestKey,
    Spend,
    SpendKey,
    StepKey,
    TokenKey,
    TrainingKey,
    TrainingWork,
)
from apportion.agent.snapshot import MoveKey as MoveLabels
from apportion.core.allocation import Pod
from apportion.core.category import Category, Phase, SpanKind, SpanStatus
from apportion.cost.settlement.work import NO_RATE, NOBODY
from apportion.cost.training.lost_query import PROCESS_DIED, ROLLED_BACK

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.interned import Interned
    from apportion.agent.pipeline.pods import Pods
    from apportion.agent.pipeline.spans import Decoded
    from apportion.cost.ledger.batch import Row
    from apportion.cost.settlement.amounts import Quantity
    from apportion.cost.settlement.late import Move, MoveKey
    from apportion.cost.settlement.lines import PhaseOf
    from apportion.cost.settlement.settle import Settled

    Column = NDArray[np.int64]

K = TypeVar("K", bound="Hashable")

_TOKENS: Final = (
    ("input_tokens", "input"),
    ("cached_input_tokens", "cached_input"),
    ("output_tokens", "output"),
    ("tokens", "training"),
)


_SPEND, _ONE = 3, 1
"""Series of a key: time, money and energy; a counter."""


class Who(NamedTuple):
    """Whose series end together: a run's, or those of a workload, in one pod, that are of none."""

    workload: str
    run: str = ""
    pod: Pod | None = None

    @classmethod
    def of(cls, key: Any) -> Who:
        """Whom a key of any counter is about."""
        run, pod = getattr(key, "run", ""), getattr(key, "pod", "")
        has_own = pod not in {"", OTHER} and not run
        return cls(key.workload, run, Pod(key.namespace, pod) if has_own else None)


class _Spending(Generic[K]):
    """Sums of time, money and energy by key."""

    def __init__(self) -> None:
        self._sums: dict[K, list[int | None]] = {}

    def add(self, key: K, device_ns: int, units: int | None, energy_mj: int | None) -> None:
        sums = self._sums.setdefault(key, [0, None, None])
        for index, amount in enumerate((device_ns, units, energy_mj)):
            if amount is not None:
                sums[index] = (sums[index] or 0) + amount

    @property
    def by_key(self) -> dict[K, list[int | None]]:
        return self._sums

    def frozen(self) -> Mapping[K, Spend]:
        return MappingProxyType(
            {key: Spend(sums[0] or 0, sums[1], sums[2]) for key, sums in self._sums.items()}
        )


class Totals:
    """Everything that ticks add up; only the settlement thread writes it, after a commit."""

    def __init__(self, folder: LabelFolder, entities: Interned[EntityKey]) -> None:
        self._folder = folder
        self._entities = entities
        self._spend: _Spending[SpendKey] = _Spending()
        self._phases: _Spending[PhaseKey] = _Spending()
        self._lost: _Spending[LostKey] = _Spending()
        self.moved: Counter[MoveLabels] = Counter()
        self.requests: Counter[RequestKey] = Counter()
        self.steps: Counter[StepKey] = Counter()
        self.tokens: Counter[TokenKey] = Counter()
        self.training: dict[TrainingKey, TrainingWork] = {}
        self.latencies = Latencies(folder, entities)
        self.unpriced_ns: Counter[int] = Counter()
        """By device key."""
        self.unbound_spans = 0
        """Root spans that were committed while the devices of their ring were unknown."""

    @property
    def spend(self) -> Mapping[SpendKey, Spend]:
        """By category and who it went to."""
        return self._spend.frozen()

    @property
    def phases(self) -> Mapping[PhaseKey, Spend]:
        """By workload and phase of its spans, as they are posted."""
        return self._phases.frozen()

    @property
    def lost(self) -> Mapping[LostKey, Spend]:
        """By run, what a restart made vain; the spend that it was in still has it.

        A run that lost nothing yet has lost 0: `rate` does not see a counter's first value.
        """
        runs = {
            LostKey(key.workload, key.run, key.category, reason): Spend(0)
            for key in self._spend.by_key
            if key.run and key.category is Category.DIRECT
            for reason in (PROCESS_DIED, ROLLED_BACK)
        }
        return MappingProxyType({**runs, **self._lost.frozen()})

    def add_settled(self, settled: Settled, pods: Pods) -> None:
        """What one committed tick settled, and in which of `pods`."""
        entity = _column(settled, "entity", [claim.entity for claim in settled.spanless])
        category = _column(settled, "category", [int(c.category) for c in settled.spanless])
        found, places = pods.of_rows(settled)
        code = places << 40 | entity << 8 | category
        for _, amounts in sorted(settled.by_bucket.items()):
            values, inverse = np.unique(code[amounts.rows], return_inverse=True)
            sums = amounts.sums(inverse, values.size)
            for value, (device_ns, energy_mj, units) in zip(values.tolist(), sums, strict=True):
                who = value >> 8 & 0xFFFFFFFF
                place: int = value >> 40
                key = self._spend_key(who, Category(value & 0xFF), found[place])
                self._spend.add(key, device_ns, units, energy_mj)
        for row in settled.settlements:
            if row.rate == NO_RATE:
                self.unpriced_ns[row.device] += row.end_ns - row.start_ns

    def add_phases(self, posted: Mapping[PhaseOf, Quantity]) -> None:
        """Posted lines of spans, by phase."""
        for (entity, phase), (device_ns, energy_mj, units) in posted.items():
            workload = self._entities.value(entity).workload if entity else None
            key = PhaseKey(self._folder.workload(workload), Phase(phase))
            other = PhaseKey(OTHER, key.phase)
            key = self._bounded(key, self._phases.by_key, other, _SPEND)
            self._phases.add(key, device_ns, units, energy_mj)

    def add_moves(self, moves: Mapping[MoveKey, Move], reason: str) -> None:
        """Moved money by where it came from and went to; in proportion where both are several."""
        sources: Counter[Category] = Counter()
        targets: Counter[Category] = Counter()
        for key, move in moves.items():
            units = move.units or 0
            (targets if units > 0 else sources)[key.payer.category] += abs(units)
        total = sum(targets.values())
        for source, taken in sources.items():
            for target, given in targets.items():
                if total:
                    labels = MoveLabels(source, target, reason)
                    self.moved[labels] += taken * given // total

    def add_lost(self, lines: Sequence[Row]) -> None:
        """Lines that moved the cost of lost work: each pair takes from a category and gives."""
        taken: Counter[MoveLabels] = Counter()
        lost: _Spending[LostKey] = _Spending()
        for row in lines:
            source = Category(row[3])
            if source is Category.LOST:
                continue
            taken[MoveLabels(source, Category.LOST, row[16])] -= row[13] or 0
            who = self._entities.value(row[5]) if row[5] else EntityKey()
            workload = self._folder.workload(who.workload or who.owner)
            key = LostKey(workload, self._folder.run(who.run), source, row[16])
            other = LostKey(OTHER, OTHER, source, row[16])
            key = self._bounded(key, self._lost.by_key, other, _SPEND)
            energy_mj, units = (None if each is None else -each for each in row[12:14])
            lost.add(key, -row[11], units, energy_mj)
        for key, spent in lost.frozen().items():
            if min(spent.device_ns, spent.units or 0, spent.energy_mj or 0) >= 0:
                self._lost.add(key, spent.device_ns, spent.units, spent.energy_mj)
        for labels, units in taken.items():
            if units > 0:
                self.moved[labels] += units

    def add_spans(self, read: Sequence[Decoded]) -> None:
        """Requests, steps and tokens of records that were read and committed."""
        if not read:
            return
        self.latencies.add(read)
        kinds = np.concatenate([part.kind * (part.records["parent"] == 0) for part in read])
        entities = np.concatenate([part.entity for part in read])
        statuses = np.concatenate([part.status for part in read])
        for kind in (SpanKind.REQUEST, SpanKind.STEP):
            chosen = kinds == int(kind)
            if not chosen.any():
                continue
            entity = entities[chosen]
            values, counts = np.unique(entity << 8 | statuses[chosen], return_counts=True)
            for value, number in zip(values.tolist(), counts.tolist(), strict=True):
                self.add_ended(kind, value >> 8, SpanStatus(value & 0xFF), number)
            for name, token_type in _TOKENS:
                column = np.concatenate([part.records[name] for part in read])[chosen]
                self._add_tokens(token_type, entity, np.maximum(column, 0))

    def add_training(self, entity: int, work: TrainingWork) -> None:
        """What steps of one trainer computed."""
        who = self._entities.value(entity)
        key = TrainingKey(self._folder.workload(who.workload), self._folder.run(who.run))
        key = self._bounded(key, self.training, TrainingKey(OTHER, OTHER), len(work))
        self.training[key] = self.training.get(key, TrainingWork()).plus(work)

    def _add_tokens(self, token_type: str, entity: Column, tokens: Column) -> None:
        values, inverse = np.unique(entity, return_inverse=True)
        sums = np.zeros(values.size, np.int64)
        np.add.at(sums, inverse, tokens)
        for value, total in zip(values.tolist(), sums.tolist(), strict=True):
            if total:
                who, fold = self._entities.value(value), self._folder
                labels = (fold.workload(who.workload), fold.tenant(who.tenant))
                key = TokenKey(*labels, fold.model(who.model), token_type)
                other = TokenKey(OTHER, OTHER, OTHER, token_type)
                self.tokens[self._bounded(key, self.tokens, other, _ONE)] += total

    def add_ended(self, kind: SpanKind, entity: int, status: SpanStatus, number: int) -> None:
        """`number` root spans of one kind ended with `status`."""
        who = self._entities.value(entity)
        workload = self._folder.workload(who.workload)
        if kind is SpanKind.REQUEST:
            tenant, model = self._folder.tenant(who.tenant), self._folder.model(who.model)
            request = RequestKey(workload, tenant, model, status)
            rest = RequestKey(OTHER, OTHER, OTHER, status)
            self.requests[self._bounded(request, self.requests, rest, _ONE)] += number
        elif kind is SpanKind.STEP:
            step = StepKey(workload, self._folder.run(who.run), status)
            self.steps[self._bounded(step, self.steps, StepKey(OTHER, OTHER, status), _ONE)] += (
                number
            )

    # -- what ends -----------------------------------------------------------------------------
    def progress(self) -> dict[Who, int]:
        """A number for each of them that grows whenever any of its counters does."""
        found: Counter[Who] = Counter()
        for counters in self._counters:
            for key, value in counters.items():
                amount = value if isinstance(value, int) else _progress(value)
                found[Who.of(key)] += amount
        return dict(found)

    def end(self, whose: Collection[Who]) -> int:
        """Show nothing more of them. Returns how many series that were."""
        return self._end(lambda key: Who.of(key) in whose)

    def end_values(self, values: Collection[tuple[str, str]]) -> int:
        """Show no series with these values of labels any more. Returns how many there were."""
        return self._end(
            lambda key: any(getattr(key, label, None) == shown for label, shown in values)
        )

    def _end(self, over: Callable[[Any], bool]) -> int:
        series = 0
        for counters in self._counters:
            for key in [key for key in counters if over(key)]:
                value = counters.pop(key)
                series += _ONE if isinstance(value, int) else _series(value)
        return series

    def shown(self) -> dict[str, set[str]]:
        """The values of each bounded label that some series has."""
        names = ("workload", "run", "tenant", "model")
        found: dict[str, set[str]] = {name: set() for name in (*names, "pod")}
        for counters in self._counters:
            for key in counters:
                for name in names:
                    found[name].add(getattr(key, name, ""))
        found["pod"] = {f"{key.namespace}/{key.pod}" for key in self._spend.by_key if key.pod}
        return found

    @property
    def _counters(self) -> tuple[dict[Any, Any], ...]:
        """All that are about somebody, by key."""
        return (
            self._spend.by_key,
            self._phases.by_key,
            self._lost.by_key,
            self.requests,
            self.steps,
            self.tokens,
            self.training,
            self.latencies.by_key,
        )

    def _bounded(self, key: K, known: Collection[K], other: K, series: int) -> K:
        return self._folder.budget.key(key, known, other=other, series=series)

    def _spend_key(self, entity: int, category: Category, pod: Pod | None) -> SpendKey:
        if entity == NOBODY:
            return SpendKey(category)
        who = self._entities.value(entity)
        fold = self._folder
        folded = fold.pod(None if pod is None else "/".join(pod))
        namespace, _, name = folded.partition("/") if folded != OTHER else (OTHER, "", OTHER)
        key = SpendKey(
            category,
            fold.workload(who.workload or who.owner),
            fold.run(who.run),
            fold.model(who.model),
            fold.tenant(who.tenant),
            namespace,
            name,
        )
        other = SpendKey(category, *[OTHER] * 4)
        return self._bounded(key, self._spend.by_key, other, _SPEND)


def _progress(value: Histogram | TrainingWork | list[int | None]) -> int:
    if isinstance(value, Histogram):
        return int(value.counts.sum())
    return sum(abs(each) for each in value if each is not None)


def _series(value: Histogram | TrainingWork | list[int | None]) -> int:
    return SERIES if isinstance(value, Histogram) else len(value)


def _column(settled: Settled, name: str, rest: list[int]) -> Column:
    return np.concatenate([settled.roots[name].astype(np.int64), np.array(rest, np.int64)])
