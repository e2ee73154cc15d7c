"""An engine's iterations with their batches, and those of all engines together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.cost.methods.iteration_share import PART_BITS, Batches
from apportion.cost.methods.trace import Trace
from apportion.cost.methods.two_part import two_part_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.merged_iterations import MergedIterations
    from apportion.cost.methods.roofline import Roofline
    from apportion.cost.methods.trace import Iterations
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]


TOLD_LATE_NS: Final = 10_000_000_000
"""No server hears of its engine so late."""


class EngineBatches(NamedTuple):
    """What one engine adds to `Batches`."""

    begun_ns: Column
    end_ns: Column
    owner: Column
    key: Column
    part: Column
    is_prefill: NDArray[np.bool_]
    known: Column
    by_id: Column

    @classmethod
    def of(
        cls,
        merged: MergedIterations,
        iterations: Iterations,
        trace: Trace,
        places: Column,
        exact: NDArray[np.bool_],
        roofline: Roofline,
    ) -> EngineBatches:
        """Each iteration's batch, divided as by `roofline-two-part/1`; `places` are -1 beside.

        `exact` are the requests of `trace` whose iterations are known by id.
        """
        owner, request = iterations.owner, iterations.request
        parts = two_part_s(iterations, roofline)
        total = np.bincount(owner, parts, minlength=merged.size)
        fixed = np.rint(parts / total[owner] * (1 << PART_BITS)).astype(np.int64)
        middle_ns = iterations.start_ns + (iterations.end_ns - iterations.start_ns) // 2
        is_prefill = middle_ns[owner] < trace.first_token_ns[request]
        mine = places[request] >= 0
        return cls(
            # The first one of a spell does not begin with the end of the spell before.
            np.maximum(merged.begun_ns, iterations.start_ns),
            merged.counts.end_ns,
            owner[mine],
            places[request][mine],
            np.maximum(fixed, 1)[mine],
            is_prefill[mine],
            places[places >= 0],
            places[exact],
        )


def joined(engines: Sequence[EngineBatches]) -> Batches:
    """Of at least one engine."""
    columns = zip(*engines, strict=True)
    begun, end, owner, key, part, prefill, known, by_id = (list(each) for each in columns)
    sizes = np.cumsum([0, *(each.size for each in begun)])[:-1].tolist()
    return Batches(
        np.repeat(np.arange(len(engines)), [each.size for each in begun]),
        np.concatenate(begun),
        np.concatenate(end),
        np.concatenate([each + size for each, size in zip(owner, sizes, strict=True)]),
        np.concatenate(key),
        np.concatenate(part),
        np.concatenate(prefill),
        np.sort(np.concatenate(known)),
        np.unique(np.concatenate(by_id)),
    )


def as_it_ran(spans: Roots, batches: Batches, settled_ns: Callable[[int], int]) -> Roots:
    """`spans` with the time of all batches that their engine wrote them down in.

    A server hears of its engine late, and on a busy machine by more than an iteration: who was in
    one does not depend on that. `settled_ns(group)` is how far devices are settled: what has ended
    stays ended there, or its charge would wait for ever.
    """
    places, since_ns, until_ns = batches.ran()
    if not places.size:
        return spans
    rows = spans.copy()
    # What changed its devices while it ran has a row for each of them, cut where it did.
    names = rows["ring"].astype(np.int64) << 40 | rows["number"]
    _, which, often = np.unique(names, return_inverse=True, return_counts=True)
    once = often[which[places]] == 1
    places, since_ns, until_ns = places[once], since_ns[once], until_ns[once]
    start_ns, end_ns = rows["start_ns"][places], rows["end_ns"][places]
    edges_ns = {group: settled_ns(group) for group in np.unique(rows["group"][places]).tolist()}
    edge_ns = np.array([edges_ns[group] for group in rows["group"][places].tolist()], np.int64)
    rows["start_ns"][places] = np.minimum(start_ns, np.maximum(since_ns, start_ns - TOLD_LATE_NS))
    until_ns = np.minimum(until_ns, np.minimum(edge_ns, end_ns + TOLD_LATE_NS))
    rows["end_ns"][places] = np.maximum(end_ns, until_ns)
    return rows


def trace_of(rows: Roots) -> Trace:
    """Requests by start; one without a first token is all prefill."""
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
