"""One ring as settlement sees it: what ended, what runs, and the time in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.spans import Decoded, is_root, roots_of
from apportion.core.category import Category, Phase, PhaseClock, SpanKind
from apportion.core.interval import Interval
from apportion.cost.settlement.phases import PhaseSlice
from apportion.cost.settlement.work import ROOT, Spanless

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_OPEN_PHASES: Final = 100_000
"""Phases whose root has not ended: beyond it the oldest are forgotten (phase NULL)."""


@dataclass(slots=True)
class OpenRoot:
    """A root span that has not ended, as its open slot says. Node time."""

    number: int
    kind: SpanKind
    entity: int
    start_ns: int
    scheduled_ns: int
    first_token_ns: int
    seen_ns: int
    step: int
    claim_ns: int | None = None
    """From when it competes in what is settled already; None: not yet in anything settled."""

    def competes_from(self, *, admits: bool) -> int | None:
        """None while it only waits for admission."""
        if self.kind is SpanKind.REQUEST:
            if self.scheduled_ns:
                return self.scheduled_ns
            if admits:
                return None
        return self.start_ns


@dataclass(slots=True)
class Gap:
    """Time of a ring between or before its spans. `applied`: see `ROOT`."""

    claim: Spanless
    applied: bool = False


@dataclass(slots=True)
class RingState:
    """Everything settlement knows about one ring. `group` is None until it is bound.

    `pending` are ended roots that are not charged to their end. `withdrawn` are claims that
    settlement was given and that turned out to begin elsewhere, by number.
    """

    key: int
    run_entity: int
    attached_ns: int
    pid: int
    group: int | None = None
    process_start_ns: int | None = None
    ended_ns: int | None = None
    first_root_ns: int | None = None
    last_step_end_ns: int | None = None
    admits: bool = False
    pending: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, dtype=ROOT))
    open: dict[int, OpenRoot] = field(default_factory=dict[int, OpenRoot])
    gaps: list[Gap] = field(default_factory=list[Gap])
    withdrawn: dict[int, int] = field(default_factory=dict[int, int])
    lost: set[int] = field(default_factory=set[int])
    losses: list[Interval] = field(default_factory=list[Interval])
    _children: dict[int, list[PhaseSlice]] = field(default_factory=dict[int, list[PhaseSlice]])

    # -- what arrives --------------------------------------------------------------------------
    def absorb(self, decoded: Decoded) -> None:
        """Take records in the order of their sequence."""
        self._absorb_phases(decoded)
        root = is_root(decoded)
        if not root.any():
            return
        records = decoded.records
        request = root & (decoded.kind == int(SpanKind.REQUEST))
        if not self.admits and bool((records["scheduled_ns"][request] > 0).any()):
            self.admits = True
        roots = roots_of(decoded, root, self.key, admits=self.admits)
        steps = decoded.kind[root] == int(SpanKind.STEP)
        starts = records["start_ns"][root]
        self._note_start(int(starts.min()))
        self._note_steps(starts[steps], roots["end_ns"][steps])
        if self.open:
            numbers = zip(roots["number"].tolist(), roots["start_ns"].tolist(), strict=True)
            for index, (number, start_ns) in enumerate(numbers):
                known = self.open.pop(number, None)
                if known is not None and known.claim_ns is not None:
                    roots["applied"][index] = known.claim_ns == start_ns
                    if known.claim_ns != start_ns:
                        self.withdrawn[number] = known.claim_ns
        self.pending = np.concatenate([self.pending, roots])

    def observe(self, seen: list[OpenRoot]) -> None:
        """The open root spans of the last poll."""
        for span in seen:
            known = self.open.get(span.number)
            if known is None:
                self.open[span.number] = span
                self._note_start(span.start_ns)
                if span.kind is SpanKind.STEP:
                    self._note_gap(span.start_ns)
            else:
                known.scheduled_ns = span.scheduled_ns
                known.first_token_ns = span.first_token_ns
                known.entity = span.entity
                known.seen_ns = span.seen_ns
            if span.scheduled_ns:
                self.admits = True

    def die(self, ended_ns: int) -> list[OpenRoot]:
        """The process is gone: what it had open ends as lost. Returns those spans."""
        self.ended_ns = ended_ns
        lost = list(self.open.values())
        self.open.clear()
        rows = np.zeros(len(lost), dtype=ROOT)
        for index, span in enumerate(lost):
            claim_ns = span.competes_from(admits=self.admits)
            row = rows[index]
            row["start_ns"] = span.seen_ns if claim_ns is None else min(claim_ns, span.seen_ns)
            row["end_ns"] = span.seen_ns
            row["first_token_ns"] = span.first_token_ns
            row["number"], row["ring"], row["entity"] = span.number, self.key, span.entity
            row["category"] = int(span.kind.category)
            row["applied"] = span.claim_ns is not None
            if span.kind is SpanKind.STEP:
                self.lost.add(span.number)
        self.pending = np.concatenate([self.pending, rows])
        return lost

    def _absorb_phases(self, decoded: Decoded) -> None:
        records = decoded.records
        inner = np.flatnonzero((records["parent"] != 0) | (decoded.kind == int(SpanKind.PHASE)))
        for index in inner.tolist():
            record = records[index]
            number, parent = int(record["number"]), int(record["parent"])
            below = self._children.pop(number, [])
            phase = Phase(int(decoded.phase[index]))
            if phase is not Phase.NONE:
                clock = PhaseClock(int(decoded.clock[index]))
                start_ns, end_ns = int(record["start_ns"]), int(record["end_ns"])
                below.append(PhaseSlice(phase, start_ns, end_ns, number, clock))
            if below:
                self._children.setdefault(parent, []).extend(below)
        while len(self._children) > MAX_OPEN_PHASES:
            del self._children[next(iter(self._children))]

    def restore_phase(self, number: int, parent: int, piece: PhaseSlice) -> None:
        """A phase from the ledger, after a restart: inner ones (larger numbers) first."""
        below = self._children.pop(number, [])
        self._children.setdefault(parent, []).extend([*below, piece])

    def _note_start(self, start_ns: int) -> None:
        if self.first_root_ns is None:
            self.first_root_ns = start_ns
            if self.process_start_ns is not None and self.process_start_ns < start_ns:
                self.gaps.append(self._gap(self.process_start_ns, start_ns, Category.STARTUP))

    def _note_steps(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        order = np.argsort(starts, kind="stable")
        for start_ns, end_ns in zip(starts[order].tolist(), ends[order].tolist(), strict=True):
            self._note_gap(start_ns)
            self.last_step_end_ns = max(end_ns, self.last_step_end_ns or end_ns)

    def _note_gap(self, start_ns: int) -> None:
        last_ns = self.last_step_end_ns
        if last_ns is not None and last_ns < start_ns:
            self.gaps.append(self._gap(last_ns, start_ns, Category.BETWEEN_STEPS))
            self.last_step_end_ns = start_ns

    def _gap(self, start_ns: int, end_ns: int, category: Category) -> Gap:
        return Gap(Spanless(start_ns, end_ns, category, self.group or 0, self.run_entity, ""))

    # -- what settlement asks -------------------------------------------------------------------
    def bind(self, group: int) -> None:
        """The devices are known (or known better): they hold for all that is not charged yet."""
        self.group = group
        self.pending["group"] = group
        for gap in self.gaps:
            gap.claim = gap.claim._replace(group=group)

    def roots(self) -> NDArray[np.void]:
        """Ended and open roots as columns, with the ring's group."""
        rows = np.zeros(len(self.open), dtype=ROOT)
        count = 0
        for span in self.open.values():
            claim_ns = span.competes_from(admits=self.admits)
            if claim_ns is None or claim_ns >= span.seen_ns:
                continue
            row = rows[count]
            row["start_ns"], row["end_ns"] = claim_ns, span.seen_ns
            row["first_token_ns"], row["number"] = span.first_token_ns, span.number
            row["entity"], row["category"] = span.entity, int(span.kind.category)
            row["open"], row["applied"] = True, span.claim_ns == claim_ns
            if span.claim_ns is not None and span.claim_ns != claim_ns:
                self.withdrawn[span.number] = span.claim_ns
            count += 1
        rows = rows[:count]
        rows["ring"] = self.key
        roots = np.concatenate([self.pending, rows])
        roots["group"] = self.group or 0
        for loss in self.losses:
            roots["incomplete"] |= (roots["start_ns"] < loss.end_ns) & (
                roots["end_ns"] > loss.start_ns
            )
        return roots

    def slices(self, number: int) -> list[PhaseSlice]:
        """The phases of a root that are known so far."""
        return self._children.get(number, [])

    def settled(self, settled_ns: int) -> None:
        """Committed up to `settled_ns`: forget what is charged, remember what is under way."""
        done = self.pending["end_ns"] <= settled_ns
        for number in self.pending["number"][done].tolist():
            self._children.pop(number, None)
            self.lost.discard(number)
        self.pending = self.pending[~done]
        self.pending["applied"] |= self.pending["start_ns"] < settled_ns
        self.gaps = [gap for gap in self.gaps if gap.claim.end_ns > settled_ns]
        for gap in self.gaps:
            gap.applied |= gap.claim.start_ns < settled_ns
        self.withdrawn.clear()
        self.losses = [loss for loss in self.losses if loss.end_ns > settled_ns]
        for span in self.open.values():
            claim_ns = span.competes_from(admits=self.admits)
            span.claim_ns = claim_ns if claim_ns is not None and claim_ns < settled_ns else None

    def resume(self) -> tuple[int | None, int | None]:
        """(first root, end of the last step) from which a restart finds the same gaps again."""
        first_ns, last_ns = self.first_root_ns, self.last_step_end_ns
        for gap in reversed(self.gaps):
            if gap.claim.category is Category.STARTUP:
                first_ns = None
            else:
                last_ns = gap.claim.start_ns
        return first_ns, last_ns

    def holds(self) -> bool:
        """Does its process still live (and so hold its devices)?"""
        return self.ended_ns is None
