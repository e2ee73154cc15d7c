"""What runs now: the open slots of one ring, believed after two equal polls."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest.header import RingHeader
from apportion.agent.ingest.record import (
    NO_OPEN_SPANS,
    OPEN_SLOT,
    OPEN_SLOT_WORDS,
    Integers,
    Records,
    believable_open,
)
from apportion.core.units import NS_PER_SECOND

LINGER_NS: Final = NS_PER_SECOND
"""How long a span whose slot was cleared still counts as open, unless its record came."""
_START, _NUMBER = 0, 1
_TIME_COLUMNS: Final = (0, 4, 5)


class OpenSlots:
    """Turns looks at the slots into spans that are surely open.

    A slot is cleared as its span ends, but the record needs three polls to be believed. Between
    the two the span stays in the answer: otherwise settlement, which waits for the oldest open
    request, would pass over one that is just being read. A span whose slot is being updated
    stays as it was last believed.
    """

    def __init__(self, header: RingHeader, clock_offset_ns: int) -> None:
        self._word_capacity = header.word_capacity
        self._clock_offset_ns = clock_offset_ns
        self._previous = np.zeros((header.open_slot_capacity, OPEN_SLOT_WORDS), np.int64)
        self._previous_used: NDArray[np.int64] = np.empty(0, np.int64)
        self._believed: Integers = np.empty((0, OPEN_SLOT_WORDS), np.int64)
        self._shown: tuple[bytes, bytes] | None = None
        self._lingering: dict[int, tuple[Integers, int]] = {}
        self._finished: set[int] = set()
        self.spans: Records = NO_OPEN_SPANS
        """Believed open spans, times on the host's clock; a new array where it changed."""
        self.invalid = 0
        """Slots of the last look that no span could have written."""

    def look(self, table: Integers, now_ns: int, *, settled: bool) -> None:
        """Take in one look: `table` is `(slots, 8)`, a copy of the file's slots.

        `settled` says that the writer is dead, so that this look alone is final.
        """
        used = table[:, _START].nonzero()[0]
        if not (used.size or self._previous_used.size or self._lingering or len(self._believed)):
            return
        rows = table[used]
        shown = (used.tobytes(), rows.tobytes())
        if shown != self._shown or self._lingering or settled:
            stable = rows if settled else rows[(rows == self._previous[used]).all(axis=1)]
            self._previous[self._previous_used] = 0
            self._previous[used] = rows
            self._previous_used = used
            # Two equal looks in a row: the third and later ones have nothing to add.
            self._shown = shown if len(stable) == len(rows) else None
            if self._lingering or stable.tobytes() != self._believed.tobytes():
                self._renew(stable, now_ns, settled=settled)

    def end(self, finished: NDArray[np.int64]) -> None:
        """Spans of these numbers have ended: their records were accepted at this poll."""
        if not (finished.size and len(self.spans)):
            return
        numbers = self.spans["number"].tolist()
        ended = set(numbers).intersection(finished.tolist())
        if not ended:
            return
        # Not to come back while the writer is stopped between its last two stores.
        self._finished |= ended
        for number in ended & self._lingering.keys():
            del self._lingering[number]
        self.spans = self.spans[[number not in ended for number in numbers]]

    def _renew(self, stable: Integers, now_ns: int, *, settled: bool) -> None:
        numbers = stable[:, _NUMBER].tolist()
        open_now = set(numbers)
        if settled:
            self._lingering = {}
        else:
            before = dict(zip(self._believed[:, _NUMBER].tolist(), self._believed, strict=True))
            for number in before.keys() - open_now - self._finished:
                self._lingering.setdefault(number, (before[number], now_ns + LINGER_NS))
            self._lingering = {
                number: (row, until_ns)
                for number, (row, until_ns) in self._lingering.items()
                if number not in open_now and until_ns > now_ns
            }
        self._finished &= open_now
        self._believed = stable
        late = [row for row, _ in self._lingering.values()]
        table = np.concatenate([stable, np.array(late)]) if late else stable.copy()
        if self._clock_offset_ns:
            for column in _TIME_COLUMNS:
                times = table[:, column]
                times[times != 0] += self._clock_offset_ns
        spans: Records = table.view(OPEN_SLOT).reshape(len(table))
        good = believable_open(spans, now_ns, self._word_capacity)
        self.invalid = len(good) - int(np.count_nonzero(good))
        if self._finished:
            good &= ~np.isin(table[:, _NUMBER], list(self._finished))
        self.spans = spans[good]
