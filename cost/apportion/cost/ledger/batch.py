"""What one tick of settlement writes, as one transaction, and what it reads back to go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

Row = tuple[Any, ...]
"""The values of one row in the order of the table's columns, without the leading agent_id."""

UNADJUSTED: Final[Row] = (None, None)
"""The last columns of a `charge` that is no adjustment: `from_rate_key`, `priced_ns`."""


class ChargeKind(IntEnum):
    """What a line of the ledger is."""

    CHARGE = 1
    REALLOCATION = 2
    """Moves cost inside an interval; such lines sum to zero."""
    ADJUSTMENT = 3
    """Changes an interval's amount, because its rate changed."""


@dataclass(slots=True)
class TickBatch:
    """Rows by table, appended or replaced together or not at all.

    `inserted` rows are new. Of `span`, `reading`, `iteration` and `method` a row whose key exists
    already is the same fact again (read before a crash) and ignored; of `evidence` it replaces the
    known one (its end moved on); of any other table it is an error, and the whole tick is refused.
    `replaced` rows overwrite the row of their key; what is posted (`charge`, `settlement`,
    `settlement_part`, `repricing`, `price_rule`, `span`) never is. Accruals are removed first,
    then changed.
    """

    inserted: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    replaced: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    accruals_changed: list[Row] = field(default_factory=list[Row])
    accruals_removed: list[Row] = field(default_factory=list[Row])
    """Keys: the first eight columns after agent_id of `accrual`."""
    readings_before: dict[int, int] = field(default_factory=dict[int, int])
    """By device key: readings before this node time are settled and deleted."""
    iterations_before: dict[int, int] = field(default_factory=dict[int, int])
    """By ring key: engine iterations that ended by this node time are settled and deleted."""

    def insert(self, table: str, rows: list[Row]) -> None:
        """Append `rows` to a table."""
        if rows:
            self.inserted.setdefault(table, []).extend(rows)

    def replace(self, table: str, rows: list[Row]) -> None:
        """Write `rows` over those of the same key."""
        if rows:
            self.replaced.setdefault(table, []).extend(rows)


@dataclass(slots=True)
class LedgerState:
    """Everything that settlement needs after a restart: all rows of the small tables.

    `tables` maps a table's name to its rows without agent_id, for: boot, wall_offset, device,
    device_group, device_share, rate, entity, method, ring, ring_position, binding, lost_work,
    accrual, watermark, idle_power, reading, iteration. `spans` are the rows of `span` that end
    after the oldest watermark less the given margin; `next_charge_key` is the first free one.
    """

    agent_id: int
    tables: dict[str, list[Row]]
    spans: list[Row]
    next_charge_key: int
