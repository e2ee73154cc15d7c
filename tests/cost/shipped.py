"""A ledger whose every commit is shipped at once, and that is read from the shared one."""

from __future__ import annotations

from apportion.core.clock import SystemClock
from apportion.cost.ledger.batch import TickBatch
from apportion.cost.ledger.engine import ledger_url, open_engine, shown
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.ledger.shared import SharedLedger
from apportion.cost.ledger.ship import Shipped, ship
from apportion.cost.rollups.piece import ROWS_AT_ONCE
from apportion.cost.rollups.roll import Roller

OUTBOX_BYTES = 64 << 20


class ShippedLedger(LedgerReader):
    """Reads are those of the shared ledger at `url`, writes those of `node`, shipped."""

    def __init__(self, node: Ledger, url: str) -> None:
        parsed = ledger_url(url)
        super().__init__(open_engine(parsed, read_only=True), shown(parsed), node.clock)
        self.node = node
        self.writing = open_engine(parsed)
        self.agent_id = node.agent_id
        self._shared = SharedLedger(url, SystemClock())
        node.outbox.switch_on(OUTBOX_BYTES)
        ship_all(node, self._shared)

    def commit(self, batch: TickBatch) -> None:
        """See `Ledger`."""
        self.node.commit(batch)
        ship_all(self.node, self._shared)

    def close(self) -> None:
        """All of it."""
        super().close()
        self.writing.dispose()
        self._shared.close()
        self.node.close()


def roller(ledger: Ledger | ShippedLedger, *, most_rows: int = ROWS_AT_ONCE) -> Roller:
    """Rolls up what reads of `ledger` see: a node's own, or the shared one."""
    if isinstance(ledger, ShippedLedger):
        reading = ledger._engine
        return Roller(ledger.writing, ledger.name, reading=reading, most_rows=most_rows)
    return Roller(ledger._engine, ledger.name, most_rows=most_rows)


def ship_all(ledger: Ledger, shared: SharedLedger) -> list[Shipped]:
    """Ship until nothing waits; what each step did."""
    steps = [ship(ledger, shared)]
    while not steps[-1].done:
        steps.append(ship(ledger, shared))
    return steps
