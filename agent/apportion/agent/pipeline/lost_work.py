"""Lines that move to `lost` what work cost that came to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apportion.core.category import Category
from apportion.cost.ledger.batch import UNADJUSTED, ChargeKind
from apportion.cost.training.lost_query import HANG, PROCESS_DIED, ROLLED_BACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apportion.agent.pipeline.ring_state import RingState
    from apportion.agent.pipeline.runs import LostWork, Runs
    from apportion.cost.ledger.batch import Row
    from apportion.cost.ledger.history import History


class LostLines:
    """The lines of one tick; `rows` are numbered from `first_charge_key` on."""

    def __init__(self, history: History, *, first_charge_key: int, posted_ns: int) -> None:
        self._history = history
        self._first_key, self._posted_ns = first_charge_key, posted_ns
        self.rows: list[Row] = []

    def died(self, ring: RingState, charged_ns: int, posted: Sequence[Row]) -> None:
        """Move what was ever posted `direct` to lost steps charged up to `charged_ns`.

        `posted` are the lines of this tick; earlier ones are read from the ledger.
        """
        ended = ring.ended()
        ended = ended[ended["end_ns"] <= charged_ns]
        for number, start_ns in zip(
            ended["number"].tolist(), ended["start_ns"].tolist(), strict=True
        ):
            if number not in ring.lost:
                continue
            rows = self._history.charges_of_span(ring.key, number, start_ns)
            rows += [row for row in posted if row[6:8] == (ring.key, number)]
            for row in rows:
                if row[3] == int(Category.DIRECT):
                    self._move(row, ring.run_entity, PROCESS_DIED)

    def in_vain(self, work: LostWork, runs: Runs) -> None:
        """Move what finished steps that were rolled back cost, and the waiting before."""
        known = [
            one
            for ring in {one.process.ring for one in work.rollbacks}
            for one in runs.rolled_back(ring)
        ]
        for row in self._history.step_lines(work.rollbacks, known):
            self._move(row, runs.entity(row[6]), ROLLED_BACK)
        for row in self._history.waiting_lines(work.hangs):
            self._move(row, row[5], HANG)

    def _move(self, row: Row, to_entity: int | None, reason: str) -> None:
        """Two lines: what a line of the ledger says leaves its payer and goes to `lost`."""
        if not any(row[11:14]):
            return
        for sign, category, entity in ((-1, row[3], row[5]), (1, int(Category.LOST), to_entity)):
            amounts = (None if amount is None else sign * amount for amount in row[11:14])
            self.rows.append(
                (
                    self._first_key + len(self.rows),
                    int(ChargeKind.REALLOCATION),
                    row[2],
                    category,
                    row[4],
                    entity,
                    *row[6:10],
                    self._posted_ns,
                    *amounts,
                    row[14],
                    row[15],
                    reason,
                    row[17],
                    *UNADJUSTED,
                )
            )
