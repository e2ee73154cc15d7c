"""A recorded trace's requests: a CSV file, columns found by their names in any order.

    request_id,start_s,first_token_s,finish_s,prompt_tokens,cached_tokens,output_tokens,tenant

`start_s` is when the scheduler admitted the request. `prompt_tokens` hold the cached ones, which
may be absent. `input_tokens`, `cached_input_tokens` and `completion_tokens` are accepted, other
columns are ignored. An empty `first_token_s` means that there never was one.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.errors import TraceFileError
from apportion.cost.replay.text import Place, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES: Final = 1 << 30
MAX_REQUEST_ID: Final = 512
_ALIASES: Final = {
    "input_tokens": "prompt_tokens",
    "cached_input_tokens": "cached_tokens",
    "completion_tokens": "output_tokens",
}
_REQUIRED: Final = (
    "request_id",
    "start_s",
    "first_token_s",
    "finish_s",
    "prompt_tokens",
    "output_tokens",
)
_KNOWN: Final = (*_REQUIRED, "cached_tokens", "tenant")


class RequestRow(NamedTuple):
    """One request. Times are nanoseconds of the trace's own clock; `first_token_ns` None: none."""

    request_id: str
    start_ns: int
    first_token_ns: int | None
    finish_ns: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    tenant: str


def read_requests(path: Path) -> tuple[RequestRow, ...]:
    """The requests of the file, by start and id; a row that is there twice counts once.

    Raises:
        TraceFileError: the file cannot be read, or a row contradicts itself or another; with
            file and line. Nothing is taken from such a file.
    """
    lines = csv.reader(io.StringIO(_text(path)), strict=True)
    found: dict[str, tuple[int, RequestRow]] = {}
    try:
        places = _header(next(lines, None), Place(path, 1))
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            place = Place(path, lines.line_num)
            row = _row(cells, places, place)
            line, known = found.setdefault(row.request_id, (place.line, row))
            if known != row:
                raise place.error(
                    f"request {shown(row.request_id)} differs from line {line}: each request has "
                    "one row; give attempts ids of their own"
                )
    except csv.Error as failure:
        raise TraceFileError(f"is not CSV: {failure}", path=path, line=lines.line_num) from failure
    if not found:
        raise TraceFileError("has no request: give a header and at least one row", path=path)
    return tuple(sorted((row for _, row in found.values()), key=_by_start))


def _by_start(row: RequestRow) -> tuple[int, str]:
    return (row.start_ns, row.request_id)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as failure:
        raise TraceFileError(
            f"cannot be read: {failure.strerror}; give a CSV file of requests", path=path
        ) from failure
    if len(content) > MAX_BYTES:
        raise TraceFileError("is larger than 1 GiB: replay it in parts", path=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        raise TraceFileError("is not UTF-8: convert it", path=path, line=line) from failure


def _header(cells: list[str] | None, place: Place) -> dict[str, int]:
    """The place of each column that is known."""
    if cells is None:
        raise place.error(f"is empty: give a header with {', '.join(_REQUIRED)}")
    places: dict[str, int] = {}
    for index, cell in enumerate(cells):
        name = cell.strip()
        name = _ALIASES.get(name, name)
        if name not in _KNOWN:
            continue
        if name in places:
            raise place.error(f"the header names {name} twice (aliases count); drop one of them")
        places[name] = index
    missing = [name for name in _REQUIRED if name not in places]
    if missing:
        raise place.error(
            f"the header has no {', '.join(missing)}; a trace needs {', '.join(_REQUIRED)}"
        )
    return places


def _row(cells: list[str], places: dict[str, int], place: Place) -> RequestRow:
    if len(cells) <= max(places.values()):
        raise place.error(
            f"has {len(cells)} fields, the header has more: the row is cut off or lacks commas"
        )
    values = {name: cells[index].strip() for name, index in places.items()}
    request_id = values["request_id"]
    if not request_id or len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
        raise place.error(f"request_id must be 1 to {MAX_REQUEST_ID} printable characters")
    first_token = values["first_token_s"]
    row = RequestRow(
        request_id,
        place.nanoseconds("start_s", values["start_s"]),
        place.nanoseconds("first_token_s", first_token) if first_token else None,
        place.nanoseconds("finish_s", values["finish_s"]),
        place.count("prompt_tokens", values["prompt_tokens"]),
        place.count("cached_tokens", values.get("cached_tokens") or "0"),
        place.count("output_tokens", values["output_tokens"]),
        values.get("tenant", ""),
    )
    for problem in _contradictions(row):
        raise place.error(f"request {shown(request_id)}: {problem}")
    return row


def _contradictions(row: RequestRow) -> Iterator[str]:
    if row.finish_ns < row.start_ns:
        yield "finish_s is before start_s"
    if row.first_token_ns is not None and not row.start_ns <= row.first_token_ns <= row.finish_ns:
        yield "first_token_s is not between start_s and finish_s; leave it empty if there was none"
    if row.cached_input_tokens > row.input_tokens:
        yield "cached_tokens is above prompt_tokens, which hold the cached ones"
    if row.output_tokens and row.first_token_ns is None:
        yield "has output tokens and no first_token_s"
