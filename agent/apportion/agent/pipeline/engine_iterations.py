"""The iterations of inference engines that are not settled yet, and the batches that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.pipeline.engine_batches import EngineBatches, joined, trace_of
from apportion.agent.pipeline.engine_records import EngineRecords
from apportion.agent.pipeline.merged_iterations import MergedIterations
from apportion.agent.pipeline.ring_state import NO_ROOTS
from apportion.agent.pipeline.scheduled import members_of, request_ids
from apportion.agent.pipeline.serving_engine import (
    ServingEngine,
    charged_beside,
    requests_of,
    unplaced,
)
from apportion.agent.pipeline.untold_requests import UntoldRequests
from apportion.cost.methods.counts import rebuilt_beside
from apportion.cost.methods.names import BY_NEED, Method

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.needs import RequestNeeds
    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.ledger.history import History
    from apportion.cost.methods.iteration_share import Batches
    from apportion.cost.methods.roofline import Roofline
    from apportion.cost.methods.trace import Trace
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]

_UNBOUND_NS: Final = 600_000_000_000
"""Iterations of a ring whose devices are not known are kept for so long."""
MOST_MEMBERS: Final = 2_000_000
"""Of batches that are divided at once, or memory would run short: more are divided by windows. A
server with 256 requests in each of 50 iterations a second comes to it in two and a half minutes."""
_EVER_NS: Final = 1 << 62


@dataclass(slots=True)
class IterationCounters:
    """Since the process started. `late` ones came when their time was settled already."""

    in_time: int = 0
    late: int = 0
    missing: int = 0


class EngineIterations:
    """Iterations by ring, as long as settlement may need them.

    A request that is served across the watermark shared iterations with others that are charged
    and forgotten; they are remembered here, so that where a tick cuts time changes nothing.
    """

    def __init__(self, state: LedgerState, registry: Registry) -> None:
        self._registry = registry
        self.counters = IterationCounters()
        self._parts: dict[int, list[EngineRecords]] = {}
        self._beside: dict[ServingEngine, Roots] = {}
        self._charged: dict[ServingEngine, int] = {}
        self._settled: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._methods: dict[str | None, Method] = {}
        self._unsaved: dict[int, list[tuple[int, EngineRecords]]] = {}
        self.untold = UntoldRequests()
        self._exact = False
        self._ids: dict[int, bytes] = {}
        for ring, _, _, values in state.tables.get("iteration", []):
            self._keep(ring, EngineRecords.of_json(values))

    def absorb(self, ring: int, records: NDArray[np.void], anchor_ns: int) -> None:
        """Ring records of engines; node time is the ring's plus `anchor_ns`."""
        part = EngineRecords.of(records, anchor_ns)
        self._keep(ring, part)
        self.untold.iterated(ring, part.iterations)
        self._unsaved.setdefault(ring, []).append((int(records["sequence"].min()), part))
        late = int((part.iterations["end_ns"] <= self._settled.get(ring, 0)).sum())
        self.counters.in_time += part.iterations.size - late
        self.counters.late += late

    def name(self, ring: int, records: NDArray[np.void]) -> None:
        """Ring records of spans: their ids, by which engines in exact mode know them."""
        if self._exact:
            names = names_of(ring, records["number"]).tolist()
            self._ids.update(zip(names, request_ids(records).tolist(), strict=True))

    def _keep(self, ring: int, part: EngineRecords) -> None:
        self._parts.setdefault(ring, []).append(part)
        self._exact |= bool(part.iterations["exact"].any())

    def servers(self, rings: Sequence[RingState]) -> dict[str, int]:
        """How many workloads of `rings` there are by the method that their requests have."""
        names = {self._workload(ring) for ring in rings}
        known = [method for name, method in self._methods.items() if name in names]
        return {method.label: known.count(method) for method in BY_NEED}

    def batches(
        self, roots: Roots, rings: Sequence[RingState], needs: RequestNeeds, history: History
    ) -> Batches | None:
        """Who shared each iteration, where it is known; `method` of those requests is set.

        `roots` are those of the bound `rings`, with what `needs` told of them; members' keys are
        their places in it.
        """
        engines = self._engines(rings)
        found = [
            batches
            for engine, told in engines.items()
            if (batches := self._of_engine(engine, told, engines, rings, roots, needs, history))
        ]
        return joined(found) if found else None

    def _of_engine(
        self,
        engine: ServingEngine,
        told: EngineRecords,
        engines: Collection[ServingEngine],
        rings: Sequence[RingState],
        roots: Roots,
        needs: RequestNeeds,
        history: History,
    ) -> EngineBatches | None:
        rings = self._rings_of(engine, rings)
        here = requests_of(roots, engine, engines, rings)
        closed = here[~roots["open"][here] & ~roots["held"][here]]
        roofline = _roofline(engine.group, roots[closed], needs)
        if roofline is None:
            return None
        merged = _merged(told)
        beside = self._beside.get(engine)
        if beside is None:  # the first time in this process
            beside = charged_beside(roots[here], engine, engines, rings, history)
        beside = beside[~np.isin(_names(beside), _names(roots[closed]))]
        rows = np.concatenate([beside, roots[closed]])
        places = np.concatenate([np.full(beside.size, -1), closed])
        order = np.lexsort((rows["number"], rows["ring"], rows["start_ns"]))
        trace, places = trace_of(rows[order]), places[order]
        ends_ns = merged.counts.end_ns
        since = int(np.searchsorted(ends_ns, self._charged.get(engine, 0), side="right"))
        edges = (np.searchsorted(ends_ns, times) for times in (trace.start_ns, trace.finish_ns))
        first, last = (np.maximum(each, since) for each in edges)
        if int((last - first).sum()) > MOST_MEMBERS:
            return None
        known = np.zeros((0, 4), np.int64)
        if told.turns.size:
            names = _names(rows[order])
            ids = self._ids_of(names, rings, trace, history)
            known = members_of(told.turns, merged, trace, ids, most=MOST_MEMBERS)
        iterations = rebuilt_beside(trace, merged.counts, known, since)
        covered = merged.cover(trace.start_ns, trace.finish_ns) & (places >= 0)
        exact = covered & np.isin(np.arange(trace.size), known[:, 1])
        for chosen, method in (
            (covered, Method.ROOFLINE_COUNTS),
            (exact, Method.ROOFLINE_TWO_PART),
        ):
            # One that was in several engines has the best that any of them says.
            mine = places[chosen]
            roots["method"][mine] = np.maximum(roots["method"][mine], int(method))
        batches = EngineBatches.of(merged, iterations, trace, places, exact, roofline)
        # Of those whose engine nobody knows, these needed nothing of any.
        others = unplaced(roots, engine, rings)
        idle = others[~roots["open"][others] & (_tokens(roots[others]) == 0)]
        return batches._replace(known=np.union1d(batches.known, idle))

    def _ids_of(
        self, names: Column, rings: Sequence[RingState], trace: Trace, history: History
    ) -> list[bytes | None]:
        """The ids of requests; those that an earlier process read are in the ledger."""
        if any(name not in self._ids for name in names.tolist()):
            period = (int(trace.start_ns.min()), int(trace.finish_ns.max()) + 1)
            found = history.request_ids([ring.key for ring in rings], *period)
            for (ring, number), text in found.items():
                self._ids.setdefault(_name(ring, number), (text or "").encode())
        return [self._ids.get(name) or None for name in names.tolist()]

    def _engines(self, rings: Sequence[RingState]) -> dict[ServingEngine, EngineRecords]:
        """What `rings` told of each engine, those whose devices are known."""
        found: dict[ServingEngine, list[EngineRecords]] = {}
        for ring in rings:
            if ring.group is None or ring.key not in self._parts:
                continue
            told = EngineRecords.joined(self._parts[ring.key])
            for number in told.engines:
                group = ring.group_of(number)
                if group is not None:
                    engine = ServingEngine(group, self._workload(ring), number)
                    found.setdefault(engine, []).append(told.of_engine(number))
        return {engine: EngineRecords.joined(parts) for engine, parts in found.items()}

    def _rings_of(self, engine: ServingEngine, rings: Sequence[RingState]) -> list[RingState]:
        """Those whose requests may be in it, and those that told of it."""
        return [
            ring
            for ring in rings
            if self._workload(ring) == engine.workload
            and ring.group_of(engine.engine) == engine.group
        ]

    # -- what is committed -----------------------------------------------------------------------
    def write(self, batch: TickBatch) -> None:
        """Add what was read since the last commit."""
        rows: list[Row] = []
        for ring, parts in self._unsaved.items():
            first = min(sequence for sequence, _ in parts)
            joined = EngineRecords.joined([part for _, part in parts])
            rows.append((ring, first, joined.end_ns, joined.to_json()))
        batch.insert("iteration", rows)
        batch.iterations_before.update(self._done)

    def committed(
        self,
        roots: Roots,
        rings: Sequence[RingState],
        settled_ns: Callable[[int], int],
        limit_ns: int,
    ) -> None:
        """What `write` added is in the ledger, and each group is settled to `settled_ns(group)`.

        Iterations from the start of the oldest request on that is not charged to its end are kept.
        """
        self._unsaved, self._done = {}, {}
        self._note_methods(roots, rings)
        if not self._parts:
            return
        for gone in self._parts.keys() - {ring.key for ring in rings}:
            self._done[gone] = _EVER_NS
            self.untold.forget(gone)
            del self._parts[gone]
        needed: set[int] = set()
        engines = self._engines(rings)
        edges: dict[int, tuple[int, int]] = {}
        for engine, told in engines.items():
            mine = self._rings_of(engine, rings)
            charged_ns = settled_ns(engine.group)
            others = unplaced(roots, engine, mine)
            waiting = others[roots["open"][others]]
            own = roots[np.concatenate([requests_of(roots, engine, engines, mine), waiting])]
            # One that is settled while it runs, without its tokens, is in no batch later either.
            alive = ~own["held"] & (own["open"] | (own["end_ns"] > charged_ns))
            keep_ns = int(own["start_ns"][alive].min(initial=charged_ns))
            done = own[~own["held"] & ~alive]
            beside = np.concatenate([self._beside.get(engine, NO_ROOTS), done])
            beside = beside[beside["end_ns"] > keep_ns]
            needed.update(_names(beside).tolist(), _names(own[alive]).tolist())
            _, first = np.unique(_names(beside), return_index=True)
            self._beside[engine] = beside[first]
            self._count(engine, told, charged_ns)
            for ring in mine:
                before = edges.get(ring.key, (keep_ns, charged_ns))
                edges[ring.key] = (min(keep_ns, before[0]), min(charged_ns, before[1]))
        for key, both in edges.items():
            self._forget(key, *both)
        for engine in self._beside.keys() - engines.keys():
            del self._beside[engine], self._charged[engine]
        self._ids = {name: self._ids[name] for name in needed & self._ids.keys()}
        for ring in rings:
            if ring.group is None and ring.key in self._parts:
                self._forget(ring.key, limit_ns - _UNBOUND_NS, limit_ns - _UNBOUND_NS)

    def _note_methods(self, roots: Roots, rings: Sequence[RingState]) -> None:
        closed = roots[~roots["open"] & np.isin(roots["method"], BY_NEED)]
        by_key = {ring.key: ring for ring in rings}
        found = np.unique(closed["ring"].astype(np.int64) << 8 | closed["method"])
        for code in found.tolist():  # the best of each ring comes last
            if code >> 8 in by_key:
                self._methods[self._workload(by_key[code >> 8])] = Method(code & 0xFF)

    def _workload(self, ring: RingState) -> str | None:
        return self._registry.entities.value(ring.run_entity).workload

    def _count(self, engine: ServingEngine, told: EngineRecords, charged_ns: int) -> None:
        """Count what is missing of what was settled now."""
        before_ns = self._charged.get(engine, 0)
        merged = _merged(told)
        fresh = (merged.counts.end_ns > before_ns) & (merged.counts.end_ns <= charged_ns)
        self.counters.missing += int(merged.missing[fresh].sum())
        self._charged[engine] = max(charged_ns, before_ns)

    def _forget(self, ring: int, keep_ns: int, charged_ns: int) -> None:
        self._settled[ring] = max(charged_ns, self._settled.get(ring, 0))
        parts = self._parts.get(ring)
        if parts is None:
            return
        before = EngineRecords.joined(parts)
        kept = before.after(keep_ns)
        self._parts[ring] = [kept]
        if kept.first_needed_ns() > before.first_needed_ns():
            self._done[ring] = kept.first_needed_ns() - 1


def _merged(told: EngineRecords) -> MergedIterations:
    """Where some are known by id, those alone: the others are the same again."""
    rows = told.iterations
    exact = rows["exact"] > 0
    return MergedIterations.of([rows[exact] if exact.any() else rows])


def _tokens(requests: Roots) -> Column:
    tokens: Column = requests["input_tokens"] + requests["output_tokens"]
    return tokens


def _roofline(group: int, requests: Roots, needs: RequestNeeds) -> Roofline | None:
    """Of the one model that all of them ask, on a device group; None where there are several."""
    entities = np.unique(requests["entity"]).tolist()
    found = {needs.roofline(group, entity) for entity in entities}
    return found.pop() if len(found) == 1 else None


def _names(roots: Roots) -> Column:
    return names_of(roots["ring"], roots["number"])


def names_of(ring: Column | int, number: Column) -> Column:
    """Each root as one number."""
    names: Column = np.int64(ring) << 40 | number.astype(np.int64)
    return names


def _name(ring: int, number: int) -> int:
    return ring << 40 | number
