"""What one ring says of engines: iterations, and who was scheduled in them; kept in the ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from apportion.agent.pipeline.merged_iterations import (
    ITERATION,
    NO_ITERATIONS,
    iterations_of,
)
from apportion.agent.pipeline.scheduled import NO_TURNS, SCHEDULED, turns_of
from apportion.agent.pipeline.server_engines import MOST_ENGINES
from apportion.client import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from apportion.agent.pipeline.merged_iterations import Iterations
    from apportion.agent.pipeline.scheduled import Turns

_SCHEDULED: Final = layout.KINDS["scheduled"]


class EngineRecords(NamedTuple):
    """Rows of type `ITERATION` and of type `SCHEDULED`."""

    iterations: Iterations
    turns: Turns

    @classmethod
    def of(cls, records: NDArray[np.void], anchor_ns: int) -> EngineRecords:
        """Ring records of engines; node time is the ring's plus `anchor_ns`."""
        records = records[records["engine"] < MOST_ENGINES]
        scheduled = (records["packed"] & 0xFF) == _SCHEDULED
        return cls(
            iterations_of(records[~scheduled], anchor_ns), turns_of(records[scheduled], anchor_ns)
        )

    @classmethod
    def joined(cls, parts: Sequence[EngineRecords]) -> EngineRecords:
        """All of `parts`, in their order."""
        return cls(
            np.concatenate([NO_ITERATIONS, *(part.iterations for part in parts)]),
            np.concatenate([NO_TURNS, *(part.turns for part in parts)]),
        )

    @property
    def engines(self) -> list[int]:
        """The indices of the engines that they are of."""
        columns = (self.iterations["engine"], self.turns["engine"])
        found: list[int] = np.unique(np.concatenate(columns)).tolist()
        return found

    def of_engine(self, engine: int) -> EngineRecords:
        """Those of one."""
        rows, turns = self.iterations, self.turns
        return EngineRecords(rows[rows["engine"] == engine], turns[turns["engine"] == engine])

    @property
    def end_ns(self) -> int:
        """When the last of them ended; 0 where there are none."""
        ends = (self.iterations["end_ns"], self.turns["end_ns"])
        return max(int(column.max(initial=0)) for column in ends)

    def after(self, keep_ns: int) -> EngineRecords:
        """Those that ended after `keep_ns`, and of each engine the last iteration before.

        An engine that schedules ahead writes turns down before their last iteration has ended, but
        not before the one before that has.
        """
        rows, turns = self.iterations, self.turns
        keep, keep_turns = rows["end_ns"] > keep_ns, turns["end_ns"] > keep_ns
        # What follows begins where it ends.
        for engine in np.unique(rows["engine"][~keep]).tolist():
            older = np.flatnonzero(~keep & (rows["engine"] == engine))
            last = older[np.argmax(rows["end_ns"][older])]
            keep[last] = True
            keep_turns |= (turns["engine"] == engine) & (turns["end_ns"] > rows["end_ns"][last])
        return EngineRecords(rows[keep], turns[keep_turns])

    def first_needed_ns(self) -> int:
        """The first end among them: what the ledger has from before is needed no more."""
        ends = np.concatenate([self.iterations["end_ns"], self.turns["end_ns"]])
        return int(ends.min(initial=np.iinfo(np.int64).max))

    def to_json(self) -> str:
        """For the ledger's `iteration` table."""
        columns = [self.iterations[name].tolist() for name in ITERATION.names or ()]
        turns = [self.turns[name].tolist() for name in (SCHEDULED.names or ())[:-1]]
        names = [name.decode("utf-8", "surrogateescape") for name in self.turns["request_id"]]
        return json.dumps([columns, [*turns, names]], separators=(",", ":"))

    @classmethod
    def of_json(cls, text: str) -> EngineRecords:
        """The inverse of `to_json`."""
        columns, [*turns, names] = json.loads(text)
        ids = [name.encode("utf-8", "surrogateescape") for name in names]
        return cls(_table(columns, ITERATION), _table([*turns, ids], SCHEDULED))


def _table(columns: Sequence[Sequence[object]], kind: np.dtype[np.void]) -> NDArray[np.void]:
    rows = np.zeros(len(columns[0]), kind)
    for name, column in zip(kind.names or (), columns, strict=True):
        rows[name] = column
    return rows
