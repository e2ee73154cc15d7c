"""Reads one ring: what its process ended, what it has open, and whether it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest.clock_offset import ClockPair
from apportion.agent.ingest.file import RingFile
from apportion.agent.ingest.header import (
    CHANGING_OFFSET,
    FIXED_BYTES,
    UNKNOWN_BOOT,
    HeaderState,
    is_complete,
    parse_header,
    parse_state,
    past,
)
from apportion.agent.ingest.holes import HOLE_NS, MOST_HOLES, Holes
from apportion.agent.ingest.identity import RingIdentity, parse_identity
from apportion.agent.ingest.liveness import writer_pid
from apportion.agent.ingest.losses import LossWindow
from apportion.agent.ingest.open_slots import OpenSlots
from apportion.agent.ingest.position import Position
from apportion.agent.ingest.record import (
    FUTURE_NS,
    NO_FLAGS,
    NO_RECORDS,
    NO_ROWS,
    Flags,
    Integers,
    Records,
    numbers_of,
    open_words_of,
    records_of,
    words_of,
)
from apportion.agent.ingest.record_window import Decided, RecordWindow
from apportion.agent.ingest.refusal import Refusal, RingRefused
from apportion.agent.ingest.slots import RecordSlots, Scratch
from apportion.agent.ingest.words import WordTable
from apportion.client import layout
from apportion.core.clock import Clock
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_SECOND

LOOK_NS: Final = NS_PER_SECOND // 50
"""Two looks closer together than this are one: a store may take as long to be visible."""
_LARGEST_OFFSET_NS: Final = 1 << 61
_NO_WORDS: Final = np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll of a ring brought. Times are host monotonic nanoseconds.

    `records` (numpy type `RECORD`) are new, each handed out once, by sequence; `late` is
    parallel: this one was a hole before. Commit them together with `position`. `lost`,
    `abandoned`, `invalid` and `loss_windows` are new too; their totals are in `position`.
    `open_spans` (type `OPEN_SLOT`) is what is open now; of a dead writer, what it left open.
    `words` is the ring's table so far, `devices` the UUIDs that its framework reported.
    `pending` records have been seen and are not decided yet. `finished`: the writer is dead
    and nothing is left to read.
    """

    ring: RingId
    records: Records
    late: Flags
    open_spans: Records
    lost: int
    abandoned: int
    invalid: int
    loss_windows: tuple[LossWindow, ...]
    position: Position
    pending: int
    words: tuple[str | None, ...]
    devices: tuple[str, ...]
    state: HeaderState
    alive: bool
    finished: bool


class RingReader:
    """Reads one open file by polls; never maps it, never trusts it.

    Made from a file whose magic has been seen one look ago, or whose writer is dead. Takes over
    `file`. A reader belongs to one thread, as does its `scratch`.
    """

    def __init__(
        self,
        file: RingFile,
        start: Position,
        clock: Clock,
        *,
        scratch: Scratch | None = None,
        clock_offset_ns: Callable[[ClockPair, int], int] = lambda _pair, _host_pid: 0,
        boot_id: bytes = UNKNOWN_BOOT,
        writer: Callable[[int], int | None] = writer_pid,
        hole_ns: int = HOLE_NS,
        most_holes: int = MOST_HOLES,
    ) -> None:
        """Continue from `start`.

        `clock_offset_ns(created, host_pid)` is what the host's clock is ahead of the ring's;
        `boot_id` is the host's (16 bytes; zeros: unknown); `writer(fd)` says who holds the
        writer's lock.

        Raises:
            RingRefused: the file is no ring that can be read. `file` stays open.
        """
        now_ns = clock.monotonic_ns()
        self._file, self._clock, self._writer, self._boot_id = file, clock, writer, boot_id
        if file.size_bytes() < layout.HEADER_BYTES:
            raise RingRefused(
                Refusal.WRONG_SIZE, f"{file.size_bytes()} bytes long: shorter than a header"
            )
        raw = file.read(0, layout.HEADER_BYTES)
        if not is_complete(raw):
            raise RingRefused(Refusal.BAD_HEADER, "it does not begin as a ring does")
        self._header = header = parse_header(raw)
        self._fixed = raw[:CHANGING_OFFSET]
        host_pid = writer(file.fd)
        self._offset_ns = clock_offset_ns(header.created, host_pid or 0)
        self._check(now_ns)
        self._raw_state: bytes = b""
        self._state = HeaderState()
        self._scratch = scratch or Scratch()
        slots = RecordSlots(
            file.read_into,
            header,
            self._scratch,
            head=start.read,
            created_ns=header.created.monotonic_ns + self._offset_ns,
        )
        holes = Holes(start.holes, now_ns, hole_ns, most_holes)
        self._window = RecordWindow(
            slots, header, start, holes, clock_offset_ns=self._offset_ns, now_ns=now_ns
        )
        self._open_slots = OpenSlots(header, self._offset_ns)
        self._words = WordTable(file.read, header)
        self._named_spans = self._open_slots.spans
        self._position = start
        self._looked_ns: int | None = None
        self._unlocked_ns: int | None = None
        self.died_ns: int | None = None
        """When the writer was first seen dead; None while it lives."""
        self.identity: Final = self._identify(raw, host_pid, now_ns)
        """Whose ring it is."""

    @property
    def ring(self) -> RingId:
        """The ring's id."""
        return self._header.ring

    @property
    def state(self) -> HeaderState:
        """The header's changing words as last read."""
        return self._state

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode of the file."""
        return self._file.inode

    @property
    def finished(self) -> bool:
        """Whether the writer is dead and nothing is left to read."""
        return self._window.finished

    def limit(self, rows: int) -> None:
        """Have at most about `rows` records under way at once."""
        self._window.rows = rows

    def poll(self) -> Poll:
        """Look once. A poll too soon after the last one brings nothing new.

        Raises:
            RingRefused: the file is no longer a ring that can be read; close the reader.
        """
        now_ns = self._clock.monotonic_ns()
        too_soon = self._looked_ns is not None and now_ns - self._looked_ns < LOOK_NS
        if too_soon or self._window.finished:
            return self._poll(NO_RECORDS, NO_FLAGS, (), self._position)
        # Dead before the looks: only then is what they show final.
        settled = self._settled(now_ns)
        self._file.check(self._header.file_bytes)
        self._read_state(now_ns)
        # Open slots before records: a span that ends between the two is seen twice, not never.
        self._look_at_open_slots(now_ns, settled=settled)
        decided = self._window.look(now_ns, settled=settled)
        rows, late = _merged(decided)
        if len(rows):
            self._open_slots.end(numbers_of(rows))
        self._words.look(self._used_words(rows), settled=settled)
        self._looked_ns = self._clock.monotonic_ns()
        records = records_of(rows) if len(rows) else NO_RECORDS
        return self._poll(records, late, tuple(decided.loss_windows), self._window.position)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _poll(
        self, records: Records, late: Flags, windows: tuple[LossWindow, ...], position: Position
    ) -> Poll:
        before, self._position = self._position, position
        return Poll(
            ring=self._header.ring,
            records=records,
            late=late,
            open_spans=self._open_slots.spans,
            lost=position.lost - before.lost,
            abandoned=position.abandoned - before.abandoned,
            invalid=position.invalid - before.invalid,
            loss_windows=windows,
            position=position,
            pending=self._window.pending,
            words=self._words.texts,
            devices=self._words.devices,
            state=self._state,
            alive=self.died_ns is None,
            finished=self._window.finished,
        )

    def _settled(self, now_ns: int) -> bool:
        if self.died_ns is not None:
            return True
        try:
            locked = self._writer(self._file.fd) is not None
        except OSError as error:
            raise RingRefused(
                Refusal.UNREADABLE, f"asking for its writer's lock failed: {error.strerror}"
            ) from error
        if locked:
            self._unlocked_ns = None
        elif self._unlocked_ns is None:
            # Once is not enough: a writer may take the lock just after it made the file.
            self._unlocked_ns = now_ns
        else:
            self.died_ns = self._unlocked_ns
        return self.died_ns is not None

    def _read_state(self, now_ns: int) -> None:
        raw = self._file.read(0, FIXED_BYTES)
        if raw == self._raw_state:
            return
        if not raw.startswith(self._fixed):
            raise RingRefused(Refusal.BAD_HEADER, "its header changed while it was read")
        self._raw_state = raw
        self._state = parse_state(raw, self._offset_ns, now_ns)

    def _look_at_open_slots(self, now_ns: int, *, settled: bool) -> None:
        slots = self._header.open_slot_capacity
        self._file.read_into(
            self._scratch.open_memory[: slots * layout.OPEN_SLOT_BYTES],
            self._header.open_slots_offset,
        )
        self._open_slots.look(self._scratch.open_table[:slots], now_ns, settled=settled)

    def _used_words(self, rows: Integers) -> NDArray[np.uint32]:
        """Words that new records, and open spans that changed, name."""
        spans = self._open_slots.spans
        if spans is self._named_spans:
            return words_of(rows).ravel() if len(rows) else _NO_WORDS
        self._named_spans = spans
        named = np.concatenate(open_words_of(spans["words"])).astype(np.uint32)
        return np.concatenate([words_of(rows).ravel(), named])

    def _check(self, now_ns: int) -> None:
        header = self._header
        if header.boot_id != self._boot_id and UNKNOWN_BOOT not in {header.boot_id, self._boot_id}:
            raise RingRefused(
                Refusal.OTHER_BOOT, f"written on boot {UUID(bytes=header.boot_id)}, before this one"
            )
        size_bytes = self._file.size_bytes()
        if size_bytes != header.file_bytes:
            raise RingRefused(
                Refusal.WRONG_SIZE, f"{size_bytes} bytes long, not {header.file_bytes}"
            )
        created_ns = header.created.monotonic_ns
        if not (
            abs(self._offset_ns) < _LARGEST_OFFSET_NS
            and 0 <= created_ns < _LARGEST_OFFSET_NS
            and 0 <= created_ns + self._offset_ns <= now_ns + FUTURE_NS
        ):
            raise RingRefused(
                Refusal.BAD_HEADER, f"its clock ({created_ns} ns) is not of this boot of this host"
            )

    def _identify(self, raw: bytes, host_pid: int | None, now_ns: int) -> RingIdentity:
        header, offset_ns = self._header, self._offset_ns
        said = raw[layout.IDENTITY_OFFSET : layout.IDENTITY_OFFSET + header.identity_length]
        return RingIdentity(
            ring=header.ring,
            pid=header.pid,
            host_pid=host_pid or None,
            uid=self._file.uid,
            boot_id=str(UUID(bytes=header.boot_id)),
            created_ns=header.created.monotonic_ns + offset_ns,
            process_start_ns=past(header.process_start_ns, offset_ns, now_ns),
            init_ns=past(header.init_ns, offset_ns, now_ns),
            clock_offset_ns=offset_ns,
            record_capacity=header.record_capacity,
            said=parse_identity(said),
        )


def _merged(decided: Decided) -> tuple[Integers, Flags]:
    """All records of a look, by sequence, and which of them were late."""
    parts = decided.late + decided.records
    if not parts:
        return NO_ROWS, NO_FLAGS
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    late = np.zeros(len(rows), np.bool_)
    late[: len(decided.late)] = True
    return rows, late
