"""Asks the ledger once a minute what the budgets have spent. A thread with a connection of its own.

The ledger and not the counters on /metrics: it knows of the time before a restart, of reallocations
and of new prices.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_MINUTE
from apportion.cost.budget import Spent, spent
from apportion.cost.ledger.reader import LedgerReader

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from apportion.core.clock import Clock
    from apportion.cost.budget import Budget

_LOG: Final = logging.getLogger(__name__)
PERIOD_NS: Final = NS_PER_MINUTE


class BudgetWatch:
    """Of one node's ledger. A `Runner` service; other threads read `latest` and `complaint`."""

    name = "budgets"

    def __init__(self, ledger: str, budgets: Sequence[Budget], clock: Clock) -> None:
        self._ledger, self._budgets, self._clock = ledger, tuple(budgets), clock
        self.latest: tuple[Spent, ...] = ()
        self.complaint: str | None = None
        """Why what was spent is not known."""

    def run(self, stop: threading.Event) -> None:
        """Once a minute look."""
        while not stop.is_set():
            self.look()
            self._clock.wait(stop, PERIOD_NS)

    def look(self) -> None:
        """Ask now. Where the ledger does not answer budgets are shown without what was spent."""
        now_ns = self._clock.realtime_ns()
        try:
            with LedgerReader.of(self._ledger, clock=self._clock) as ledger:
                self.latest = spent(ledger, self._budgets, now_ns)
            self.complaint = None
        except LedgerError as error:
            self._failed(now_ns, str(error))
        except Exception as error:  # noqa: BLE001 - a budget can wait, metering cannot: the agent goes on
            _LOG.exception("what the budgets have spent could not be read")
            self._failed(now_ns, type(error).__name__)

    def _failed(self, now_ns: int, reason: str) -> None:
        self.latest = tuple(Spent(each, *each.period(now_ns)) for each in self._budgets)
        self.complaint = f"budgets: what was spent is not known: {reason}"
