"""The iterations of inference engines that are not settled yet, and the batches that follow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.merged_iterations import (
    ITERATION,
    NO_ITERATIONS,
    MergedIterations,
    iterations_of,
)
from apportion.agent.pipeline.reapportion import MAX_ROOTS, charged_roots
from apportion.agent.pipeline.ring_state import NO_ROOTS
from apportion.core.category import Category, SpanKind
from apportion.cost.methods.counts import rebuilt
from apportion.cost.methods.iteration_share import PART_BITS, Batches
from apportion.cost.methods.names import BY_NEED, Method
from apportion.cost.methods.trace import Trace
from apportion.cost.methods.two_part import two_part_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.merged_iterations import Iterations
    from apportion.agent.pipeline.needs import RequestNeeds
    from apportion.agent.pipeline.registry import Registry
    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.ledger.batch import LedgerState, Row, TickBatch
    from apportion.cost.ledger.history import History, RootRow
    from apportion.cost.methods.roofline import Roofline
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]

_UNBOUND_NS: Final = 600_000_000_000
"""Iterations of a ring whose devices are not known are kept for so long."""


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
        self._parts: dict[int, list[Iterations]] = {}
        self._beside: dict[Server, Roots] = {}
        self._settled: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._methods: dict[str | None, Method] = {}
        self._unsaved: dict[int, list[tuple[int, Iterations]]] = {}
        for ring, _, _, values in state.tables.get("iteration", []):
            self._parts.setdefault(ring, []).append(_of_json(values))

    def absorb(self, ring: int, records: NDArray[np.void], anchor_ns: int) -> None:
        """Ring records of iterations; node time is the ring's plus `anchor_ns`."""
        rows = iterations_of(records, anchor_ns)
        self._parts.setdefault(ring, []).append(rows)
        self._unsaved.setdefault(ring, []).append((int(records["sequence"].min()), rows))
        late = int((rows["end_ns"] <= self._settled.get(ring, 0)).sum())
        self.counters.in_time += rows.size - late
        self.counters.late += late

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
        if not found:
            return None
        columns = zip(*found, strict=True)
        engine, begun, end, owner, key, part, prefill, known = (list(each) for each in columns)
        sizes = np.cumsum([0, *(each.size for each in begun)])[:-1].tolist()
        return Batches(
            np.repeat(np.arange(len(engine)), [each.size for each in begun]),
            np.concatenate(begun),
            np.concatenate(end),
            np.concatenate([each + size for each, size in zip(owner, sizes, strict=True)]),
            np.concatenate(key),
            np.concatenate(part),
            np.concatenate(prefill),
            np.sort(np.concatenate(known)),
        )

    def _of_server(
        self,
        server: Server,
        rings: Sequence[RingState],
        roots: Roots,
        needs: RequestNeeds,
        history: History,
    ) -> _Columns | None:
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
        trace, places = _trace(rows[order]), places[order]
        covered = merged.cover(trace.start_ns, trace.finish_ns) & (places >= 0)
        roots["method"][places[covered]] = int(Method.ROOFLINE_COUNTS)
        return _shared(merged, trace, places, roofline)

    def _servers(self, rings: Sequence[RingState]) -> dict[Server, list[RingState]]:
        servers: dict[Server, list[RingState]] = {}
        if self._parts:
            for ring in rings:
                if ring.group is not None:
                    servers.setdefault(Server(ring.group, self._workload(ring)), []).append(ring)
        return servers

    def _engines(self, rings: Sequence[RingState]) -> dict[int, MergedIterations]:
        parts = [part for ring in rings for part in self._parts.get(ring.key, [])]
        rows = np.concatenate([NO_ITERATIONS, *parts])
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
            joined = np.concatenate([part for _, part in parts])
            rows.append((ring, first, int(joined["end_ns"].max()), _to_json(joined)))
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
        for server, mine in self._servers(rings).items():
            if not any(ring.key in self._parts for ring in mine):
                continue
            charged_ns = settled_ns(server.group)
            own = roots[_requests(roots, server, mine)]
            alive = own["open"] | (own["end_ns"] > charged_ns)
            keep_ns = int(own["start_ns"][alive].min(initial=charged_ns))
            beside = np.concatenate([self._beside.get(server, NO_ROOTS), own[~alive]])
            beside = beside[beside["end_ns"] > keep_ns]
            _, first = np.unique(_names(beside), return_index=True)
            self._beside[server] = beside[first]
            self._count(mine, charged_ns)
            for ring in mine:
                self._forget(ring.key, keep_ns, charged_ns)
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
        rows = np.concatenate(parts)
        keep = rows["end_ns"] > keep_ns
        # The last one before: what follows begins where it ends.
        for engine in np.unique(rows["engine"][~keep]).tolist():
            older = np.flatnonzero(~keep & (rows["engine"] == engine))
            keep[older[np.argmax(rows["end_ns"][older])]] = True
        self._parts[ring] = [rows[keep]]
        if not keep.all():
            self._done[ring] = int(rows["end_ns"][keep].min()) - 1


class _Columns(NamedTuple):
    """What one engine adds to `Batches`."""

    engine: int
    begun_ns: Column
    end_ns: Column
    owner: Column
    key: Column
    part: Column
    is_prefill: NDArray[np.bool_]
    known: Column


def _shared(merged: MergedIterations, trace: Trace, places: Column, roofline: Roofline) -> _Columns:
    """The batch of each iteration, divided as by `roofline-counts/1`; `places` are -1 beside."""
    iterations = rebuilt(trace, merged.counts)
    owner, request = iterations.owner, iterations.request
    parts = two_part_s(iterations, roofline)
    total = np.bincount(owner, parts, minlength=merged.size)
    fixed = np.rint(parts / total[owner] * (1 << PART_BITS)).astype(np.int64)
    middle_ns = iterations.start_ns + (iterations.end_ns - iterations.start_ns) // 2
    is_prefill = middle_ns[owner] < trace.first_token_ns[request]
    mine = places[request] >= 0
    return _Columns(
        0,
        merged.begun_ns,
        merged.counts.end_ns,
        owner[mine],
        places[request][mine],
        np.maximum(fixed, 1)[mine],
        is_prefill[mine],
        places[places >= 0],
    )


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


def _trace(rows: Roots) -> Trace:
    told = rows["first_token_ns"] > 0
    start_ns, end_ns = rows["start_ns"], rows["end_ns"]
    token_ns = np.clip(np.where(told, rows["first_token_ns"], end_ns), start_ns, end_ns)
    return Trace(
        ("",) * rows.size,
        start_ns.copy(),
        token_ns,
        end_ns.copy(),
        rows["input_tokens"].copy(),
        np.minimum(rows["cached_input_tokens"], rows["input_tokens"]),
        rows["output_tokens"].copy(),
    )


def _names(roots: Roots) -> Column:
    """Each root as one number."""
    names: Column = roots["ring"].astype(np.int64) << 40 | roots["number"]
    return names


def _to_json(rows: Iterations) -> str:
    columns = [rows[name].tolist() for name in ITERATION.names or ()]
    return json.dumps(columns, separators=(",", ":"))


def _of_json(values: str) -> Iterations:
    columns = json.loads(values)
    rows = np.zeros(len(columns[0]), ITERATION)
    for name, column in zip(ITERATION.names or (), columns, strict=True):
        rows[name] = column
    return rows
