"""One ring as settlement sees it: what ended, what runs, what lies between, on which devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.root_phases import RootPhases
from apportion.agent.pipeline.spans import Decoded, is_root, roots_of
from apportion.agent.pipeline.step_gaps import step_gaps
from apportion.agent.pipeline.step_progress import StepProgress
from apportion.core.category import Category, SpanKind
from apportion.core.interval import Interval, union
from apportion.cost.settlement.work import ROOT, Roots, joined, picked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.open_root import OpenRoot
    from apportion.agent.pipeline.server_engines import ServerEngines

MOST_LOSSES: Final = 64
"""More stretches of lost records are taken for one: rather too much is called incomplete."""
_ALWAYS_NS: Final = 1 << 62
NO_ROOTS: Final = np.zeros(0, dtype=ROOT)


class Spell(NamedTuple):
    """From when to when a ring used a device group. The first one holds for all time before."""

    since_ns: int
    until_ns: int
    group: int


@dataclass(slots=True)
class RingState:
    """Everything settlement knows about one ring; it is unbound while `bindings` is empty.

    `bindings` are (since ns, group) in order of time. `startup_end_ns` is the start of the first
    root span, or when the process said that it was ready. `steps_end_ns` is the end of the last
    step that is charged and forgotten. Requests from sequence `admits_from` on say when they are
    scheduled; None while none did.
    """

    key: int
    run_entity: int
    attached_ns: int
    pid: int
    process_start_ns: int | None = None
    rank: int | None = None
    restart_count: int | None = None
    flops_per_token: int | None = None
    """What training a token takes, where its process says so."""
    is_member: bool = False
    """It computes for requests that another process of its run reports, and has no spans."""
    engines: ServerEngines | None = None
    """Those that it asks for its requests, or the one that it is; None where it says nothing."""
    ended_ns: int | None = None
    closed: bool = False
    """Its process said that it ended; else it was seen dead."""
    startup_end_ns: int | None = None
    startup_applied: bool = False
    steps_end_ns: int | None = None
    admits_from: int | None = None
    next_sequence: int = 1
    unapplied: bool = False
    """The ledger has spans of it that its devices were not settled with: it was unbound."""
    recalled: bool = True
    """What is in the ledger and not charged to its end is here too."""
    bindings: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    open: dict[int, OpenRoot] = field(default_factory=dict[int, "OpenRoot"])
    lost: set[int] = field(default_factory=set[int])
    """Steps that were open when the process died and are not charged to their end."""
    progress: StepProgress = field(default_factory=StepProgress)
    losses: list[Interval] = field(default_factory=list["Interval"])
    phases: RootPhases = field(default_factory=RootPhases)
    _engine_groups: dict[int, Sequence[int]] = field(default_factory=dict[int, "Sequence[int]"])
    _ended: list[Roots] = field(default_factory=list[Roots])

    # -- what arrives --------------------------------------------------------------------------
    def absorb(self, decoded: Decoded) -> None:
        """Take records in the order of their sequence."""
        self.phases.absorb(decoded)
        self.progress.ended(decoded)
        records = decoded.records
        sequences = records["sequence"].astype(np.int64)
        if self.admits_from is None and (records["scheduled_ns"] > 0).any():
            self.admits_from = int(sequences.min())
        self.next_sequence = max(self.next_sequence, int(sequences.max()) + 1)
        chosen = is_root(decoded)
        if not chosen.any():
            return
        after = _ALWAYS_NS if self.admits_from is None else self.admits_from
        roots = roots_of(decoded, chosen, self.key, admits=sequences >= after)
        self.started(int(records["start_ns"][chosen].min()))
        if self.open:
            known = np.fromiter(self.open, np.int64, len(self.open))
            for index in np.flatnonzero(np.isin(roots["number"], known)).tolist():
                span = self.open.pop(int(roots["number"][index]))
                roots["applied_start_ns"][index] = span.applied_start_ns
                roots["applied_end_ns"][index] = span.applied_end_ns
                roots["held"][index] = span.held
                # A step that was taken back ends as another kind: what it had it had as a step.
                roots["category"][index] = int(span.kind.category)
                roots["step"][index] = span.kind is SpanKind.STEP
        self._ended.append(roots)

    def observe(self, seen: Iterable[OpenRoot]) -> None:
        """The open root spans of a poll. A ring whose process ended has none."""
        if self.ended_ns is not None:
            return
        for span in seen:
            known = self.open.get(span.number)
            if known is None:
                self.progress.began(span)
                self.open[span.number] = span
                self.started(span.start_ns)
            else:
                known.go_on(span)
            if span.scheduled_ns and self.admits_from is None:
                self.admits_from = self.next_sequence

    def started(self, start_ns: int) -> None:
        """Start-up is over: the first root span began, or the process says so."""
        if self.startup_end_ns is None:
            self.startup_end_ns = start_ns

    def die(self, ended_ns: int, *, closed: bool = False) -> list[OpenRoot]:
        """The process is gone: what it had open ends where it was last seen. Returns that."""
        self.ended_ns, self.closed = ended_ns, closed
        ended = [self.vanish(number, incomplete=False) for number in list(self.open)]
        self.lost.update(span.number for span in ended if span.kind is SpanKind.STEP)
        return ended

    def vanish(self, number: int, *, incomplete: bool = True) -> OpenRoot:
        """An open span has no slot any more and its record will not come."""
        span = self.open.pop(number)
        row = _open_rows([span], self.key, admits=self.admits_from is not None)
        row["open"], row["incomplete"] = False, incomplete
        self._ended.append(row)
        return span

    def lose(self, window: Interval) -> None:
        """Records of this time were overwritten: what is charged in it is incomplete."""
        self.losses = union([*self.losses, window])
        if len(self.losses) > MOST_LOSSES:
            self.losses = [Interval(self.losses[0].start_ns, self.losses[-1].end_ns)]

    def losses_after(self, charged_ns: int | None) -> list[Interval]:
        """Those that still matter once what ended up to `charged_ns` is charged; None: nothing.

        A root that ran beside a loss is marked when it is charged, which may be later: its
        devices are settled beyond the loss already, or another agent's for now.
        """
        if charged_ns is None or not self.losses:
            return self.losses
        ended = self.ended()
        starts = ended["start_ns"][ended["end_ns"] > charged_ns].tolist()
        starts += [span.start_ns for span in self.open.values()]
        oldest_ns = min([charged_ns, *starts])
        return [loss for loss in self.losses if loss.end_ns > oldest_ns]

    def restore(self, roots: Roots) -> None:
        """Ended roots from the ledger."""
        self._ended.append(roots)

    def bind(self, since_ns: int, group: int, engines: Sequence[int] = ()) -> None:
        """Its devices are known, or known better from `since_ns` on.

        `engines` are the groups of its engines here, where each has devices of its own.
        """
        self._engine_groups[group] = engines
        self.bindings = [*(old for old in self.bindings if old[0] < since_ns), (since_ns, group)]

    # -- what settlement asks --------------------------------------------------------------------
    @property
    def group(self) -> int | None:
        """The device group it uses now; None while it is unbound."""
        return self.bindings[-1][1] if self.bindings else None

    @property
    def engine_groups(self) -> Sequence[int]:
        """Those that its engines here use now, where each has devices of its own."""
        return self._engine_groups.get(self.group or 0, ())

    def group_of(self, engine: int) -> int | None:
        """The group that an engine uses now, by its index.

        None while the ring is unbound, and of an engine on another host.
        """
        if self.engines is None:
            return self.group
        place, groups = engine - self.engines.first, self.engine_groups
        if engine in self.engines.elsewhere:
            return None
        return groups[place] if 0 <= place < len(groups) else self.group

    @property
    def waits_for_engines(self) -> bool:
        """Whether a request's end may say that it used fewer devices than the ring."""
        engines = self.engines
        return engines is not None and (bool(self.engine_groups) or bool(engines.elsewhere))

    def spells(self) -> Iterator[Spell]:
        """Which group it used when."""
        since_ns = -_ALWAYS_NS
        for index, (_, group) in enumerate(self.bindings):
            is_last = index + 1 == len(self.bindings)
            until_ns = _ALWAYS_NS if is_last else self.bindings[index + 1][0]
            yield Spell(since_ns, until_ns, group)
            since_ns = until_ns

    def ended(self) -> Roots:
        """Ended roots that are not charged to their end."""
        if len(self._ended) != 1:
            self._ended = [joined(self._ended)]
        return self._ended[0]

    def roots(self) -> Roots:
        """Ended and open roots, a row for each group that they used."""
        admits = self.admits_from is not None
        rows = np.concatenate(
            [self.ended(), _open_rows(self.open.values(), self.key, admits=admits)]
        )
        for loss in self.losses:
            met = (rows["start_ns"] < loss.end_ns) & (rows["end_ns"] > loss.start_ns)
            rows["incomplete"] |= met
        return self.by_group(rows)

    def by_group(self, rows: Roots) -> Roots:
        """`rows` (owned by the caller) with their group, cut where the ring changed its group."""
        if len(self.bindings) < 2:
            return self._placed(rows, self.group or 0)
        pieces: list[Roots] = []
        for since_ns, until_ns, group in self.spells():
            piece = rows.copy()
            for name in ("start_ns", "end_ns", "applied_start_ns", "applied_end_ns"):
                piece[name] = np.clip(rows[name], since_ns, until_ns)
            piece = self._placed(piece, group)
            some = piece["start_ns"] < piece["end_ns"]
            some |= piece["applied_start_ns"] < piece["applied_end_ns"]
            pieces.append(piece[some])
        return np.concatenate(pieces)

    def _placed(self, rows: Roots, group: int) -> Roots:
        """`rows` with their group and engine, without those of engines on other hosts.

        A request that runs, or was settled while it ran, has all devices of its server: which
        engine it is in is told with its end.
        """
        rows["group"] = group
        engines = self.engines
        if engines is None:  # how many there are it does not say, but perhaps which one it was
            return rows
        if not engines.several:
            rows["engine"] = 0
            return rows
        requests = (rows["number"] > 0) & (rows["category"] == int(Category.DIRECT)) & ~rows["step"]
        rows["engine"] = np.where(requests, np.where(rows["engine"] > 0, rows["engine"], -1), 0)
        place = rows["engine"] - 1 - engines.first
        known = (rows["engine"] > 0) & ~rows["open"] & ~rows["held"]
        groups = np.array(self._engine_groups.get(group, ()), np.int64)
        here = known & (place >= 0) & (place < groups.size)
        rows["group"][here] = groups[place[here]]
        elsewhere = engines.elsewhere
        gone = known & (rows["engine"] > elsewhere.start) & (rows["engine"] <= elsewhere.stop)
        return picked(rows, ~gone)

    def gaps(self, roots: Roots, before_ns: int | None) -> NDArray[np.int64]:
        """The times between those of `roots` that are steps of it: see `step_gaps`."""
        steps = roots[roots["step"] & (roots["start_ns"] < roots["end_ns"])]
        return step_gaps(steps["start_ns"], steps["end_ns"], before_ns)

    def own_time(self, gaps: NDArray[np.int64], *, startup: bool) -> Roots:
        """Claims of the ring's own time: `gaps` between steps and, where asked, its start-up.

        They are rows beside those of its spans, with number 0.
        """
        rows = np.zeros(len(gaps) + 1, dtype=ROOT)
        rows["entity"] = self.run_entity
        rows["category"] = int(Category.BETWEEN_STEPS)
        rows["start_ns"][:-1], rows["end_ns"][:-1] = gaps[:, 0], gaps[:, 1]
        if startup and self.startup is not None:
            rows["start_ns"][-1], rows["end_ns"][-1] = self.startup
            rows["category"][-1] = int(Category.STARTUP)
        return self.by_group(rows[rows["start_ns"] < rows["end_ns"]])

    @property
    def startup(self) -> tuple[int, int] | None:
        """From the process's start to its first root span; None while unknown or empty."""
        if self.process_start_ns is None or self.startup_end_ns is None:
            return None
        if self.process_start_ns >= self.startup_end_ns:
            return None
        return self.process_start_ns, self.startup_end_ns

    def holds(self, time_ns: int) -> bool:
        """Does its process live then, and so hold its devices?"""
        since_ns = self.process_start_ns if self.process_start_ns is not None else self.attached_ns
        return since_ns <= time_ns and (self.ended_ns is None or time_ns < self.ended_ns)

    def charged_ns(self, settled_ns: Callable[[int], int]) -> int:
        """What ended up to here is charged to its end; `settled_ns(group)` are watermarks."""
        charged_ns = _ALWAYS_NS
        for _, until_ns, group in self.spells():
            edge_ns = settled_ns(group)
            if edge_ns < until_ns:
                charged_ns = min(charged_ns, edge_ns)
        return charged_ns

    def steps_end_at(self, charged_ns: int | None) -> int | None:
        """`steps_end_ns` once what ended up to `charged_ns` is forgotten (None: nothing is)."""
        if charged_ns is None:
            return self.steps_end_ns
        ended = self.ended()
        steps = ended["step"] & (ended["start_ns"] < ended["end_ns"])
        ends = ended["end_ns"][steps & (ended["end_ns"] <= charged_ns)]
        known = [] if self.steps_end_ns is None else [self.steps_end_ns]
        return max([*known, *([int(ends.max())] if ends.size else [])], default=None)

    # -- what was committed ------------------------------------------------------------------------
    def committed(self, charged_ns: int | None) -> int:
        """Everything known so far is in the ledger; what ended up to `charged_ns` is forgotten.

        None: it is unbound, nothing was charged. Returns how many ended roots were unbound.
        """
        ended = self.ended()
        if charged_ns is None:
            self._forget(ended)
            self.unapplied |= bool(ended.size)
            self.recalled = False
            self._ended = []
            return int(ended.size)
        done = ended["end_ns"] <= charged_ns
        self.steps_end_ns = self.steps_end_at(charged_ns)
        self._forget(ended[done])
        rest = ended[~done]
        rest["applied_start_ns"], rest["applied_end_ns"] = rest["start_ns"], rest["end_ns"]
        self._ended = [rest]
        for span in self.open.values():
            span.apply(admits=self.admits_from is not None)
            span.held |= charged_ns > span.applied_start_ns
        self.startup_applied = self.startup_end_ns is not None
        self.unapplied = False
        self.losses = self.losses_after(charged_ns)
        return 0

    def _forget(self, roots: Roots) -> None:
        if len(self.phases) or self.lost:
            numbers = roots["number"].tolist()
            self.phases.forget(numbers)
            self.lost.difference_update(numbers)


def _open_rows(spans: Collection[OpenRoot], ring: int, *, admits: bool) -> Roots:
    rows = np.zeros(len(spans), dtype=ROOT)
    for row, span in zip(rows, spans, strict=True):
        row["start_ns"], row["end_ns"] = span.claim(admits=admits)
        row["applied_start_ns"], row["applied_end_ns"] = span.applied_start_ns, span.applied_end_ns
        row["first_token_ns"], row["number"] = span.first_token_ns, span.number
        row["ring"], row["entity"] = ring, span.entity
        row["category"], row["step"] = int(span.kind.category), span.kind is SpanKind.STEP
        row["open"], row["held"] = True, span.held
        row["begun_ns"] = min(span.waits_since_ns, int(row["start_ns"]))
    return rows
