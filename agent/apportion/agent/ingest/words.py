"""The table of interned words of one ring: tenants, models, adapters, and device UUIDs."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest.file import Read
from apportion.agent.ingest.header import RingHeader
from apportion.agent.ingest.text import decoded
from apportion.client import layout

_AHEAD: Final = 8
"""Entries looked at beyond the last known one, now and then."""
_LOOKS_BETWEEN: Final = 8
_STATE: Final = struct.Struct("@Q")
_USED_BYTE: Final = (layout.WORD_USED.bit_length() - 1) // 8
"""Which byte of a state is never 0 once an entry is stored."""
_KIND_SHIFT: Final = 16
_LENGTH_MASK: Final = 0xFFFF


class WordTable:
    """Follows an append-only table without reading all of it at every poll.

    An entry is decoded when its state was seen at an earlier poll, or when a record that is
    believed names it: its stores were made before that record's, which have all arrived. The
    first decoding holds for ever, whatever a hostile writer does to the entry later.
    """

    def __init__(self, read: Read, header: RingHeader) -> None:
        self._read = read
        self._offset = header.words_offset
        self._capacity = header.word_capacity
        self._texts: list[str | None] = [None]
        if self._capacity > layout.OTHER_WORD:
            self._texts.append(layout.OTHER_TEXT)
        self._known = np.zeros(self._capacity, np.bool_)
        self._known[: len(self._texts)] = True
        self._looks = -1
        self._seen: frozenset[int] = frozenset()
        self.texts: tuple[str | None, ...] = tuple(self._texts)
        """By index. None: not said, not readable, or a device's UUID."""
        self.devices: tuple[str, ...] = ()
        """UUIDs that the framework reported, in the order of the table."""
        self.invalid = 0
        """Entries that contradict the layout."""

    def look(self, used: NDArray[np.integer], *, settled: bool) -> None:
        """Take in new entries.

        `used` are the indices, in range, that believed records and open spans name. `settled`
        says that the writer is dead, so that what stands there is final.

        Raises:
            RingRefused: the file cannot be read.
        """
        unknown = used[~self._known[used]] if used.size else used
        self._looks += 1
        if not (unknown.size or self._seen or settled or self._grew()):
            return
        raw = self._read(self._offset, self._capacity * layout.WORD_BYTES)
        states = np.frombuffer(raw, np.uint64)[:: layout.WORD_BYTES // 8]
        fresh = frozenset(np.flatnonzero((states != 0) & ~self._known).tolist())
        believed = fresh if settled else fresh & (self._seen | frozenset(unknown.tolist()))
        self._seen = fresh - believed
        if believed:
            for index in sorted(believed):
                self._decode(index, raw)
            self.texts = tuple(self._texts)

    def _grew(self) -> bool:
        """Whether there are entries that no record names: a device's UUID, above all."""
        if self._looks % _LOOKS_BETWEEN:
            return False
        frontier = len(self._texts)
        ahead = min(_AHEAD, self._capacity - frontier)
        if ahead <= 0:
            return False
        raw = self._read(self._offset + frontier * layout.WORD_BYTES, ahead * layout.WORD_BYTES)
        return any(raw[_USED_BYTE :: layout.WORD_BYTES])

    def _decode(self, index: int, raw: bytes) -> None:
        start = index * layout.WORD_BYTES
        (state,) = _STATE.unpack_from(raw, start)
        length, kind = state & _LENGTH_MASK, (state >> _KIND_SHIFT) & 0xFF
        self._known[index] = True
        self._texts.extend([None] * (index + 1 - len(self._texts)))
        if (
            not state & layout.WORD_USED
            or length > layout.WORD_TEXT_BYTES
            or kind not in {layout.WORD_LABEL, layout.WORD_DEVICE}
        ):
            self.invalid += 1
            return
        text_start = start + layout.WORD_TEXT_OFFSET
        text = decoded(raw[text_start : text_start + length])
        if kind == layout.WORD_DEVICE:
            self.devices = (*self.devices, text)
        else:
            self._texts[index] = text
