"""A writer of rings for tests: every 8-byte store is a value that can be held back."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from apportion.client import layout

BOOT_ID = bytes(range(16))
SMALL_WORDS = 16
SMALL_SLOTS = 8


class Store(NamedTuple):
    """One aligned store of 8 bytes."""

    offset: int
    value: bytes


def stores(offset: int, raw: bytes) -> list[Store]:
    """`raw`, whose length is a multiple of 8, as stores in order."""
    return [Store(offset + at, raw[at : at + 8]) for at in range(0, len(raw), 8)]


def word(value: int) -> bytes:
    """A store's bytes."""
    return (value & (1 << 64) - 1).to_bytes(8, "little")


def packed(kind: int = 1, status: int = 1, phase: int = 0, clock: int = 0, flags: int = 0) -> int:
    """The `packed` word of records and open slots."""
    return kind | status << 8 | phase << 16 | clock << 24 | flags << 32


def record(sequence: int, **changes: int | bytes) -> bytes:
    """A whole record, every word of which depends on its sequence; `changes` by field name."""
    start_ns = 1_000 + 10 * sequence
    values: dict[str, int | bytes] = {
        "sequence": sequence,
        "number": sequence,
        "parent": sequence // 2,
        "packed": packed(1 + sequence % 5, 1 + sequence % 4, sequence % 13, sequence % 3, sequence),
        "arrival_ns": start_ns - 1,
        "start_ns": start_ns,
        "scheduled_ns": start_ns + 1,
        "first_token_ns": start_ns + 2,
        "end_ns": start_ns + 5,
        "step": sequence,
        **{name: 7 * sequence + at for at, name in enumerate(layout.COUNTERS)},
        "reserved": 3 * sequence,
        "tenant": sequence % SMALL_WORDS,
        "model": sequence // 2 % SMALL_WORDS,
        "adapter": sequence // 3 % SMALL_WORDS,
        "engine": sequence % 1_000,
        "trace_id": hashlib.blake2b(word(sequence), digest_size=16).digest(),
        "trace_parent": hashlib.blake2b(word(sequence), digest_size=8).digest(),
        "thread_id": 11 * sequence,
        "request_id": hashlib.blake2b(word(sequence), digest_size=64).digest(),
        **changes,
    }
    raw = bytearray(layout.RECORD_BYTES)
    for name, offset, code in layout.RECORD_FIELDS:
        struct.pack_into(f"@{code}", raw, offset, values[name])
    return bytes(raw)


class RingWriter:
    """Makes a ring file and stores into it with `pwrite`, one word at a time where it matters."""

    def __init__(
        self,
        path: Path,
        *,
        capacity: int = 16,
        word_capacity: int = SMALL_WORDS,
        open_slot_capacity: int = SMALL_SLOTS,
        ring_id: bytes | None = None,
        identity: object = None,
        lock: bool = False,
        complete: bool = True,
        **header: int | bytes,
    ) -> None:
        self.path = path
        self.capacity = capacity
        self.words_offset = layout.HEADER_BYTES
        self.open_slots_offset = self.words_offset + layout.WORD_BYTES * word_capacity
        self.records_offset = self.open_slots_offset + layout.OPEN_SLOT_BYTES * open_slot_capacity
        self.size_bytes = self.records_offset + layout.RECORD_BYTES * capacity
        self.taken = 0
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        if lock:
            self.lock()
        os.ftruncate(self.fd, self.size_bytes)
        raw_identity = b"" if identity is None else json.dumps(identity).encode()
        values: dict[str, int | bytes] = {
            "magic": layout.MAGIC if complete else 0,
            "version": layout.VERSION,
            "header_bytes": layout.HEADER_BYTES,
            "record_bytes": layout.RECORD_BYTES,
            "record_capacity": capacity,
            "word_bytes": layout.WORD_BYTES,
            "word_capacity": word_capacity,
            "open_slot_bytes": layout.OPEN_SLOT_BYTES,
            "open_slot_capacity": open_slot_capacity,
            "ring_id": bytes.fromhex(path.stem) if ring_id is None else ring_id,
            "boot_id": BOOT_ID,
            "pid": os.getpid(),
            "created_monotonic_ns": 1,
            "created_realtime_ns": 1_700_000_000_000_000_000,
            "identity_length": len(raw_identity),
            **header,
        }
        for name, value in values.items():
            self.set_header(name, value)
        os.pwrite(self.fd, raw_identity, layout.IDENTITY_OFFSET)

    def lock(self) -> None:
        """Hold the writer's lock from now on."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, layout.LOCK_OFFSET)

    def set_header(self, name: str, value: int | bytes) -> None:
        """Store one header field."""
        (code,) = (code for field, _, code in layout.HEADER_FIELDS if field == name)
        os.pwrite(self.fd, struct.pack(f"@{code}", value), layout.HEADER_OFFSETS[name])

    def apply(self, *wanted: Store) -> None:
        """Make stores visible."""
        for store in wanted:
            os.pwrite(self.fd, store.value, store.offset)

    def take(self) -> int:
        """The next sequence; its slot is taken from now on."""
        self.taken += 1
        return self.taken

    def record_stores(self, sequence: int, **changes: int | bytes) -> list[Store]:
        """What a writer stores for a record, in program order."""
        offset = self.records_offset + (sequence - 1) % self.capacity * layout.RECORD_BYTES
        raw = record(sequence, **changes)
        return [Store(offset, word(0)), *stores(offset + 8, raw[8:]), Store(offset, raw[:8])]

    def write(self, count: int = 1, **changes: int | bytes) -> None:
        """Take and store records at once."""
        for _ in range(count):
            sequence = self.take()
            offset = self.records_offset + (sequence - 1) % self.capacity * layout.RECORD_BYTES
            os.pwrite(self.fd, record(sequence, **changes), offset)

    def word_stores(
        self, index: int, text: str | bytes, kind: int = layout.WORD_LABEL, used: int = 1
    ) -> list[Store]:
        """What a writer stores for a word, in program order."""
        raw = text.encode() if isinstance(text, str) else text
        offset = self.words_offset + index * layout.WORD_BYTES
        padded = raw + bytes(-len(raw) % 8)
        state = len(raw) | kind << 16 | used * layout.WORD_USED
        return [*stores(offset + layout.WORD_TEXT_OFFSET, padded), Store(offset, word(state))]

    def open_stores(self, slot: int, start_ns: int, number: int, **changes: int) -> list[Store]:
        """What a writer stores for an open span, in program order."""
        offset = self.open_slots_offset + slot * layout.OPEN_SLOT_BYTES
        values = {"parent": 0, "packed": packed(1, 0), "scheduled_ns": 0, "first_token_ns": 0}
        fields: Mapping[str, int] = {**values, "words": 0, "step": -1, **changes, "number": number}
        tail = [
            Store(offset + at, word(fields[name]))
            for name, at, _ in layout.OPEN_SLOT_FIELDS
            if name != "start_ns"
        ]
        return [Store(offset, word(0)), *tail, Store(offset, word(start_ns))]

    def clear_stores(self, slot: int) -> list[Store]:
        """What a writer stores when an open span ends."""
        return [Store(self.open_slots_offset + slot * layout.OPEN_SLOT_BYTES, word(0))]

    def shown(self) -> Iterator[int]:
        """The sequence that each slot shows now."""
        for slot in range(self.capacity):
            raw = os.pread(self.fd, 8, self.records_offset + slot * layout.RECORD_BYTES)
            yield int.from_bytes(raw, "little")

    def close(self) -> None:
        """End the writer's life: the kernel drops its lock."""
        os.close(self.fd)
