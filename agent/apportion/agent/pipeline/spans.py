"""Ring records as rows of the ledger's `span` table and as roots that compete for devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.ingest.record import RECORD, request_ids_of
from apportion.agent.pipeline.server_engines import MOST_ENGINES
from apportion.client import layout
from apportion.core.category import Category, SpanKind, SpanStatus
from apportion.cost.settlement.work import ROOT, Roots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.open_root import OpenRoot
    from apportion.cost.ledger.batch import Row

_TIMES: Final = ("arrival_ns", "start_ns", "scheduled_ns", "first_token_ns", "end_ns")
_NO_ENGINE: Final = -1
_WORD_BITS: Final = 20
"""An index of a word has fewer."""
_WORD_MASK: Final = (1 << _WORD_BITS) - 1
_COUNTERS: Final = ("step", *layout.COUNTERS)
_CATEGORY: Final = np.array(
    [int(SpanKind(kind).category) if kind else int(Category.DIRECT) for kind in range(6)],
    dtype=np.uint8,
)


class Decoded(NamedTuple):
    """Records of one ring with times on the node's axis; columns of equal length n."""

    records: NDArray[np.void]
    kind: NDArray[np.int64]
    status: NDArray[np.int64]
    phase: NDArray[np.int64]
    clock: NDArray[np.int64]
    entity: NDArray[np.int64]
    late: NDArray[np.bool_]


def decode(
    records: NDArray[np.void],
    late: NDArray[np.bool_],
    offset_ns: int,
    entity_of: Callable[[int, int, int], int],
) -> Decoded:
    """Move times by `offset_ns` (0 stays 0: not reported) and look entities up.

    `entity_of(tenant word, model word, adapter word)` is asked once per distinct three.
    """
    records = records.copy()
    for name in _TIMES:
        column = records[name]
        column[column != 0] += offset_ns
    packed = records["packed"].astype(np.int64)
    words = records["tenant"].astype(np.int64)
    for place, name in enumerate(("model", "adapter"), 1):
        words |= records[name].astype(np.int64) << _WORD_BITS * place
    named, inverse = np.unique(words, return_inverse=True)
    keys = [
        entity_of(*(each >> _WORD_BITS * place & _WORD_MASK for place in range(3)))
        for each in named.tolist()
    ]
    entity = np.array(keys, dtype=np.int64)[inverse] if keys else np.zeros(0, np.int64)
    return Decoded(
        records,
        packed >> layout.KIND_SHIFT & 0xFF,
        packed >> layout.STATUS_SHIFT & 0xFF,
        packed >> layout.PHASE_SHIFT & 0xFF,
        packed >> layout.CLOCK_SHIFT & 0xFF,
        entity,
        late,
    )


def joined(parts: Sequence[Decoded]) -> Decoded:
    """Records of one ring that came in several pieces."""
    columns = zip(*(part[1:] for part in parts), strict=True)
    # As plain bytes: numpy would go through the records field by field.
    raw = np.concatenate([part.records.view(np.uint8) for part in parts])
    return Decoded(raw.view(RECORD), *(np.concatenate(column) for column in columns))


def is_root(decoded: Decoded) -> NDArray[np.bool_]:
    """Only these compete for devices."""
    root: NDArray[np.bool_] = (decoded.records["parent"] == 0) & (
        decoded.kind != int(SpanKind.PHASE)
    )
    return root


def claim_starts(decoded: Decoded, admits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """From when each record competes: admission where known, else start.

    Where requests say `scheduled()` (`admits`), one that never did and has no first token only
    waited: it competes from its end, for nothing.
    """
    records = decoded.records
    request = decoded.kind == int(SpanKind.REQUEST)
    scheduled = records["scheduled_ns"]
    starts = np.where(request & (scheduled > 0), scheduled, records["start_ns"])
    waited = request & (scheduled <= 0) & (records["first_token_ns"] <= 0) & admits
    starts = np.where(waited, records["end_ns"], starts)
    claims: NDArray[np.int64] = np.minimum(starts, records["end_ns"])
    return claims


def roots_of(
    decoded: Decoded, chosen: NDArray[np.bool_], ring: int, *, admits: NDArray[np.bool_]
) -> Roots:
    """The chosen records as `ROOT` rows; `group` is 0 until the ring is bound."""
    records = decoded.records
    roots = np.zeros(records.size, dtype=ROOT)
    roots["start_ns"] = claim_starts(decoded, admits)
    roots["end_ns"] = records["end_ns"]
    roots["first_token_ns"] = records["first_token_ns"]
    roots["number"] = records["number"]
    roots["ring"] = ring
    roots["entity"] = decoded.entity
    for name in ("input_tokens", "cached_input_tokens", "output_tokens"):
        roots[name] = np.maximum(records[name], 0)
    roots["engine"] = engines_of(records) + 1
    roots["category"] = _CATEGORY[decoded.kind]
    roots["step"] = decoded.kind == int(SpanKind.STEP)
    return roots if chosen.all() else roots[chosen]


def span_rows(decoded: Decoded, ring: int) -> list[Row]:
    """Rows of `span`; what was not reported is NULL."""
    records = decoded.records
    size = records.size
    times = {
        name: _optional(records[name], 0)
        for name in ("arrival_ns", "scheduled_ns", "first_token_ns")
    }
    counters = [_optional(records[name], layout.ABSENT) for name in _COUNTERS]
    return list(
        zip(
            [ring] * size,
            records["sequence"].tolist(),
            records["number"].tolist(),
            records["parent"].tolist(),
            decoded.kind.tolist(),
            decoded.status.tolist(),
            decoded.phase.tolist(),
            decoded.clock.tolist(),
            decoded.entity.tolist(),
            times["arrival_ns"],
            records["start_ns"].tolist(),
            times["scheduled_ns"],
            times["first_token_ns"],
            records["end_ns"].tolist(),
            *counters,
            _optional(records["thread_id"], 0),
            _trace_ids(records["trace_id"]),
            request_ids_of(records["request_id"]),
            decoded.late.astype(np.int64).tolist(),
            _optional(engines_of(records), _NO_ENGINE),
            strict=True,
        )
    )


def engines_of(records: NDArray[np.void]) -> NDArray[np.int64]:
    """The index of the engine that each was in; -1 where not said."""
    said = records["packed"] >> layout.FLAGS_SHIFT & layout.FLAG_ENGINE > 0
    said &= records["engine"] < MOST_ENGINES
    found: NDArray[np.int64] = np.where(said, records["engine"].astype(np.int64), _NO_ENGINE)
    return found


def _optional(column: NDArray[np.int64], absent: int) -> list[int | None]:
    values: list[int | None] = column.tolist()
    missing = column == absent
    if missing.all():
        return [None] * len(values)
    if missing.any():
        return [None if value == absent else value for value in values]
    return values


def unrecorded_row(ring: int, span: OpenRoot, status: SpanStatus, *, admits: bool) -> Row:
    """A span of which there is no record; its sequence is minus its number.

    One that only waited for admission arrived when it started, and starts when it ends.
    """
    waited = span.claim(admits=admits)[0] > max(span.start_ns, span.scheduled_ns)
    absent = [None] * (len(layout.COUNTERS) + 3)
    return (
        ring,
        -span.number,
        span.number,
        0,
        int(span.kind),
        int(status),
        0,
        0,
        span.entity,
        span.start_ns if waited else None,
        span.seen_ns if waited else span.start_ns,
        span.scheduled_ns or None,
        span.first_token_ns or None,
        span.seen_ns,
        span.step if span.step >= 0 else None,
        *absent,
        0,
        None,
    )


def _trace_ids(column: NDArray[np.void]) -> list[str | None]:
    said: NDArray[np.bool_] = np.logical_or.reduce(_words(column) != 0, axis=1)
    if not said.any():
        return [None] * column.size
    values, flags = column.tolist(), said.tolist()
    return [bytes(v).hex() if given else None for v, given in zip(values, flags, strict=True)]


def _words(column: NDArray[np.void]) -> NDArray[np.int64]:
    """The column's bytes as 8-byte words, shape (n, words)."""
    return np.ascontiguousarray(column).view(np.int64).reshape(column.size, -1)
