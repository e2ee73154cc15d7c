"""Looks at the record slots of one ring: copies with `pread`, and the newest sequence seen."""

from __future__ import annotations

from typing import Final

import numpy as np

from apportion.agent.ingest.file import ReadInto
from apportion.agent.ingest.header import MAXIMUM_OPEN_SLOT_CAPACITY, RingHeader
from apportion.agent.ingest.record import OPEN_SLOT_WORDS, RECORD_WORDS, Integers
from apportion.agent.ingest.refusal import Refusal, RingRefused
from apportion.client import layout

FIRST_CHUNK: Final = 64
"""Records read to see whether anything is new; each further chunk is twice as long."""
CORRUPT_LOOKS: Final = 3
"""A sequence that cannot be there is forgiven this often in a row, less one."""
_LEAST_RECORD_NS: Final = 10
"""No writer ends spans faster than this: a sequence beyond it is made up."""


class Scratch:
    """A buffer for looks, shared by all readers of a thread; what is kept is copied out of it."""

    def __init__(self, rows: int = 8192) -> None:
        self.rows: Final = max(rows, 2 * FIRST_CHUNK)
        buffer = bytearray(self.rows * layout.RECORD_BYTES)
        self.memory: Final = memoryview(buffer)
        self.table: Final[Integers] = np.frombuffer(buffer, np.int64).reshape(-1, RECORD_WORDS)
        slots = bytearray(MAXIMUM_OPEN_SLOT_CAPACITY * layout.OPEN_SLOT_BYTES)
        self.open_memory: Final = memoryview(slots)
        self.open_table: Final[Integers] = np.frombuffer(slots, np.int64).reshape(
            -1, OPEN_SLOT_WORDS
        )
        self.numbers: Final[Integers] = np.arange(self.rows, dtype=np.int64)


class RecordSlots:
    """Fills the scratch with the slots of consecutive sequences.

    After `fill`, row i of the scratch is the slot of sequence `low + i`. `head` is the newest
    sequence that any slot has shown.
    """

    def __init__(
        self,
        read_into: ReadInto,
        header: RingHeader,
        scratch: Scratch,
        *,
        head: int,
        created_ns: int,
    ) -> None:
        self.capacity: Final = header.record_capacity
        self.head = head
        self.scratch: Final = scratch
        self._read_into = read_into
        self._offset = header.records_offset
        self._created_ns = created_ns
        self._largest = self.capacity
        self._corrupt = False
        self._corrupt_looks = 0

    def begin(self, now_ns: int) -> None:
        """A new look begins at `now_ns` (host monotonic).

        Raises:
            RingRefused: impossible sequences stood there at several looks in a row.
        """
        self._corrupt_looks = self._corrupt_looks + 1 if self._corrupt else 0
        if self._corrupt_looks >= CORRUPT_LOOKS:
            raise RingRefused(
                Refusal.CORRUPT, "slots hold sequences that no writer could have put there"
            )
        self._corrupt = False
        age_ns = max(0, now_ns - self._created_ns)
        self._largest = self.capacity + age_ns // _LEAST_RECORD_NS

    def fill(self, low: int, *, least: int, most: int) -> int:
        """Read slots from `low` on in growing chunks; how many.

        At least `least`, at most `most` (and the scratch, and the ring), and no further than
        half a chunk in which nothing is new, unless a newer sequence is known.

        Raises:
            RingRefused: the file cannot be read.
        """
        most = min(most, self.capacity, self.scratch.rows)
        rows, chunk = 0, FIRST_CHUNK
        while rows < most:
            chunk_low, before = low + rows, rows
            rows = min(rows + chunk, most)
            self._copy(low + before, rows - before, before)
            newest = self._inspect(chunk_low, before, rows)
            quiet = newest < before + (rows - before) // 2
            if quiet and rows >= least and self.head < low + rows:
                break
            chunk *= 2
        return rows

    def fill_few(self, low: int) -> int | None:
        """Read the first chunk from `low` on; how many records have come in order.

        None where that is not the whole truth: a newer record, or more than the chunk holds.
        Raises as `fill` does.
        """
        rows = min(FIRST_CHUNK, self.capacity)
        self._copy(low, rows, 0)
        shown = self.scratch.table[:rows, 0].tolist()
        arrived = 0
        while arrived < rows and shown[arrived] == low + arrived:
            arrived += 1
        newest = low + arrived - 1
        if arrived == rows or max(shown[arrived:]) > newest or newest > self._largest:
            return None
        self.head = max(self.head, newest)
        return arrived if self.head == newest else None

    def fill_exactly(self, low: int, rows: int) -> None:
        """Read `rows` slots from `low` on; raises as `fill` does."""
        self._copy(low, rows, 0)
        self._inspect(low, 0, rows)

    def sweep(self) -> None:
        """Look at every slot once, only to find `head`; raises as `fill` does."""
        first = max(0, self.head - self.capacity) + 1
        for low in range(first, first + self.capacity, self.scratch.rows):
            self.fill_exactly(low, min(self.scratch.rows, first + self.capacity - low))

    def _copy(self, low: int, rows: int, at: int) -> None:
        """Slots of `low` ... to the scratch from row `at` on, in two parts where the ring wraps."""
        size = layout.RECORD_BYTES
        while rows:
            slot = (low - 1) % self.capacity
            part = min(rows, self.capacity - slot)
            target = self.scratch.memory[at * size : (at + part) * size]
            self._read_into(target, self._offset + slot * size)
            low, at, rows = low + part, at + part, rows - part

    def _inspect(self, low: int, start: int, end: int) -> int:
        """Take `head` from rows `start` to `end`; the last row that is current or newer, or -1.

        A sequence that cannot be in its slot is made 0 in the copy, as if it had not come.
        """
        sequences = self.scratch.table[start:end, 0]
        ahead = sequences - self.scratch.numbers[: end - start]
        ahead -= low
        new = (ahead >= 0).nonzero()[0]
        if not new.size:
            return -1
        found = sequences[new]
        wrong = (ahead[new] % self.capacity != 0) | (found < 0) | (found > self._largest)
        if wrong.any():
            self._corrupt = True
            sequences[new[wrong]] = 0
            new, found = new[~wrong], found[~wrong]
            if not new.size:
                return -1
        self.head = max(self.head, int(found.max()))
        return start + int(new[-1])
