"""Samples of a process joined with the ledger's spans: in which step or request each was taken.

By process and time for steps, of which a process has one at a time; by thread, too, for requests.
Where several requests are open in one thread, as in a server's event loop, a sample has only the
labels on which all of them agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import and_, select

from apportion.core.category import Category, Phase, PhaseClock, SpanKind
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import boot, entity, ring, span
from apportion.profiles.py_spy import PROCESS
from apportion.profiles.py_spy_events import AT, SEEN, THREAD
from apportion.profiles.rank_stacks import STEP
from apportion.profiles.stacks import Stacks

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.ledger.reader import LedgerReader

REQUEST: Final = "request"
TENANT: Final = "tenant"
MODEL: Final = "model"
PHASE: Final = "phase"
CATEGORY: Final = "category"
"""The label with what a sample's time is in the ledger, by its root span; none without a span."""
_LABELS: Final = (STEP, REQUEST, TENANT, MODEL, PHASE, CATEGORY)
_APART_NS: Final = NS_PER_MINUTE
"""Bursts that are so far apart are looked up one by one."""
_BOOT_ID: Final = re.compile("[0-9a-f]{32}")
Told = Mapping[str, str | None]


class _Sample(NamedTuple):
    """When it was, or is made up to have been, and when its stack was seen; its row; whose."""

    at_ns: int
    seen_ns: int
    row: int
    thread: str | None


@dataclass(frozen=True, slots=True)
class _Span:
    """A row of the ledger, times in node time."""

    number: int
    parent: int
    kind: SpanKind
    phase: Phase
    start_ns: int
    end_ns: int
    first_token_ns: int | None
    step: int | None
    thread_id: int | None
    request: str | None
    tenant: str | None
    model: str | None

    def told(self, phase: Phase) -> Told:
        """What a sample in this root span is labelled with."""
        return {
            STEP: None if self.step is None else str(self.step),
            REQUEST: self.request,
            TENANT: self.tenant,
            MODEL: self.model,
            PHASE: phase.label or None,
            CATEGORY: self.kind.category.label,
        }


def with_spans(stacks: Stacks, ledger: LedgerReader, shift_ns: int = 0) -> Stacks:
    """`stacks` labelled with the step, request, tenant, model, phase and category of each.

    shift_ns: as if each sample had been taken so much later.

    Stacks that do not say when and in which process they were seen stay as they are, and so do
    those of processes that the ledger does not know, or whose spans have not ended yet.
    """
    keys = (PROCESS, AT, SEEN, THREAD)
    samples: dict[str, list[_Sample]] = {}
    for row, (process, at, seen, thread) in enumerate(
        zip(*(stacks.label(key) for key in keys), strict=True)
    ):
        if process is not None and at is not None:
            sample = _Sample(int(at) + shift_ns, int(seen or at) + shift_ns, row, thread)
            samples.setdefault(process, []).append(sample)
    told: list[Told] = [{}] * len(stacks)
    with ledger.read() as connection:
        for process, own in samples.items():
            for place, anchor_ns in _rings(connection, process):
                for burst in _bursts(sorted(own)):
                    first_ns = min(sample.seen_ns for sample in burst) + anchor_ns
                    last_ns = burst[-1].at_ns + anchor_ns
                    spans = _Spans(_spans(connection, place, first_ns, last_ns))
                    for sample in burst:
                        told[sample.row] = spans.told(sample, anchor_ns) or told[sample.row]
    for key in _LABELS:
        known = stacks.label(key)
        stacks = stacks.labelled(
            key, [own.get(key) or before for own, before in zip(told, known, strict=True)]
        )
    return stacks


class _Spans:
    """Spans of one ring, by time."""

    def __init__(self, spans: Sequence[_Span]) -> None:
        self._spans = spans
        self._by_number = {one.number: one for one in spans}
        self._start_ns = np.array([one.start_ns for one in spans], np.int64)
        self._end_ns = np.array([one.end_ns for one in spans], np.int64)

    def told(self, sample: _Sample, anchor_ns: int) -> Told:
        """What all root spans that hold a sample agree on.

        A stack that was not seen again may have been left and come back to: which step it was in
        goes by its own time, what it did there by the time at which it was seen.
        """
        seen = self._at(sample.seen_ns + anchor_ns, sample.thread)
        if sample.seen_ns == sample.at_ns or not seen:
            return seen
        own = self._at(sample.at_ns + anchor_ns, sample.thread) or seen
        return {**own, PHASE: seen.get(PHASE), CATEGORY: seen[CATEGORY]}

    def _at(self, at_ns: int, thread: str | None) -> Told:
        inside = np.flatnonzero((self._start_ns <= at_ns) & (at_ns < self._end_ns)).tolist()
        opened = [self._spans[row] for row in inside]
        roots = [one for one in opened if not one.parent and one.kind is not SpanKind.PHASE]
        of_process = [one for one in roots if one.kind is not SpanKind.REQUEST]
        of_thread = [one for one in roots if thread is not None and str(one.thread_id) == thread]
        meant = [one.told(self._phase(one, opened, at_ns)) for one in of_thread or of_process]
        if meant:
            return {
                key: meant[0][key] if len({each[key] for each in meant}) == 1 else None
                for key in _LABELS
            }
        # requests of other threads: its time is theirs, whichever it is
        return {CATEGORY: Category.DIRECT.label} if roots else {}

    def _phase(self, root: _Span, opened: Sequence[_Span], at_ns: int) -> Phase:
        phases = [one for one in opened if one.kind is SpanKind.PHASE and self._is_in(one, root)]
        if phases:
            return max(phases, key=lambda one: (one.start_ns, one.number)).phase
        if root.first_token_ns is None:
            return Phase.NONE
        return Phase.PREFILL if at_ns < root.first_token_ns else Phase.DECODE

    def _is_in(self, phase: _Span, root: _Span) -> bool:
        above: _Span | None = phase
        for _ in self._spans:  # a hostile ring may have spans that hold each other
            if above is None or above is root:
                break
            above = self._by_number.get(above.parent)
        return above is root


def _rings(connection: Connection, process: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Agent and key of each ring of a process, and what its boot's monotonic clock is behind."""
    own_boot, _, pid = process.partition("/")
    # a ring has the id as the kernel writes it
    spelled = [own_boot, str(UUID(own_boot))] if _BOOT_ID.fullmatch(own_boot) else [own_boot]
    query = (
        select(ring.c.agent_id, ring.c.ring_key, ring.c.identity, boot.c.anchor_ns)
        .join(boot, boot.c.agent_id == ring.c.agent_id)
        .where(boot.c.boot_id == own_boot, ring.c.boot_id.in_(spelled))
    )
    for agent_id, key, identity, anchor_ns in rows(connection, query):
        if str(json.loads(identity).get("pid")) == pid:
            yield (agent_id, key), anchor_ns


def _bursts(samples: Sequence[_Sample]) -> Iterator[list[_Sample]]:
    burst: list[_Sample] = []
    for sample in samples:
        if burst and sample.at_ns - burst[-1].at_ns > _APART_NS:
            yield burst
            burst = []
        burst.append(sample)
    if burst:
        yield burst


def _spans(
    connection: Connection, place: tuple[int, int], first_ns: int, last_ns: int
) -> list[_Span]:
    row: Any = span.c
    columns = (row.number, row.parent, row.kind, row.phase, row.start_ns, row.end_ns)
    facts = (row.first_token_ns, row.step, row.thread_id, row.request_id)
    query = (
        select(*columns, *facts, entity.c.tenant, entity.c.model)
        .outerjoin(
            entity, and_(entity.c.agent_id == row.agent_id, entity.c.entity_key == row.entity_key)
        )
        .where(
            row.agent_id == place[0],
            row.ring_key == place[1],
            row.end_ns > first_ns,
            row.start_ns <= last_ns,
            # what the device did then says nothing of what the CPU did
            row.phase_clock != int(PhaseClock.DEVICE),
        )
    )
    return [
        _Span(number, parent, SpanKind(kind), Phase(phase), *rest)
        for number, parent, kind, phase, *rest in rows(connection, query)
    ]
