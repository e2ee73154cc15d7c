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
_LARGEST_KIND = max(layout.KINDS.values())
_LARGEST_STATUS = max(layout.STATUSES.values())
_LARGEST_PHASE = max(layout.PHASES.values())


def integers_of(rows: Records) -> Integers:
    """The same memory as `(rows, 8-byte words)`; `rows` must be contiguous."""
    return rows.view(np.int64).reshape(-1, rows.itemsize // 8)


def numbers_of(records: Records) -> Integers:
    """The spans' numbers; believable ones fit 63 bits."""
    return integers_of(records)[:, _NUMBER]


def words_of(records: Records) -> NDArray[np.uint32]:
    """The word indices of records: `(rows, 3)`, tenant, model and adapter."""
    return records.view(np.uint32).reshape(-1, layout.RECORD_BYTES // 4)[:, _WORDS_START:_WORDS_END]


def move_times(records: Records, clock_offset_ns: int) -> None:
    """Add `clock_offset_ns` to every time that was said, in place."""
    times = integers_of(records)[:, _ARRIVAL : _END + 1]
    times[times != 0] += clock_offset_ns


def forget_odd_arrivals(records: Records) -> None:
    """Set arrivals after the start, or below 0, to 0 (not said), in place.

    An arrival comes from a header that some proxy wrote; a wrong one costs only itself.
    """
    table = integers_of(records)
    arrival = table[:, _ARRIVAL]
    arrival[(arrival < 0) | (arrival > table[:, _START])] = 0


def believable(records: Records, now_ns: int, word_capacity: int) -> Flags:
    """Which records can be true; a record that cannot is dropped and counted by the caller."""
    table = integers_of(records)
    start, end = table[:, _START], table[:, _END]
    said = table[:, _STEP:_COUNTERS_END]
    packed = records.view(np.uint8).reshape(-1, layout.RECORD_BYTES)
    kind, status, phase, clock = (packed[:, _PACKED_BYTE + byte] for byte in range(4))
    good: Flags = (table[:, _NUMBER] > 0) & (table[:, _PARENT] >= 0)
    good &= (start >= 0) & (start <= end) & (end <= now_ns + FUTURE_NS)
    for column in (_SCHEDULED, _FIRST_TOKEN):
        at = table[:, column]
        good &= (at == 0) | ((at >= start) & (at <= end))
    good &= (said.min(axis=1) >= layout.ABSENT) & (said.max(axis=1) < LARGEST_COUNTER)
    good &= (kind >= 1) & (kind <= _LARGEST_KIND) & (status >= 1) & (status <= _LARGEST_STATUS)
    good &= (phase <= _LARGEST_PHASE) & (clock <= layout.CLOCK_DEVICE)
    good &= words_of(records).max(axis=1) < word_capacity
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
    good &= (kind >= 1) & (kind <= _LARGEST_KIND)
    good &= ((packed >> layout.PHASE_SHIFT) & 0xFF) <= _LARGEST_PHASE
    good &= ((words & 0xFFFFFFFF) < word_capacity) & ((words >> 32) < word_capacity)
    return good


def request_id_of(raw: bytes) -> str:
    """The text of a `request_id` field; empty where none was given.

    A long id is `sha256:` and the first 48 digits of its digest, as the client wrote it.
    """
    length = min(raw[0], layout.REQUEST_ID_TEXT_BYTES)
    return decoded(bytes(raw[2 : 2 + length]))


def trace_id_of(raw: bytes) -> str | None:
    """The hexadecimal digits of a `trace_id` or `trace_parent` field; None where all zero."""
    return bytes(raw).hex() if any(raw) else None
