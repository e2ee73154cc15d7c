"""Sequences that were passed over: their slot was taken, but the record had not come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from apportion.agent.ingest.record import Integers
from apportion.core.units import NS_PER_MINUTE

HOLE_NS: Final = 10 * NS_PER_MINUTE
"""How long a record may be late."""
MOST_HOLES: Final = 1024
"""More are not remembered: the oldest are given up first."""
_LOOKS_AT_ONCE: Final = 16


@dataclass(slots=True)
class Hole:
    """What is known of one: since when, at how many looks in a row its record was there."""

    since_ns: int
    seen: bool = False
    copy: Integers | None = None
    """The record as copied at the last look, if it was there at the look before as well."""


class Holes:
    """Remembers holes, looks at some of them at every poll, and gives up the old ones."""

    def __init__(self, start: Iterable[int], now_ns: int, patience_ns: int, most: int) -> None:
        self._holes = {sequence: Hole(now_ns) for sequence in start}
        self._patience_ns = patience_ns
        self._most = most
        self._next = 0
        self.sequences: tuple[int, ...] = tuple(self._holes)
        """Those still awaited, ascending."""

    def add(self, found: dict[int, Hole]) -> int:
        """Remember more, all newer than any known; how many old ones were given up for them."""
        self._holes |= found
        over = list(self._holes)[: max(0, len(self._holes) - self._most)]
        return self._forget(over)

    def look(
        self, read: Callable[[int], Integers], *, floor: int, now_ns: int, settled: bool
    ) -> tuple[list[Integers], int]:
        """The records that came, by sequence, and how many holes were given up.

        `read` copies the slot of a sequence, as a table of one row; slots of sequences up to
        `floor` have been taken again. Of a dead writer (`settled`) one look decides.
        """
        if not self._holes:
            return [], 0
        came: list[int] = []
        records: list[Integers] = []
        for sequence in self._chosen(settled=settled):
            record = self._look_at(sequence, read, settled=settled)
            if record is not None:
                came.append(sequence)
                records.append(record)
        self._forget(came)
        given_up = [
            sequence
            for sequence, hole in self._holes.items()
            if settled
            or sequence <= floor
            or (now_ns - hole.since_ns >= self._patience_ns and not hole.seen)
        ]
        return records, self._forget(given_up)

    def _chosen(self, *, settled: bool) -> list[int]:
        """Those that were seen and, in turn, a few of the others."""
        if settled or len(self._holes) <= _LOOKS_AT_ONCE:
            return list(self._holes)
        start = self._next % len(self.sequences)
        self._next = start + _LOOKS_AT_ONCE
        turn = self.sequences[start : start + _LOOKS_AT_ONCE]
        return sorted({*turn, *(number for number, hole in self._holes.items() if hole.seen)})

    def _look_at(
        self, sequence: int, read: Callable[[int], Integers], *, settled: bool
    ) -> Integers | None:
        hole = self._holes[sequence]
        record = read(sequence)
        if int(record[0, 0]) != sequence:
            hole.seen, hole.copy = False, None
            return None
        if settled:
            return record
        accepted = hole.copy
        hole.copy = record if hole.seen else None
        hole.seen = True
        return accepted

    def _forget(self, sequences: list[int]) -> int:
        for sequence in sequences:
            del self._holes[sequence]
        self.sequences = tuple(self._holes)
        return len(sequences)
