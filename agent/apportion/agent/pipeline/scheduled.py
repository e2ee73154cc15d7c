"""Who was scheduled in which iterations, by id: what an engine in exact mode writes down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from apportion.agent.pipeline.merged_iterations import told
from apportion.client import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apportion.agent.pipeline.merged_iterations import MergedIterations
    from apportion.cost.methods.trace import Column, Trace

SCHEDULED: Final = np.dtype(
    [
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        *((name, "i8") for name in layout.SCHEDULED_FIELDS),
        ("engine", "i8"),
        ("request_id", f"S{layout.REQUEST_ID_TEXT_BYTES}"),
    ]
)
"""Columns of iterations in a row in which one request was scheduled alike."""
Turns = NDArray[np.void]
"""Rows of type `SCHEDULED`."""
NO_TURNS: Final = np.zeros(0, SCHEDULED)

_LATER_NS: Final = 60_000_000_000
"""A scheduler that is ahead has written down iterations that end later, but not so much."""


def turns_of(records: NDArray[np.void], anchor_ns: int) -> Turns:
    """Ring records (type `RECORD`) of kind `scheduled`; times are moved by `anchor_ns`."""
    rows = told(records, anchor_ns, SCHEDULED, layout.SCHEDULED_FIELDS)
    rows["request_id"] = request_ids(records)
    return rows


def request_ids(records: NDArray[np.void]) -> NDArray[np.bytes_]:
    """The ids of ring records (type `RECORD`) as text in UTF-8, shape n."""
    raw = np.ascontiguousarray(records["request_id"]).view(np.uint8)
    raw = raw.reshape(records.size, layout.REQUEST_ID_BYTES)
    text = np.ascontiguousarray(raw[:, layout.REQUEST_ID_HEAD_BYTES :])
    return text.view(f"S{layout.REQUEST_ID_TEXT_BYTES}")[:, 0]


def members_of(
    turns: Turns,
    merged: MergedIterations,
    trace: Trace,
    ids: Sequence[bytes | None],
    *,
    most: int,
) -> Column:
    """Rows (iteration, request, tokens, context), shape (m, 4), of the requests of `trace`.

    `ids` are those of its requests, None where not known. There are at most about `most` rows,
    whatever a ring says.
    """
    by_id: dict[bytes, list[int]] = {}
    for place, name in enumerate(ids):
        if name is not None:
            by_id.setdefault(name, []).append(place)
    parts, size = [np.zeros((0, 4), np.int64)], 0
    ends_ns = merged.counts.end_ns
    for row in turns:
        request = _who(row, by_id, trace)
        if request is None or size > most:
            continue
        begun_ns, ended_ns, first = int(row["start_ns"]), int(row["end_ns"]), int(row["first"])
        low = int(np.searchsorted(ends_ns, begun_ns, side="right"))
        high = int(np.searchsorted(ends_ns, ended_ns + _LATER_NS, side="right"))
        after = first + int(row["iterations"])
        edges = np.searchsorted(merged.index[low:high], [first, after]).tolist()
        at = np.arange(low + edges[0], low + edges[1], dtype=np.int64)
        table = np.empty((at.size, 4), np.int64)
        table[:, 0], table[:, 1], table[:, 2] = at, request, int(row["tokens"])
        table[:, 3] = (merged.index[at] - first) * _growth(row, request, trace)
        table[:, 3] += int(row["context"])
        parts.append(table)
        size += at.size
    return np.concatenate(parts)


def _who(row: np.void, by_id: Mapping[bytes, list[int]], trace: Trace) -> int | None:
    """The request that it is about: of several with one id, the one that ran then, or nearest."""
    middle_ns = (int(row["start_ns"]) + int(row["end_ns"])) // 2

    def apart_ns(request: int) -> int:
        early_ns = int(trace.start_ns[request]) - middle_ns
        return max(early_ns, middle_ns - int(trace.finish_ns[request]), 0)

    return min(by_id.get(bytes(row["request_id"]), ()), key=apart_ns, default=None)


def _growth(row: np.void, request: int, trace: Trace) -> int:
    """By how many tokens the context grows with each: of drafts only some are delivered."""
    if row["context"] < trace.input_tokens[request]:
        return int(row["tokens"])
    made = int(trace.output_tokens[request]) // max(1, int(row["iterations"]))
    return max(1, min(int(row["tokens"]), made))
