"""How far a ring's process came with its steps: what tells a restart from a first start."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from apportion.core.category import SpanKind, SpanStatus

if TYPE_CHECKING:
    from apportion.agent.pipeline.open_root import OpenRoot
    from apportion.agent.pipeline.spans import Decoded
    from apportion.cost.ledger.batch import Row


@dataclass(slots=True)
class StepProgress:
    """Node time in ns; None where there was none. Steps without a number have only times.

    `first_step` is the lowest number of a step that began, `last_step` the highest of one that
    was finished; `first_ns` and `last_ns` are when the first step began and the last one ended,
    `failed` whether that one had failed. `resumed_*` is the last checkpoint that was loaded.
    """

    first_step: int | None = None
    first_ns: int | None = None
    last_step: int | None = None
    last_ns: int | None = None
    failed: bool = False
    resumed_step: int | None = None
    resumed_ns: int | None = None

    def began(self, root: OpenRoot) -> None:
        """A root span runs."""
        if root.kind is SpanKind.STEP:
            self.first_ns = min(root.start_ns, self.first_ns or root.start_ns)
            if root.step >= 0:
                known = self.first_step
                self.first_step = root.step if known is None else min(known, root.step)

    def ended(self, decoded: Decoded) -> None:
        """Records were read."""
        is_step = (decoded.records["parent"] == 0) & (decoded.kind == int(SpanKind.STEP))
        if not is_step.any():
            return
        steps = decoded.records[is_step]
        start_ns, end_ns = int(steps["start_ns"].min()), int(steps["end_ns"].max())
        self.first_ns = min(start_ns, self.first_ns or start_ns)
        if self.last_ns is None or end_ns >= self.last_ns:
            self.last_ns = end_ns
            last = decoded.status[is_step][steps["end_ns"].argmax()]
            self.failed = bool(last != int(SpanStatus.OK))
        numbers = steps["step"][steps["step"] >= 0]
        if numbers.size:
            lowest, highest = int(numbers.min()), int(numbers.max())
            self.first_step = lowest if self.first_step is None else min(self.first_step, lowest)
            self.last_step = highest if self.last_step is None else max(self.last_step, highest)

    def resumed(self, step: int, at_ns: int) -> None:
        """The process says that it has the state of `step` since then."""
        self.resumed_step, self.resumed_ns = step, at_ns

    def to_row(self) -> Row:
        """Its columns of `ring_position`, in their order."""
        first_step, first_ns, last_step, last_ns, failed, *resumed = astuple(self)
        return (first_step, first_ns, last_step, last_ns, int(failed), *resumed)

    @classmethod
    def from_row(cls, row: Row) -> StepProgress:
        """The inverse of `to_row`; a ledger of the first release has none of it."""
        first_step, first_ns, last_step, last_ns, failed, resumed_step, resumed_ns = row
        known = (first_step, first_ns, last_step, last_ns, bool(failed))
        return cls(*known, resumed_step, resumed_ns)
