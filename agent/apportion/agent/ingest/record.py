"""Records and open slots as numpy types, built from the layout; what makes one believable.

Arrays of `RECORD` and `OPEN_SLOT` are what ingest hands on: one row a span, columns named as in
`apportion.client.layout`. Times are host monotonic nanoseconds (0: not said), counters are -1
where not said, words are indices into the ring's table.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest.text import decoded
from apportion.client import layout
from apportion.core.units import NS_PER_SECOND

Records = NDArray[np.void]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

FUTURE_NS: Final = NS_PER_SECOND
"""A time further ahead than this is not believed."""
LARGEST_COUNTER: Final = 1 << 53


def _dtype(fields: tuple[tuple[str, int, str], ...], itemsize: int) -> np.dtype[np.void]:
    formats = {"q": "i8", "Q": "u8", "I": "u4"}
    return np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [formats.get(code, f"V{code[:-1]}") for _, _, code in fields],
            "offsets": [offset for _, offset, _ in fields],
            "itemsize": itemsize,
        }
    )


RECORD: Final = _dtype(layout.RECORD_FIELDS, layout.RECORD_BYTES)
OPEN_SLOT: Final = _dtype(layout.OPEN_SLOT_FIELDS, layout.OPEN_SLOT_BYTES)
NO_ROWS: Final[Integers] = np.empty((0, layout.RECORD_BYTES // 8), np.int64)
NO_RECORDS: Final[Records] = np.empty(0, RECORD)
NO_OPEN_SPANS: Final[Records] = np.empty(0, OPEN_SLOT)
NO_FLAGS: Final[Flags] = np.empty(0, np.bool_)
for _array in (NO_RECORDS, NO_OPEN_SPANS, NO_FLAGS):
    _array.flags.writeable = False

RECORD_WORDS: Final = layout.RECORD_BYTES // 8
OPEN_SLOT_WORDS: Final = layout.OPEN_SLOT_BYTES // 8


def _column(name: str) -> int:
    return layout.RECORD_OFFSETS[name] // 8


_NUMBER, _PARENT = _column("number"), _column("parent")
_ARRIVAL, _START = _column("arrival_ns"), _column("start_ns")
_SCHEDULED, _FIRST_TOKEN, _END = (
    _column("scheduled_ns"),
    _column("first_token_ns"),
    _column("end_ns"),
)
_STEP = _column("step")
_COUNTERS_END = _STEP + 1 + len(layout.COUNTERS)
_PACKED_BYTE = layout.RECORD_OFFSETS["packed"]
_WORDS_START = layout.RECORD_OFFSETS["tenant"] // 4
_WORDS_END = _WORDS_START + 3
_SPACE, _TILDE = ord(" "), ord("~")
# The least and the most that each 8-byte word of a record may hold.
_LEAST = np.full(RECORD_WORDS, np.iinfo(np.int64).min)
_MOST = np.full(RECORD_WORDS, np.iinfo(np.int64).max)
_LEAST[_NUMBER], _LEAST[_PARENT] = 1, 0
_LEAST[_ARRIVAL : _END + 1] = 0
_LEAST[_STEP:_COUNTERS_END], _MOST[_STEP:_COUNTERS_END] = layout.ABSENT, LARGEST_COUNTER - 1
_MODEL_SHIFT: Final = np.uint64(layout.MODEL_SHIFT)
_ADAPTER_SHIFT: Final = np.uint64(layout.ADAPTER_SHIFT)
_TENANT_MASK: Final = np.uint64((1 << layout.MODEL_SHIFT) - 1)
_MODEL_MASK: Final = np.uint64((1 << layout.ADAPTER_SHIFT - layout.MODEL_SHIFT) - 1)
_LARGEST_KIND = max(layout.KINDS.values())
_LARGEST_OPEN_KIND = layout.KINDS["evaluation"]  # an iteration is no span
_LARGEST_STATUS = max(layout.STATUSES.values())
_LARGEST_PHASE = max(layout.PHASES.values())
_LEAST_PACKED = np.array([1, 1, 0, 0], np.uint8)
_MOST_PACKED = np.array(
    [_LARGEST_KIND, _LARGEST_STATUS, _LARGEST_PHASE, layout.CLOCK_DEVICE], np.uint8
)


def records_of(table: Integers) -> Records:
    """The same memory as records; `table` is `(rows, RECORD_WORDS)` and contiguous."""
    return table.view(RECORD).reshape(-1)


def numbers_of(table: Integers) -> Integers:
    """The spans' numbers; believable ones fit 63 bits."""
    return table[:, _NUMBER]


def ends_ns_of(table: Integers) -> Integers:
    """The spans' ends."""
    return table[:, _END]


def words_of(table: Integers) -> NDArray[np.uint32]:
    """The word indices of records: `(rows, 3)`, tenant, model and adapter."""
    return table.view(np.uint32)[:, _WORDS_START:_WORDS_END]


def move_times(table: Integers, clock_offset_ns: int) -> None:
    """Add `clock_offset_ns` to every time that was said, in place."""
    times = table[:, _ARRIVAL : _END + 1]
    times[times != 0] += clock_offset_ns


def forget_odd_arrivals(table: Integers) -> None:
    """Set arrivals after the start, or below 0, to 0 (not said), in place.

    An arrival comes from a header that some proxy wrote; a wrong one costs only itself.
    """
    arrival, start = table[:, _ARRIVAL], table[:, _START]
    arrival[(arrival < 0) | (arrival > start)] = 0


def believable(table: Integers, now_ns: int, word_capacity: int) -> Flags:
    """Which records can be true; one that cannot is dropped and counted by the caller.

    `table` is `(rows, RECORD_WORDS)` and contiguous, times on the host's clock.
    """
    most = _MOST.copy()
    most[_ARRIVAL : _END + 1] = now_ns + FUTURE_NS
    packed = table.view(np.uint8)[:, _PACKED_BYTE : _PACKED_BYTE + len(_MOST_PACKED)]
    start, end = table[:, _START, None], table[:, _END, None]
    said = table[:, _SCHEDULED : _FIRST_TOKEN + 1]
    # One reduction over all conditions side by side is much cheaper than one for each.
    conditions = np.concatenate(
        [
            table >= _LEAST,
            table <= most,
            packed >= _LEAST_PACKED,
            packed <= _MOST_PACKED,
            words_of(table) < word_capacity,
            ((said >= start) & (said <= end)) | (said == 0),
            start <= end,
        ],
        axis=1,
    )
    good: Flags = np.logical_and.reduce(conditions, axis=1)
    return good


def believable_open(rows: Records, now_ns: int, word_capacity: int) -> Flags:
    """Which open spans can be true."""
    start = rows["start_ns"]
    packed = rows["packed"]
    words = rows["words"]
    good: Flags = (start > 0) & (start <= now_ns + FUTURE_NS)
    good &= (rows["number"] > 0) & (rows["number"] < LARGEST_COUNTER)
    good &= rows["parent"] < LARGEST_COUNTER
    for name in ("scheduled_ns", "first_token_ns"):
        at = rows[name]
        good &= (at == 0) | ((at >= start) & (at <= now_ns + FUTURE_NS))
    kind = packed & 0xFF
    good &= (kind >= 1) & (kind <= _LARGEST_OPEN_KIND)
    good &= ((packed >> layout.PHASE_SHIFT) & 0xFF) <= _LARGEST_PHASE
    for named in open_words_of(words):
        good &= named < word_capacity
    return good


def open_words_of(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], ...]:
    """The word indices of open spans: tenants, models, adapters."""
    return words & _TENANT_MASK, words >> _MODEL_SHIFT & _MODEL_MASK, words >> _ADAPTER_SHIFT


def request_id_of(raw: bytes) -> str:
    """The text of a `request_id` field; empty where none was given.

    A long id is `sha256:` and the first 48 digits of its digest, as the client wrote it.
    """
    length = min(raw[0], layout.REQUEST_ID_TEXT_BYTES)
    return decoded(bytes(raw[2 : 2 + length]))


def request_ids_of(column: Records) -> list[str | None]:
    """The texts of a whole `request_id` column, shape n; None where none was given."""
    if not column.size:
        return []
    raw = np.ascontiguousarray(column).view(np.uint8).reshape(column.size, -1)
    lengths = np.minimum(raw[:, 0], layout.REQUEST_ID_TEXT_BYTES)
    width = int(lengths.max())
    if not width:
        return [None] * column.size
    inside = np.arange(width) < lengths[:, None]
    text = np.where(inside, raw[:, 2 : 2 + width], 0).astype(np.uint8)
    # Nearly every id is printable ASCII, which needs no decoding one by one.
    plain = ~inside | ((text >= _SPACE) & (text <= _TILDE))
    values = text.view(f"S{width}")[:, 0]
    odd = np.flatnonzero(~np.logical_and.reduce(plain, axis=1))
    values[odd] = b""
    texts: list[str | None] = values.astype(f"U{width}").tolist()
    for index in odd.tolist():
        texts[index] = request_id_of(raw[index].tobytes())
    for index in np.flatnonzero(lengths == 0).tolist():
        texts[index] = None
    return texts


def trace_id_of(raw: bytes) -> str | None:
    """The hexadecimal digits of a `trace_id` or `trace_parent` field; None where all zero."""
    return bytes(raw).hex() if any(raw) else None
