"""A recorded trace's engine iterations: one JSON object a line, in one of two forms.

By id, when the batch is known:

    {"start_s": .., "end_s": ..,
     "batch": [{"request_id": .., "new_tokens": .., "context_tokens": ..}, ..]}

By counts, as vLLM's stat logger gives them (`iteration_details` of its scheduler statistics),
`t` being when the record was made, in seconds of the requests' clock:

    {"t": .., "it": {"num_ctx_requests": .., "num_ctx_tokens": .., "num_generation_requests": ..,
                     "num_generation_tokens": .., "elapsed_ms": ..}, ..}

Lines with neither an iteration nor a batch (an engine's first record, a heartbeat) are passed
over and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from apportion.core.errors import TraceFileError
from apportion.cost.replay.text import MAX_TOKENS, Place, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Record = Mapping[str, object]

MAX_LINE_BYTES: Final = 16 << 20
_COUNTS: Final = (
    "num_ctx_requests",
    "num_ctx_tokens",
    "num_generation_requests",
    "num_generation_tokens",
)


class Member(NamedTuple):
    """A request's part in one iteration."""

    request_id: str
    new_tokens: int
    context_tokens: int


class BatchRow(NamedTuple):
    """An iteration whose batch is known."""

    line: int
    start_ns: int
    end_ns: int
    batch: tuple[Member, ...]


class CountsRow(NamedTuple):
    """An iteration that is known by counts; `elapsed_ns` is a lower bound of its length."""

    line: int
    end_ns: int
    elapsed_ns: int
    prefill_requests: int
    prefill_tokens: int
    decode_requests: int
    decode_tokens: int


class IterationRows(NamedTuple):
    """The iterations of one file, by time: one of the two tuples is empty."""

    batches: tuple[BatchRow, ...]
    counts: tuple[CountsRow, ...]
    passed_over: int


def read_iterations(path: Path) -> IterationRows:
    """The iterations of the file, by time; a line that is there twice counts once.

    Raises:
        TraceFileError: the file cannot be read, a line is malformed, iterations overlap, or the
            two forms are mixed; with file and line.
    """
    batches: list[BatchRow] = []
    counts: list[CountsRow] = []
    passed_over = 0
    for place, record in _records(path):
        if "batch" in record:
            batches.append(_batch(record, place))
        elif isinstance(details := record.get("it"), Mapping):
            known = cast("Record", details)
            if not known.get("is_dummy"):
                counts.append(_counts(record, known, place))
        elif _passes(record):
            passed_over += 1
        else:
            raise place.error(
                f"is no iteration: it has {', '.join(sorted(map(str, record))) or 'nothing'}; "
                "give start_s, end_s and batch, or an engine's t and it"
            )
        if batches and counts:
            raise place.error("the file has iterations by id and by counts: give one form")
    if not batches and not counts:
        raise TraceFileError("has no iteration: leave --iterations out", path=path)
    return IterationRows(
        _in_order(batches, path), tuple(sorted(set(counts), key=_by_end)), passed_over
    )


def _passes(record: Record) -> bool:
    return "init" in record or ("t" in record and record.get("it") is None)


def _by_end(row: CountsRow) -> tuple[int, ...]:
    return (row.end_ns, *row)


def _in_order(batches: list[BatchRow], path: Path) -> tuple[BatchRow, ...]:
    ordered: list[BatchRow] = []
    for row in sorted(batches, key=lambda batch: (batch.start_ns, batch.end_ns, batch.line)):
        known = ordered[-1] if ordered else None
        if known is not None and known[1:] == row[1:]:
            continue
        if known is not None and row.start_ns < known.end_ns:
            raise TraceFileError(
                f"the iteration overlaps that of line {known.line}: one engine runs one at a "
                "time; replay each engine apart",
                path=path,
                line=row.line,
            )
        ordered.append(row)
    return tuple(ordered)


def _records(path: Path) -> Iterator[tuple[Place, Record]]:
    try:
        with path.open("rb") as file:
            line = 0
            while content := file.readline(MAX_LINE_BYTES + 1):
                line += 1
                place = Place(path, line)
                if len(content) > MAX_LINE_BYTES:
                    raise place.error("the line is longer than 16 MiB: one JSON object a line")
                if content.strip():
                    yield place, _record(content, place)
    except OSError as failure:
        raise TraceFileError(
            f"cannot be read: {failure.strerror}; give a file of JSON lines", path=path
        ) from failure


def _record(content: bytes, place: Place) -> Record:
    try:
        # Decimals and no floats: a time keeps the digits it was written with.
        record = json.loads(content, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as failure:
        raise place.error("is not JSON: give one object a line, without commas between") from (
            failure
        )
    if not isinstance(record, dict):
        raise place.error("is not a JSON object")
    return cast("Record", record)


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _batch(record: Record, place: Place) -> BatchRow:
    start_ns = _time(record, "start_s", place)
    end_ns = _time(record, "end_s", place)
    if end_ns < start_ns:
        raise place.error("end_s is before start_s")
    entries = record["batch"]
    if not isinstance(entries, list):
        raise place.error("batch is not a list")
    members: dict[str, Member] = {}
    for entry in cast("list[object]", entries):
        member = _member(entry, place)
        if member.request_id in members:
            raise place.error(f"request {shown(member.request_id)} is in the batch twice")
        members[member.request_id] = member
    return BatchRow(place.line, start_ns, end_ns, tuple(members[name] for name in sorted(members)))


def _member(entry: object, place: Place) -> Member:
    fields: Record = cast("Record", entry) if isinstance(entry, dict) else {}
    request_id = fields.get("request_id")
    if not isinstance(request_id, str):
        raise place.error("an entry of batch has no request_id")
    return Member(
        request_id,
        _count(fields, "new_tokens", place),
        _count(fields, "context_tokens", place),
    )


def _counts(record: Record, details: Record, place: Place) -> CountsRow:
    values = [_count(details, name, place) for name in _COUNTS]
    elapsed = details.get("elapsed_ms")
    if isinstance(elapsed, bool) or not isinstance(elapsed, int | Decimal) or elapsed < 0:
        raise place.error(f"elapsed_ms {shown(str(elapsed))} is not a number of milliseconds")
    elapsed_ns = place.nanoseconds("elapsed_ms", f"{Decimal(elapsed) / 1000:f}"[:40])
    return CountsRow(place.line, _time(record, "t", place), elapsed_ns, *values)


def _time(record: Record, name: str, place: Place) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise place.error(f"{name} is {_kind(value)}, not a number of seconds")
    return place.nanoseconds(name, str(value))


def _count(record: Record, name: str, place: Place) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKENS:
        raise place.error(f"{name} is {_kind(value)}, not a whole number from 0")
    return value


def _kind(value: object) -> str:
    return "missing" if value is None else shown(str(value))
