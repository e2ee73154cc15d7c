"""A recorded trace as columns, in an order that depends on its content alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.cost.replay.iterations_file import BatchRow, CountsRow
    from apportion.cost.replay.requests_file import RequestRow

Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of one engine, shape n, by start and id. Times are the trace's own nanoseconds.

    `first_token_ns` is the finish of a request without one: all of it is prefill.
    """

    request_id: tuple[str, ...]
    start_ns: Column
    first_token_ns: Column
    finish_ns: Column
    input_tokens: Column
    cached_input_tokens: Column
    output_tokens: Column

    @classmethod
    def of(cls, rows: Sequence[RequestRow]) -> Trace:
        """From rows in any order."""
        ordered = sorted(rows, key=lambda row: (row.start_ns, row.request_id))
        table = np.array(
            [
                (
                    row.start_ns,
                    row.finish_ns if row.first_token_ns is None else row.first_token_ns,
                    row.finish_ns,
                    row.input_tokens,
                    row.cached_input_tokens,
                    row.output_tokens,
                )
                for row in ordered
            ],
            dtype=np.int64,
        ).reshape(-1, 6)
        return cls(tuple(row.request_id for row in ordered), *table.T.copy())

    def take(self, chosen: Column) -> Trace:
        """The chosen requests, ascending."""
        return Trace(
            tuple(self.request_id[int(place)] for place in chosen),
            self.start_ns[chosen],
            self.first_token_ns[chosen],
            self.finish_ns[chosen],
            self.input_tokens[chosen],
            self.cached_input_tokens[chosen],
            self.output_tokens[chosen],
        )

    @property
    def size(self) -> int:
        """How many requests."""
        return len(self.request_id)

    @property
    def has_first_token(self) -> NDArray[np.bool_]:
        """Whose first token is known: of one token alone it may come at the finish."""
        told: NDArray[np.bool_] = self.first_token_ns < self.finish_ns
        told |= self.output_tokens == 1
        return told

    @property
    def computed_tokens(self) -> Column:
        """Input tokens that had to be computed."""
        return self.input_tokens - self.cached_input_tokens


@dataclass(frozen=True, slots=True)
class Iterations:
    """Iterations whose batches are known, n of them with m members in all.

    Members of iteration i are `offsets[i]` up to but not including `offsets[i + 1]` of
    `request` (an index into the trace), `new_tokens` and `context_tokens`, shape m.
    """

    start_ns: Column
    end_ns: Column
    offsets: Column
    request: Column
    new_tokens: Column
    context_tokens: Column

    @classmethod
    def of(cls, rows: Sequence[BatchRow], trace: Trace) -> Iterations:
        """From rows by time.

        Raises:
            KeyError: a member is not among the trace's requests.
        """
        places = {name: index for index, name in enumerate(trace.request_id)}
        members = [
            (places[member.request_id], member.new_tokens, member.context_tokens)
            for row in rows
            for member in row.batch
        ]
        table = np.array(members, dtype=np.int64).reshape(-1, 3)
        sizes = np.array([len(row.batch) for row in rows], dtype=np.int64)
        return cls(
            np.array([row.start_ns for row in rows], dtype=np.int64),
            np.array([row.end_ns for row in rows], dtype=np.int64),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            *table.T.copy(),
        )

    @property
    def sizes(self) -> Column:
        """Members of each iteration."""
        return np.diff(self.offsets)

    def recomputed_tokens(self, trace: Trace) -> Column:
        """Of each member's new tokens, those that it had computed before, shape m.

        A preempted request starts again with less context than it had. Drafts that were refused
        are no such tokens: the context after them is what was delivered.
        """
        order = np.lexsort((self.owner, self.request))
        request, begin = self.request[order], self.context_tokens[order]
        end = begin + self.new_tokens[order]
        # Of a prompt all is kept; of what is decoded one token at least.
        known = np.minimum(end, np.maximum(trace.input_tokens[request], begin + 1))
        apart = request * (int(end.max(initial=0)) + 1)
        before = np.maximum.accumulate(known + apart) - apart
        is_first = np.ones(order.size, np.bool_)
        np.not_equal(request[1:], request[:-1], out=is_first[1:])
        reached = np.where(is_first, 0, np.roll(before, 1))
        found = np.empty_like(order)
        found[order] = np.clip(reached - begin, 0, end - begin)
        return found

    @property
    def owner(self) -> Column:
        """The iteration of each member, shape m."""
        return np.repeat(np.arange(self.start_ns.size), self.sizes)


@dataclass(frozen=True, slots=True)
class IterationCounts:
    """Iterations that are known by counts and by when they ended, shape n, by end."""

    end_ns: Column
    elapsed_ns: Column
    prefill_requests: Column
    prefill_tokens: Column
    decode_requests: Column
    decode_tokens: Column

    def less(self, *counted: Column) -> IterationCounts:
        """What is left of the four counts, in their order, without `counted`."""
        prefill = (self.prefill_requests, self.prefill_tokens)
        counts = (*prefill, self.decode_requests, self.decode_tokens)
        left = (np.maximum(0, all_of - some) for all_of, some in zip(counts, counted, strict=True))
        return IterationCounts(self.end_ns, self.elapsed_ns, *left)

    @classmethod
    def of(cls, rows: Sequence[CountsRow]) -> IterationCounts:
        """From rows by end."""
        table = np.array([row[1:] for row in rows], dtype=np.int64).reshape(-1, 6)
        return cls(*table.T.copy())
