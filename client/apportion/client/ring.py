"""The writer's side of a ring file: making it, its words, its slots, closing it.

Spans write their records themselves, straight into the views that a slot hands them: a call per
record would cost as much as the record.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, cast

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.encoding import word_text
from apportion.client.locking import guarded
from apportion.client.process import Process
from apportion.client.records import OPEN, WORD_CODE

WORD: Final = 8
"""Bytes of one aligned store."""
NUMBER_BLOCK: Final = 256
"""Spans that may pass until one takes the long way."""
CAPACITY_LIMIT: Final = 1 << 20
_LABEL_SET_CAPACITY: Final = 4096
_SPARE: Final = layout.IDENTITY_OFFSET // WORD - 1
"""A word that no field has: what ends a span without an open slot clears it."""

LabelSet: TypeAlias = tuple[object, object, object]
"""Tenant, model and adapter, as the user gave them."""

LabelWords: TypeAlias = tuple[int, int]
"""Word index of a tenant with the model's in the upper half, and the adapter's."""

Slot: TypeAlias = tuple[
    int,  # its guard: an index of `words`
    int,  # its other fields: a byte of `payload`
    "memoryview[int]",  # the file as 8-byte words
    "memoryview[int]",  # the file from its second word, so that a payload follows its guard
    Callable[[], tuple[int, int, int]],  # takes a record: sequence, guard, byte of `payload`
    Callable[["Slot"], object],  # gives the slot back
    "Ring",
]
"""An open slot, with all that ending its span needs: one attribute of a span instead of seven."""

ENDED: Final[tuple[()]] = ()
"""In place of a slot after the end. Open is what has a slot: None and this are false."""


class Facts(NamedTuple):
    """What the header says beside the layout's sizes. Times in nanoseconds, 0 where unknown."""

    ring_id: bytes
    process: Process
    init_ns: int
    created_monotonic_ns: int
    created_realtime_ns: int
    ready_ns: int
    identity: bytes
    resumed_step: int = 0
    resumed_ns: int = 0


def _positions(capacity: int) -> Callable[[], tuple[int, int, int]]:
    """Takes the next record: its sequence, its guard's word, its payload's byte.

    One call into C that no other thread can come between, so that both always belong together.
    """
    first = layout.RECORDS_OFFSET
    end = first + layout.RECORD_BYTES * capacity
    words = range(first // WORD, end // WORD, layout.RECORD_BYTES // WORD)
    offsets = range(first, end, layout.RECORD_BYTES)
    around = itertools.chain.from_iterable
    return zip(
        itertools.count(1), around(itertools.repeat(words)), around(itertools.repeat(offsets))
    ).__next__


def _none_left() -> Slot:
    raise ValueError("the ring is closed")


class Ring:
    """One process's ring, mapped and locked for as long as this object lives."""

    def __init__(self, path: str, fd: int, file: mmap.mmap, capacity: int) -> None:
        self.path = path
        self.capacity = capacity
        self.clock_bits = 0
        """Of `packed`: which clock spans carry, once that is known."""
        # Never open this file again in this process: closing any descriptor of it, mmap's own
        # copy included, drops the POSIX lock by which the agent knows that we live.
        self._fd = fd
        self._file = file
        self._pid = os.getpid()
        whole = memoryview(file)
        self.words: memoryview[int] = whole.cast(WORD_CODE)
        self.payload: memoryview[int] = whole[WORD:]
        self._next_block = itertools.count(1, NUMBER_BLOCK).__next__
        self.renew_numbers()
        self._take = _positions(capacity)
        self.free: list[Slot] = []
        """Open slots that nobody has; the last one is taken first, IndexError if there is none."""
        self.take_slot: Callable[[], Slot] = self.free.pop
        give = self.free.append
        first = layout.OPEN_SLOTS_OFFSET
        last = first + layout.OPEN_SLOT_BYTES * (layout.OPEN_SLOT_CAPACITY - 1)
        for offset in range(last, first - 1, -layout.OPEN_SLOT_BYTES):
            give((offset // WORD, offset, self.words, self.payload, self._take, give, self))
        self.spare: Slot = (_SPARE, _SPARE * WORD, self.words, self.payload, self._take, id, self)
        """In place of an open slot where none is free: nobody reads it."""
        self._open_overflow = itertools.count(1).__next__
        self._word_overflow = itertools.count(1).__next__
        self._next_word = itertools.count(layout.OTHER_WORD).__next__
        self._labels = {layout.OTHER_TEXT: layout.OTHER_WORD}
        self.label_words: dict[object, LabelWords] = {}
        """By tenant, or by (tenant, model, adapter), as the user gave them."""

    @classmethod
    def create(
        cls, directory: str, facts: Facts, capacity: int, suffix: str = layout.FILE_SUFFIX
    ) -> Ring:
        """Make, lock and map a new ring file; it becomes a ring when its magic is stored, last.

        Raises:
            OSError: the file could not be made, locked, reserved (a full tmpfs) or mapped.
                Nothing is left behind.
        """
        if sys.byteorder != "little":
            raise OSError("rings are little-endian: this machine is not")
        if not 1 <= capacity <= CAPACITY_LIMIT:
            raise OSError(f"capacity {capacity} is not between 1 and {CAPACITY_LIMIT} records")
        path = f"{directory}/{facts.ring_id.hex()}{suffix}"
        size = layout.file_bytes(capacity)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, layout.FILE_MODE)
        try:
            os.fchmod(fd, layout.FILE_MODE)  # whatever the umask
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, layout.LOCK_OFFSET)
            # Before the mapping: touching a page that a full tmpfs cannot give would kill us.
            os.posix_fallocate(fd, 0, size)
            file = mmap.mmap(fd, size)
        except BaseException:
            os.unlink(path)  # noqa: PTH108 - no Path in a workload's process
            os.close(fd)
            raise
        ring = cls(path, fd, file, capacity)
        ring._write_header(facts)
        return ring

    def _write_header(self, facts: Facts) -> None:
        values: dict[str, int | bytes] = {
            "version": layout.VERSION,
            "header_bytes": layout.HEADER_BYTES,
            "record_bytes": layout.RECORD_BYTES,
            "record_capacity": self.capacity,
            "word_bytes": layout.WORD_BYTES,
            "word_capacity": layout.WORD_CAPACITY,
            "open_slot_bytes": layout.OPEN_SLOT_BYTES,
            "open_slot_capacity": layout.OPEN_SLOT_CAPACITY,
            "ring_id": facts.ring_id,
            "boot_id": facts.process.boot_id,
            "pid": facts.process.pid,
            "process_start_ticks": facts.process.start_ticks,
            "process_start_ns": facts.process.start_ns,
            "init_ns": facts.init_ns,
            "created_monotonic_ns": facts.created_monotonic_ns,
            "created_realtime_ns": facts.created_realtime_ns,
            "ready_ns": facts.ready_ns,
            "identity_length": len(facts.identity),
            "resumed_step": facts.resumed_step,
            "resumed_ns": facts.resumed_ns,
        }
        for name, offset, code in layout.HEADER_FIELDS:
            if name in values:
                struct.pack_into(f"@{code}", self._file, offset, values[name])
        end = layout.IDENTITY_OFFSET + len(facts.identity)
        self._file[layout.IDENTITY_OFFSET : end] = facts.identity
        self.add_word(layout.OTHER_TEXT, layout.WORD_LABEL)
        self._set("magic", layout.MAGIC)

    def _set(self, name: str, value: int) -> None:
        self.words[layout.HEADER_OFFSETS[name] // WORD] = value

    def set_ready(self, now_ns: int) -> None:
        """Say in the header that the server has finished starting."""
        self._set("ready_ns", now_ns)

    def set_resumed(self, step: int, now_ns: int) -> None:
        """Say in the header that the program's state is that of `step` from now on."""
        self._set("resumed_ns", 0)  # else the new step would be read with the old time
        self._set("resumed_step", step)
        self._set("resumed_ns", now_ns)

    def renew_numbers(self) -> None:
        """Begin another block of span numbers, of which `next_number` gives each once.

        At a block's end it raises StopIteration: a span that would take the short way takes the
        long one, and looks around.
        """
        first = self._next_block()
        self.next_number = iter(range(first, first + NUMBER_BLOCK)).__next__

    def number(self) -> int:
        """The number of another span."""
        try:
            return self.next_number()
        except StopIteration:
            self.renew_numbers()
            return self.number()

    def open_slot(self, number: int, parent: int, packed: int, words: int, step: int) -> Slot:
        """A slot that says what is about to run; its guard is still 0.

        Where none is free, the spare one, which nobody reads; the header counts it.
        """
        try:
            slot = self.take_slot()
        except IndexError:
            self._set("open_overflow", self._open_overflow())
            return self.spare
        # Its guard has been 0 since the file was made or its last span ended.
        OPEN.pack_into(self.payload, slot[1], number, parent, packed, words, step)
        return slot

    @guarded
    def write(self, form: struct.Struct, *fields: object) -> None:
        """A record that no span stands behind; its fields from the second on."""
        sequence, guard, offset = self._take()
        self.words[guard] = 0
        form.pack_into(self.payload, offset, *fields)
        self.words[guard] = sequence

    @property
    def idle(self) -> bool:
        """Whether no span is open in it, those without an open slot not counted."""
        return len(self.free) == layout.OPEN_SLOT_CAPACITY

    @guarded
    def add_word(self, text: str, kind: int) -> int:
        """Append a word of a kind (WORD_LABEL, WORD_DEVICE) to the table; its index, or OTHER."""
        index = self._next_word()
        if index >= layout.WORD_CAPACITY:
            self._set("word_overflow", self._word_overflow())
            count("names_folded")
            return layout.OTHER_WORD
        stored = word_text(text)
        offset = layout.WORDS_OFFSET + index * layout.WORD_BYTES
        begin = offset + layout.WORD_TEXT_OFFSET
        self._file[begin : begin + len(stored)] = stored
        self.words[offset // WORD] = layout.WORD_USED | kind << 16 | len(stored)
        return index

    def _label(self, text: object) -> int:
        if not isinstance(text, str):
            if text is not None:
                count("label_ignored")
            return layout.NO_WORD
        if not text:
            return layout.NO_WORD
        index = self._labels.get(text)
        if index is None:
            index = self.add_word(text, layout.WORD_LABEL)
            if index != layout.OTHER_WORD:  # else the dictionary would grow without bound
                self._labels[text] = index
        return index

    def intern(self, key: object) -> LabelWords:
        """Word indices of a new key of `label_words`, kept there while there is room."""
        labels = cast("LabelSet", key) if isinstance(key, tuple) else (key, None, None)
        tenant, model, adapter = (self._label(text) for text in labels)
        found = tenant | model << 32, adapter
        if len(self.label_words) < _LABEL_SET_CAPACITY:
            with contextlib.suppress(TypeError):  # something unhashable among them
                self.label_words[key] = found
        return found

    def record_bytes(self, sequence: int) -> bytes:
        """A copy of the record's slot: opening the file to look would drop our lock on it."""
        offset = layout.RECORDS_OFFSET + layout.RECORD_BYTES * ((sequence - 1) % self.capacity)
        return self._file[offset : offset + layout.RECORD_BYTES]

    def close(self, now_ns: int) -> None:
        """End the ring cleanly: the agent reads what is left. Spans still open end nowhere."""
        if os.getpid() != self._pid:
            return
        try:
            self._set("closed_ns", now_ns)
        except ValueError:  # closed before
            return
        self.forget()

    def forget(self) -> None:
        """Let go of file, mapping and lock and write nothing: what a forked child does.

        A released view raises ValueError at any later store, so that nothing of this process
        ever reaches a ring that is not its own, and the hot path needs no check for it.
        """
        self.take_slot = _none_left
        try:
            self.words.release()
            self.payload.release()
            self._file.close()
            os.close(self._fd)
        except (BufferError, OSError):
            # A store in another thread holds the mapping: it and the descriptor stay until exit.
            count("internal_error")
