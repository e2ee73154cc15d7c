"""The fixed part of a ring's header, decoded and believed only where it fits the layout."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from apportion.agent.ingest.clock_offset import ClockPair
from apportion.agent.ingest.refusal import Refusal, RingRefused
from apportion.client import layout
from apportion.core.ids import RingId

MAXIMUM_RECORD_CAPACITY: Final = 1 << 20
MAXIMUM_WORD_CAPACITY: Final = 4096
MAXIMUM_OPEN_SLOT_CAPACITY: Final = 4096
UNKNOWN_BOOT: Final = bytes(16)
LARGEST_STEP: Final = 1 << 53

FIXED_BYTES: Final = max(
    offset + struct.calcsize(f"@{code}") for _, offset, code in layout.HEADER_FIELDS
)
CHANGING_OFFSET: Final = layout.HEADER_OFFSETS["ready_ns"]
"""Header words from here on change while the writer lives; those before never do."""
_CHANGING: Final = struct.Struct("@qqQQ 8x qq")
_EXACT: Final = {
    "header_bytes": layout.HEADER_BYTES,
    "record_bytes": layout.RECORD_BYTES,
    "word_bytes": layout.WORD_BYTES,
    "open_slot_bytes": layout.OPEN_SLOT_BYTES,
}
_BOUNDED: Final = {
    "record_capacity": MAXIMUM_RECORD_CAPACITY,
    "word_capacity": MAXIMUM_WORD_CAPACITY,
    "open_slot_capacity": MAXIMUM_OPEN_SLOT_CAPACITY,
}


@dataclass(frozen=True, slots=True)
class RingHeader:
    """What the writer said when it made the file. Times are of the writer's own clock."""

    ring: RingId
    boot_id: bytes
    pid: int
    process_start_ns: int
    init_ns: int
    created: ClockPair
    record_capacity: int
    word_capacity: int
    open_slot_capacity: int
    identity_length: int

    @property
    def words_offset(self) -> int:
        """Where the table of words starts."""
        return layout.HEADER_BYTES

    @property
    def open_slots_offset(self) -> int:
        """Where the open slots start."""
        return self.words_offset + layout.WORD_BYTES * self.word_capacity

    @property
    def records_offset(self) -> int:
        """Where the records start."""
        return self.open_slots_offset + layout.OPEN_SLOT_BYTES * self.open_slot_capacity

    @property
    def file_bytes(self) -> int:
        """How long the file must be."""
        return self.records_offset + layout.RECORD_BYTES * self.record_capacity


@dataclass(frozen=True, slots=True)
class HeaderState:
    """The words of the header that change; times on the host's monotonic clock."""

    ready_ns: int | None = None
    """End of a server's startup; None until it said so."""
    closed_ns: int | None = None
    """Clean end of the process; None while it lives, and for ever if it was killed."""
    open_overflow: int = 0
    """Spans that found no open slot."""
    word_overflow: int = 0
    """Words that became `other`."""
    resumed: tuple[int, int] | None = None
    """(when, step): a checkpoint of that step was loaded then, lastly; None: never said."""


def is_complete(raw: bytes) -> bool:
    """Whether the magic, stored last, is there. `raw` is the start of the file."""
    magic = layout.MAGIC.to_bytes(8, "little")
    return raw[: len(magic)] == magic


def parse_header(raw: bytes) -> RingHeader:
    """Decode the first `FIXED_BYTES` of a complete file.

    Raises:
        RingRefused: `UNKNOWN_VERSION` or `BAD_HEADER`.
    """
    fields = {
        name: struct.unpack_from(f"@{code}", raw, offset)[0]
        for name, offset, code in layout.HEADER_FIELDS
    }
    version = fields["version"]
    if version != layout.VERSION:
        raise RingRefused(
            Refusal.UNKNOWN_VERSION,
            f"layout version {version}; this agent reads {layout.VERSION}: update the agent",
        )
    for name, expected in _EXACT.items():
        if fields[name] != expected:
            raise RingRefused(Refusal.BAD_HEADER, f"{name} is {fields[name]}, not {expected}")
    for name, most in _BOUNDED.items():
        if not 1 <= fields[name] <= most:
            raise RingRefused(Refusal.BAD_HEADER, f"{name} is {fields[name]}, not in 1..{most}")
    if fields["identity_length"] > layout.IDENTITY_BYTES:
        raise RingRefused(
            Refusal.BAD_HEADER,
            f"identity_length is {fields['identity_length']}, over {layout.IDENTITY_BYTES}",
        )
    return RingHeader(
        ring=RingId(fields["ring_id"].hex()),
        boot_id=fields["boot_id"],
        pid=fields["pid"],
        process_start_ns=fields["process_start_ns"],
        init_ns=fields["init_ns"],
        created=ClockPair(fields["created_monotonic_ns"], fields["created_realtime_ns"]),
        record_capacity=fields["record_capacity"],
        word_capacity=fields["word_capacity"],
        open_slot_capacity=fields["open_slot_capacity"],
        identity_length=fields["identity_length"],
    )


def parse_state(raw: bytes, clock_offset_ns: int, now_ns: int) -> HeaderState:
    """The changing words of a header; a time that is not in the past counts as not said."""
    ready_ns, closed_ns, open_overflow, word_overflow, resumed_step, resumed_ns = (
        _CHANGING.unpack_from(raw, CHANGING_OFFSET)
    )
    said_ns = past(resumed_ns, clock_offset_ns, now_ns)
    return HeaderState(
        ready_ns=past(ready_ns, clock_offset_ns, now_ns),
        closed_ns=past(closed_ns, clock_offset_ns, now_ns),
        open_overflow=open_overflow,
        word_overflow=word_overflow,
        resumed=None
        if said_ns is None or not 0 <= resumed_step < LARGEST_STEP
        else (said_ns, resumed_step),
    )


def past(time_ns: int, clock_offset_ns: int, now_ns: int) -> int | None:
    """A header's time on the host's clock; None where it is 0 (not said) or not in the past."""
    host_ns = time_ns + clock_offset_ns
    return host_ns if time_ns > 0 and 0 <= host_ns <= now_ns else None
