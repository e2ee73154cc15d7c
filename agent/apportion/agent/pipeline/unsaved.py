"""What was read and is not committed yet; a failed commit keeps it for the next one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apportion.agent.pipeline.spans import joined, span_rows

if TYPE_CHECKING:
    from apportion.agent.pipeline.open_root import OpenRoot
    from apportion.agent.pipeline.spans import Decoded
    from apportion.core.category import SpanStatus
    from apportion.cost.ledger.batch import Row


@dataclass(slots=True)
class Unsaved:
    """Rows by table, and what the totals need once they are in the ledger."""

    read: dict[int, list[Decoded]] = field(default_factory=dict[int, "list[Decoded]"])
    """Records by the key of their ring, as polls brought them; see `records`."""
    unrecorded: list[tuple[OpenRoot, SpanStatus]] = field(
        default_factory=list["tuple[OpenRoot, SpanStatus]"]
    )
    """Spans that ended without a record."""
    unrecorded_rows: list[Row] = field(default_factory=list["Row"])
    readings: list[Row] = field(default_factory=list["Row"])
    bindings: list[Row] = field(default_factory=list["Row"])
    wall: list[Row] = field(default_factory=list["Row"])
    _spans: int = 0

    @property
    def spans(self) -> int:
        """How many spans wait."""
        return self._spans + len(self.unrecorded)

    def absorb(self, ring: int, decoded: Decoded) -> None:
        """Keep what a poll of one ring brought."""
        self.read.setdefault(ring, []).append(decoded)
        self._spans += decoded.records.size

    def records(self) -> dict[int, Decoded]:
        """What was read of each ring, in one piece: far cheaper to go through than polls are."""
        for ring, parts in self.read.items():
            if len(parts) > 1:
                self.read[ring] = [joined(parts)]
        return {ring: parts[0] for ring, parts in self.read.items()}

    def span_rows(self) -> list[Row]:
        """The rows of `span`."""
        rows = list(self.unrecorded_rows)
        for ring, decoded in self.records().items():
            rows += span_rows(decoded, ring)
        return rows
