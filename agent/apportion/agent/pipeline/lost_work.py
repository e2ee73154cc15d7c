"""The step that was open when its process died: its direct cost moves to `lost`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apportion.core.category import Category
from apportion.cost.ledger.batch import UNADJUSTED, ChargeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.agent.pipeline.ring_state import RingState
    from apportion.cost.ledger.batch import Row
    from apportion.cost.ledger.history import History

REASON = "process_died"


def lost_lines(
    ring: RingState,
    charged_ns: int,
    posted: Sequence[Row],
    history: History,
    *,
    first_charge_key: int,
    posted_ns: int,
) -> list[Row]:
    """Lines that move what was ever posted `direct` to lost steps charged up to `charged_ns`.

    `posted` are the lines of this tick; earlier ones are read from the ledger.
    """
    ended = ring.ended()
    ended = ended[ended["end_ns"] <= charged_ns]
    lines: list[Row] = []
    for number, start_ns in zip(ended["number"].tolist(), ended["start_ns"].tolist(), strict=True):
        if number not in ring.lost:
            continue
        rows = history.charges_of_span(ring.key, number, start_ns)
        rows += [row for row in posted if row[6:8] == (ring.key, number)]
        for row in rows:
            if row[3] != int(Category.DIRECT):
                continue
            for sign, category, entity in (
                (-1, Category.DIRECT, row[5]),
                (1, Category.LOST, ring.run_entity),
            ):
                amounts = (None if amount is None else sign * amount for amount in row[11:14])
                lines.append(
                    (
                        first_charge_key + len(lines),
                        int(ChargeKind.REALLOCATION),
                        row[2],
                        int(category),
                        row[4],
                        entity,
                        *row[6:10],
                        posted_ns,
                        *amounts,
                        row[14],
                        row[15],
                        REASON,
                        row[17],
                        *UNADJUSTED,
                    )
                )
    return lines
