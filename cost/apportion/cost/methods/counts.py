"""`roofline-counts/1`: iterations known by counts and end times, as vLLM and SGLang report them.

The batch of each is rebuilt from the requests' own windows: who had a first token and had not
finished decoded one token; who was admitted and had none was in prefill, and got of the
iteration's prefill tokens what was left of its prompt, first come, first served. Then the batch
is divided as by `roofline-two-part/1`.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.cost.methods.engine_time import laid
from apportion.cost.methods.trace import Iterations
from apportion.cost.methods.two_part import by_iteration, two_part_s

if TYPE_CHECKING:
    from apportion.cost.methods.roofline import Roofline
    from apportion.cost.methods.shares import TraceShares
    from apportion.cost.methods.trace import Column, IterationCounts, Trace

NAME: Final = "roofline-counts/1"


def roofline_counts(trace: Trace, counts: IterationCounts, roofline: Roofline) -> TraceShares:
    """Weights by iteration, over batches that are rebuilt."""
    iterations = rebuilt(trace, counts)
    return by_iteration(NAME, trace, iterations, two_part_s(iterations, roofline))


def rebuilt(trace: Trace, counts: IterationCounts) -> Iterations:
    """Iterations with the batches that the requests' windows allow."""
    return rebuilt_beside(trace, counts, np.zeros((0, 4), np.int64))


def rebuilt_beside(
    trace: Trace, counts: IterationCounts, known: Column, since: int = 0
) -> Iterations:
    """The same where some requests' iterations are known by id, and all of theirs.

    `known` are rows (iteration, request, tokens, context), shape (m, 4): what the counts have left
    is divided among the other requests. Iterations before place `since` have no members: they are
    looked at for the prompts that go on after them.

    `elapsed_ns` is a lower bound (an engine that schedules ahead measures less), so iterations
    are laid end to end while requests are in flight.
    """
    start_ns, end_ns = laid(trace, counts.end_ns - counts.elapsed_ns, counts.end_ns)
    # Half of an iteration decides who was in it: stamps of one moment differ by a little.
    middle_ns = start_ns + (np.minimum(end_ns, counts.end_ns) - start_ns) // 2
    others = np.setdiff1d(np.arange(trace.size), known[:, 1])
    table = known
    if others.size:
        rest = trace if others.size == trace.size else trace.take(others)
        left = counts.less(*_counted(trace, counts, middle_ns, known))
        found = np.concatenate(
            [_prefills(rest, left, middle_ns), _decodes(rest, left, middle_ns, since)]
        )
        found[:, 1] = others[found[:, 1]]
        table = np.concatenate([known, found])
    table = table[table[:, 0] >= since]
    # By iteration, then by request: the order that members are summed in is part of the result.
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    sizes = np.bincount(table[:, 0], minlength=start_ns.size)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return Iterations(start_ns, end_ns, offsets, *table[:, 1:].T.copy())


def _counted(
    trace: Trace, counts: IterationCounts, middle_ns: Column, known: Column
) -> tuple[Column, ...]:
    """What `known` have of each count of `IterationCounts`, in its order."""
    iteration, request, tokens, _ = known.T
    early = middle_ns[iteration] < trace.first_token_ns[request]
    columns: list[Column] = []
    for chosen in (early, ~early):
        for amounts in (np.ones_like(tokens), tokens):
            sums = np.zeros_like(counts.end_ns)
            np.add.at(sums, iteration[chosen], amounts[chosen])
            columns.append(sums)
    return tuple(columns)


def _decodes(trace: Trace, counts: IterationCounts, middle_ns: Column, since: int) -> Column:
    """Rows (iteration, request, tokens, context).

    Speculative decoding computes drafts too, of which only some are delivered: the tokens of an
    iteration are taken to be as many for each, and the context grows by what was delivered.
    """
    first = np.searchsorted(middle_ns, trace.first_token_ns)
    last = np.searchsorted(middle_ns, trace.finish_ns)
    lengths = np.maximum(last - first, 0)
    begin = np.maximum(first, since)
    chosen = np.maximum(last - begin, 0)
    request = np.repeat(np.arange(trace.size), chosen)
    iteration = np.arange(request.size) - np.repeat(np.cumsum(chosen) - chosen - begin, chosen)
    # An engine that prefills and decodes in turns says of each pass which of both it was.
    some = counts.decode_requests[iteration] > 0
    request, iteration = request[some], iteration[some]
    step = iteration - first[request]
    made = np.maximum(trace.output_tokens - 1, 0)[request]
    context = trace.input_tokens[request] + step * made // np.maximum(lengths, 1)[request]
    order = np.lexsort((request, iteration))
    sizes = np.bincount(iteration, minlength=middle_ns.size)
    place = np.empty_like(order)
    place[order] = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    tokens = counts.decode_tokens[iteration]
    among = np.maximum(counts.decode_requests[iteration], 1)
    new = np.maximum(1, (place + 1) * tokens // among - place * tokens // among)
    return np.stack([iteration, request, new, context], axis=1)


def _prefills(trace: Trace, counts: IterationCounts, middle_ns: Column) -> Column:
    """Rows (iteration, request, tokens, context)."""
    last_place = max(middle_ns.size - 1, 0)
    opens = np.searchsorted(middle_ns, trace.start_ns)
    # The iteration that made the first token is the last one of the prefill.
    closes = np.clip(np.searchsorted(middle_ns, trace.first_token_ns) - 1, 0, last_place)
    opens = np.minimum(opens, closes)
    left = np.maximum(trace.computed_tokens, 1).tolist()
    context = trace.cached_input_tokens.tolist()
    rows: list[tuple[int, int, int, int]] = []

    def give(iteration: int, request: int, tokens: int) -> None:
        rows.append((iteration, request, tokens, context[request]))
        left[request] -= tokens
        context[request] += tokens

    arrivals = sorted(range(trace.size), key=lambda r: (int(opens[r]), r), reverse=True)
    ends: list[tuple[int, int]] = []
    for iteration, prefill_tokens in enumerate(counts.prefill_tokens.tolist()):
        budget = prefill_tokens
        while arrivals and opens[arrivals[-1]] <= iteration:
            request = arrivals.pop()
            heappush(ends, (int(closes[request]), request))
        while ends and ends[0][0] <= iteration:
            _, request = heappop(ends)
            budget -= left[request]
            give(iteration, request, left[request])
        waiting: list[tuple[int, int]] = []
        while ends and budget > 0:
            entry = heappop(ends)
            tokens = min(budget, left[entry[1]] - 1)
            if tokens > 0:
                budget -= tokens
                give(iteration, entry[1], tokens)
            waiting.append(entry)
        for entry in waiting:
            heappush(ends, entry)
    return np.array(rows, dtype=np.int64).reshape(-1, 4)
