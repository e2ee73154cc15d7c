"""The records of one ring, believed after three equal looks and counted exactly.

The writer stores 0 in a slot, then the payload, then the sequence, and has no store barrier:
the stores may become visible in any order, each within one interval between two looks. A slot
that shows the sequence s at a look held it, so the payload of s was stored before and is all
there at the next look, which copies it; and if the slot still shows s at the look after that,
the 0 of the slot's next record was not stored before the copy, and nor was any word of its
payload. So the copy is whole.

    look:      1            2            3
    stage:     -> SEEN      -> HELD      -> accepted (the copy of look 2)

A sequence is passed over only when a later one is accepted: until then `Position.read` stands
still, so that a crash of the reader at any moment loses and doubles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest.header import RingHeader
from apportion.agent.ingest.holes import Hole, Holes
from apportion.agent.ingest.losses import LossWindow, Stretch, loss_windows, stretches
from apportion.agent.ingest.position import Position
from apportion.agent.ingest.record import (
    NO_ROWS,
    Flags,
    Integers,
    believable,
    ends_ns_of,
    forget_odd_arrivals,
    move_times,
)
from apportion.agent.ingest.slots import RecordSlots
from apportion.core.units import NS_PER_SECOND

LOSS_PATIENCE_NS: Final = 5 * NS_PER_SECOND
"""A loss is told after this even if no record has survived since."""
SWEEP_NS: Final = 60 * NS_PER_SECOND
"""How often all slots are looked at, for records behind more holes than a chunk has."""
_JUMPS: Final = 8
"""How often one look goes after a writer that has lapped the reader."""

_SEEN, _HELD, _GONE = 1, 2, 255
_NO_STAGES: Final[NDArray[np.uint8]] = np.empty(0, np.uint8)


@dataclass(slots=True)
class Decided:
    """What one look has decided: records by sequence, those first that were holes before."""

    late: list[Integers] = field(default_factory=list[Integers])
    records: list[Integers] = field(default_factory=list[Integers])
    loss_windows: list[LossWindow] = field(default_factory=list[LossWindow])


class RecordWindow:
    """The sequences after `Position.read` that are being looked at.

    Sequences between `_read` and `_low` are lost, but that was not told yet; those from `_low`
    on have the stages of `_stages`, and `_copies` are the rows of the HELD ones, in order.
    Where these are some HELD and then some SEEN, `_orderly` has the two numbers instead.
    """

    def __init__(
        self,
        slots: RecordSlots,
        header: RingHeader,
        start: Position,
        holes: Holes,
        *,
        clock_offset_ns: int,
        now_ns: int,
    ) -> None:
        self._slots = slots
        self._ring = header.ring
        self._word_capacity = header.word_capacity
        self._clock_offset_ns = clock_offset_ns
        self._holes = holes
        self._read, self._low = start.read, start.read + 1
        self._lost, self._abandoned, self._invalid = start.lost, start.abandoned, start.invalid
        self._end_ns = start.end_ns or header.created.monotonic_ns + clock_offset_ns
        self._orderly: tuple[int, int] | None = (0, 0)
        self._stages = _NO_STAGES
        self._copies = NO_ROWS
        self._losing_since_ns: int | None = None
        self._swept_ns = now_ns
        self._settled = False
        self.rows = slots.scratch.rows
        """How many records may be under way at once: bounds the ring's memory."""

    @property
    def position(self) -> Position:
        """How far the ring has been read."""
        return Position(
            read=self._read,
            holes=self._holes.sequences,
            lost=self._lost,
            abandoned=self._abandoned,
            invalid=self._invalid,
            end_ns=self._end_ns,
        )

    @property
    def pending(self) -> int:
        """How many sequences have been seen and are not decided."""
        return max(0, self._slots.head - self._read) + len(self._holes.sequences)

    @property
    def finished(self) -> bool:
        """Whether all records of a dead writer are decided."""
        return self._settled and not self.pending

    def look(self, now_ns: int, *, settled: bool) -> Decided:
        """Look at the slots once and decide what can be decided.

        Two looks must be at least one store interval apart. `settled` says that the writer
        was dead before this look: what stands there is final, and one look is enough.

        Raises:
            RingRefused: the file cannot be read, or its sequences cannot be true.
        """
        self._slots.begin(now_ns)
        if settled != self._settled or (now_ns - self._swept_ns >= SWEEP_NS and not settled):
            self._slots.sweep()
            self._swept_ns, self._settled = now_ns, settled
        decided = Decided()
        came, given_up = self._holes.look(
            self._read_slot,
            floor=self._slots.head - self._slots.capacity,
            now_ns=now_ns,
            settled=settled,
        )
        self._abandoned += given_up
        for record in came:
            if self._admit(record, now_ns).all():
                decided.late.append(record)
        done = not settled and self._look_at_few(decided, now_ns)
        for _ in range(0 if done else _JUMPS):
            rows = self._fill(settled=settled)
            if not rows or not self._judge(rows, decided, now_ns, settled=settled):
                break
        self._tell_old_loss(decided, now_ns)
        return decided

    def _look_at_few(self, decided: Decided, now_ns: int) -> bool:
        """The usual case, without masks: few records, all in order, none lost or missing.

        True where it is that and all was decided; else nothing was.
        """
        if self._orderly is None:
            return False
        held, seen = self._orderly
        arrived = self._slots.fill_few(self._low)
        if arrived is None or arrived < held + seen:
            return False
        if not arrived:
            return True
        if held:
            self._hand_out(self._copies, self._admit(self._copies, now_ns), decided)
            self._read = self._low + held - 1
            self._low += held
        self._orderly = (seen, arrived - held - seen)
        rows = self._slots.scratch.table[held : held + seen]
        self._copies = rows.copy() if seen else NO_ROWS
        return True

    def _fill(self, *, settled: bool) -> int:
        if self._orderly is not None:
            self._stages = np.repeat(np.array([_HELD, _SEEN], np.uint8), self._orderly)
            self._orderly = None
        if settled:
            rows = min(self.rows, self._slots.capacity, self._slots.head - self._low + 1)
            if rows > 0:
                self._slots.fill_exactly(self._low, rows)
            return max(0, rows)
        most = max(self.rows, len(self._stages))
        return self._slots.fill(self._low, least=len(self._stages), most=most)

    def _judge(self, rows: int, decided: Decided, now_ns: int, *, settled: bool) -> bool:
        """Decide from `rows` slots in the scratch; True where another look pays at once."""
        scratch = self._slots.scratch
        floor = self._slots.head - self._slots.capacity
        arrived = scratch.table[:rows, 0] == scratch.numbers[:rows] + self._low
        if not len(self._stages) and floor < self._low and not arrived.any() and not settled:
            self._keep(self._stages, 0)
            return False
        stages = np.zeros(rows, np.uint8)
        stages[: len(self._stages)] = self._stages
        gone = stages == _GONE
        if settled:
            accepted = arrived & ~gone
            taken = scratch.table[:rows][accepted]
            final = rows
        else:
            held = stages == _HELD
            accepted = arrived & held
            taken = self._copies[arrived[held]]
            final = self._passed(arrived, accepted, stages)
        taken_again = min(rows, max(0, floor - self._low + 1))
        if taken_again and not settled:
            # Newly arrived in a slot that a later record has taken: its payload is not its own.
            gone[:taken_again] |= ~arrived[:taken_again] | (stages[:taken_again] == 0)
        elif taken_again:
            gone[:taken_again] |= ~arrived[:taken_again]
        stages = np.where(arrived, stages + 1, 0).astype(np.uint8)
        stages[gone] = _GONE
        if final:
            self._pass(final, accepted[:final], gone[:final], stages, taken, decided, now_ns)
        self._keep(stages[final:], final)
        return self._jump(floor)

    def _passed(self, arrived: Flags, accepted: Flags, stages: NDArray[np.uint8]) -> int:
        """How many rows are decided: up to the last accepted one.

        A window full of slots that never come, with newer records behind it, is passed too.
        """
        last = accepted.nonzero()[0]
        if last.size:
            return int(last[-1]) + 1
        stuck = len(arrived) >= self.rows and self._slots.head >= self._low + len(arrived)
        return len(arrived) if stuck and not arrived.any() and not stages.any() else 0

    def _pass(
        self,
        final: int,
        accepted: Flags,
        gone: Flags,
        stages: NDArray[np.uint8],
        taken: Integers,
        decided: Decided,
        now_ns: int,
    ) -> None:
        """Decide the first `final` rows: accepted, lost, a hole, or (settled) abandoned."""
        good = self._admit(taken, now_ns)
        lead = self._low - 1 - self._read
        if lead or gone.any():
            rows, ends_ns = accepted.nonzero()[0][good], ends_ns_of(taken)[good]
            self._lose(stretches(gone, lead), rows, ends_ns, decided, now_ns)
        self._hand_out(taken, good, decided)
        missing = (~accepted & ~gone).nonzero()[0]
        self._read = self._low + final - 1
        self._losing_since_ns = None
        if not missing.size:
            return
        if self._settled:
            self._abandoned += missing.size
            return
        table = self._slots.scratch.table
        self._abandoned += self._holes.add(
            {
                self._low + row: Hole(
                    now_ns,
                    seen=stages[row] > 0,
                    copy=table[row : row + 1].copy() if stages[row] == _HELD else None,
                )
                for row in missing.tolist()
            }
        )

    def _hand_out(self, taken: Integers, good: Flags, decided: Decided) -> None:
        kept = taken if good.all() else taken[good]
        if len(kept):
            self._end_ns = int(ends_ns_of(kept)[-1])
            decided.records.append(kept)

    def _keep(self, stages: NDArray[np.uint8], final: int) -> None:
        """Go on with the rows from `final` on; leading lost ones are only counted."""
        self._low += final
        busy = stages.nonzero()[0]
        stages = stages[: int(busy[-1]) + 1] if busy.size else _NO_STAGES
        lead = len(stages) - int(np.count_nonzero(np.logical_or.accumulate(stages != _GONE)))
        held = (stages == _HELD).nonzero()[0] + final
        # Fancy indexing copies, out of the scratch that the next ring will use.
        self._copies = self._slots.scratch.table[held] if held.size else NO_ROWS
        self._low += lead
        self._stages = stages = stages[lead:]
        if self._low - 1 == self._read and (stages == _SEEN)[len(held) :].all():
            # As many HELD as rows before the SEEN ones: they can only stand first.
            self._orderly = (len(held), len(stages) - len(held))

    def _jump(self, floor: int) -> bool:
        """Where all that was looked at is decided and more is gone: go on behind that."""
        if len(self._stages) or floor < self._low:
            return False
        self._low = floor + 1
        return True

    def _tell_old_loss(self, decided: Decided, now_ns: int) -> None:
        lead = self._low - 1 - self._read
        if not lead:
            self._losing_since_ns = None
        elif self._losing_since_ns is None:
            self._losing_since_ns = now_ns
        elif now_ns - self._losing_since_ns >= LOSS_PATIENCE_NS:
            none = np.empty(0, np.int64)
            self._lose([Stretch(-lead, -1)], none, none, decided, now_ns)
            self._read, self._end_ns = self._low - 1, now_ns
            self._losing_since_ns = None

    def _lose(
        self,
        runs: list[Stretch],
        accepted: NDArray[np.int64],
        ends_ns: NDArray[np.int64],
        decided: Decided,
        now_ns: int,
    ) -> None:
        windows = loss_windows(
            self._ring, runs, accepted, ends_ns, before_ns=self._end_ns, after_ns=now_ns
        )
        self._lost += sum(window.count for window in windows)
        decided.loss_windows.extend(windows)

    def _admit(self, table: Integers, now_ns: int) -> Flags:
        """Bring records to the host's clock; which of them can be true. Counts the others."""
        if self._clock_offset_ns:
            move_times(table, self._clock_offset_ns)
        forget_odd_arrivals(table)
        good = believable(table, now_ns, self._word_capacity)
        self._invalid += len(good) - int(np.count_nonzero(good))
        return good

    def _read_slot(self, sequence: int) -> Integers:
        self._slots.fill_exactly(sequence, 1)
        return self._slots.scratch.table[:1].copy()
