"""What was read and is not committed yet; a failed commit keeps it for the next one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apportion.agent.pipeline.open_root import OpenRoot
    from apportion.agent.pipeline.spans import Decoded
    from apportion.core.category import SpanStatus
    from apportion.cost.ledger.batch import Row


@dataclass(slots=True)
class Unsaved:
    """Rows by table, and what the totals need once they are in the ledger."""

    spans: list[Row] = field(default_factory=list["Row"])
    decoded: list[Decoded] = field(default_factory=list["Decoded"])
    unrecorded: list[tuple[OpenRoot, SpanStatus]] = field(
        default_factory=list["tuple[OpenRoot, SpanStatus]"]
    )
    """Spans that ended without a record."""
    readings: list[Row] = field(default_factory=list["Row"])
    bindings: list[Row] = field(default_factory=list["Row"])
    wall: list[Row] = field(default_factory=list["Row"])
