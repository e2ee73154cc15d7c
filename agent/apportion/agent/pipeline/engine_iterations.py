"""The iterations of inference engines that are not settled yet, and the batches that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.engine_batches import EngineBatches, joined, trace_of
from apportion.agent.pipeline.engine_records import EngineRecords
from apportion.agent.pipeline.merged_iterations import MergedIterations
from apportion.agent.pipeline.reapportion import MAX_ROOTS, charged_roots
from apportion.agent.pipeline.ring_state import NO_ROOTS
from apportion.agent.pipeline.scheduled import NO_TURNS, members_of, request_ids
from apportion.core.category import Category, SpanKind
from apportion.cost.methods.counts import rebuilt_beside
from apportion.cost.methods.names import BY_NEED, Method

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.needs import RequestNeeds
    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.ledger.history import History, RootRow
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


class Server(NamedTuple):
    """The processes of one server: those of a workload on the same devices."""

    group: int
    workload: str | None


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
        self._beside: dict[Server, Roots] = {}
        self._settled: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._methods: dict[str | None, Method] = {}
        self._unsaved: dict[int, list[tuple[int, EngineRecords]]] = {}
        self._exact = False
        self._ids: dict[int, bytes] = {}
        for ring, _, _, values in state.tables.get("iteration", []):
            self._keep(ring, EngineRecords.of_json(values))

    def absorb(self, ring: int, records: NDArray[np.void], anchor_ns: int) -> None:
        """Ring records of engines; node time is the ring's plus `anchor_ns`."""
        part = EngineRecords.of(records, anchor_ns)
        self._keep(ring, part)
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
        found = [
            batches
            for server, mine in self._servers(rings).items()
            if any(ring.key in self._parts for ring in mine)
            and (batches := self._of_server(server, mine, roots, needs, history)) is not None
        ]
        return joined(found) if found else None

    def _of_server(
        self,
        server: Server,
        rings: Sequence[RingState],
        roots: Roots,
        needs: RequestNeeds,
        history: History,
    ) -> EngineBatches | None:
        engines = self._engines(rings)
        here = _requests(roots, server, rings)
        closed = here[~roots["open"][here] & ~roots["held"][here]]
        roofline = _roofline(roots[closed], needs)
        # Which engine of several a request was in nobody says.
        if len(engines) != 1 or roofline is None:
            return None
        (merged,) = engines.values()
        beside = self._beside.get(server)
        if beside is None:  # the first time in this process
            beside = _charged_beside(roots[here], rings, history)
        beside = beside[~np.isin(_names(beside), _names(roots[closed]))]
        rows = np.concatenate([beside, roots[closed]])
        places = np.concatenate([np.full(beside.size, -1), closed])
        order = np.lexsort((rows["number"], rows["ring"], rows["start_ns"]))
        trace, places = trace_of(rows[order]), places[order]
        ends_ns = merged.counts.end_ns
        charged_ns = min(self._settled.get(ring.key, 0) for ring in rings)
        since = int(np.searchsorted(ends_ns, charged_ns, side="right"))
        edges = (np.searchsorted(ends_ns, times) for times in (trace.start_ns, trace.finish_ns))
        first, last = (np.maximum(each, since) for each in edges)
        if int((last - first).sum()) > MOST_MEMBERS:
            return None
        turns = np.concatenate([NO_TURNS, *(part.turns for part in self._all(rings))])
        known = np.zeros((0, 4), np.int64)
        if turns.size:
            names = _names(rows[order])
            ids = self._ids_of(names, rings, trace, history)
            known = members_of(turns, merged, trace, ids, most=MOST_MEMBERS)
        iterations = rebuilt_beside(trace, merged.counts, known, since)
        covered = merged.cover(trace.start_ns, trace.finish_ns) & (places >= 0)
        exact = np.isin(np.arange(trace.size), known[:, 1])
        roots["method"][places[covered]] = int(Method.ROOFLINE_COUNTS)
        roots["method"][places[covered & exact]] = int(Method.ROOFLINE_TWO_PART)
        return EngineBatches.of(merged, iterations, trace, places, roofline)

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

    def _servers(self, rings: Sequence[RingState]) -> dict[Server, list[RingState]]:
        servers: dict[Server, list[RingState]] = {}
        if self._parts:
            for ring in rings:
                if ring.group is not None:
                    servers.setdefault(Server(ring.group, self._workload(ring)), []).append(ring)
        return servers

    def _all(self, rings: Sequence[RingState]) -> list[EngineRecords]:
        return [part for ring in rings for part in self._parts.get(ring.key, [])]

    def _engines(self, rings: Sequence[RingState]) -> dict[int, MergedIterations]:
        """By engine; where some are known by id, those alone: the others are the same again."""
        rows = EngineRecords.joined(self._all(rings)).iterations
        if rows["exact"].any():
            rows = rows[rows["exact"] > 0]
        return {
            engine: MergedIterations.of([rows[rows["engine"] == engine]])
            for engine in np.unique(rows["engine"]).tolist()
        }

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
            del self._parts[gone]
        needed: set[int] = set()
        for server, mine in self._servers(rings).items():
            if not any(ring.key in self._parts for ring in mine):
                continue
            charged_ns = settled_ns(server.group)
            own = roots[_requests(roots, server, mine)]
            # One that is settled while it runs, without its tokens, is in no batch later either.
            alive = ~own["held"] & (own["open"] | (own["end_ns"] > charged_ns))
            keep_ns = int(own["start_ns"][alive].min(initial=charged_ns))
            done = own[~own["held"] & ~alive]
            beside = np.concatenate([self._beside.get(server, NO_ROOTS), done])
            beside = beside[beside["end_ns"] > keep_ns]
            needed.update(_names(beside).tolist(), _names(own[alive]).tolist())
            _, first = np.unique(_names(beside), return_index=True)
            self._beside[server] = beside[first]
            self._count(mine, charged_ns)
            for ring in mine:
                self._forget(ring.key, keep_ns, charged_ns)
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

    def _count(self, rings: Sequence[RingState], charged_ns: int) -> None:
        """Count what is missing of what was settled now."""
        before_ns = min((self._settled.get(ring.key, 0) for ring in rings), default=0)
        for merged in self._engines(rings).values():
            ends_ns = merged.counts.end_ns
            fresh = (ends_ns > before_ns) & (ends_ns <= charged_ns)
            self.counters.missing += int(merged.missing[fresh].sum())

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


def _requests(roots: Roots, server: Server, rings: Sequence[RingState]) -> Column:
    """Places of the server's requests that are divided by need."""
    chosen = np.isin(roots["ring"], [ring.key for ring in rings])
    chosen &= (roots["group"] == server.group) & (roots["category"] == int(Category.DIRECT))
    return np.flatnonzero(chosen & np.isin(roots["method"], BY_NEED))


def _charged_beside(requests: Roots, rings: Sequence[RingState], history: History) -> Roots:
    """Requests of `rings` that ran beside `requests`, out of the ledger."""
    if not requests.size:
        return NO_ROOTS
    by_key = {ring.key: ring for ring in rings}
    period = (int(requests["start_ns"].min()), int(requests["end_ns"].max()))
    found = [row for row in history.roots(by_key, *period, most=MAX_ROOTS) if _is_request(row)]
    parts = [
        charged_roots(ring, [row for row in found if row.ring == key])
        for key, ring in by_key.items()
    ]
    return np.concatenate([NO_ROOTS, *parts])


def _is_request(row: RootRow) -> bool:
    return row.kind == SpanKind.REQUEST


def _roofline(requests: Roots, needs: RequestNeeds) -> Roofline | None:
    """Of the one model that all of them ask; None where there are several."""
    pairs = np.unique(requests["group"].astype(np.int64) << 32 | requests["entity"])
    found = {needs.roofline(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()}
    return found.pop() if len(found) == 1 else None


def _names(roots: Roots) -> Column:
    return names_of(roots["ring"], roots["number"])


def names_of(ring: Column | int, number: Column) -> Column:
    """Each root as one number."""
    names: Column = np.int64(ring) << 40 | number.astype(np.int64)
    return names


def _name(ring: int, number: int) -> int:
    return ring << 40 | number
