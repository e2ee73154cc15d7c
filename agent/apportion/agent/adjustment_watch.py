"""Asks the ledger now and then what new prices have changed. A thread with a connection of its own.

Prices are applied to what is settled by a command, another process: only the ledger tells of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from apportion.agent.snapshot import AdjustmentKey
from apportion.core.category import Category
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.repricing.adjusted import adjusted
from apportion.cost.repricing.posting import NEW_PRICE, PRICE_RULE

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from apportion.core.clock import Clock

_LOG: Final = logging.getLogger(__name__)
PERIOD_NS: Final = 30 * NS_PER_SECOND
RAISED, LOWERED = "raised", "lowered"


class AdjustmentWatch:
    """Of one agent's lines. A `Runner` service; other threads read `units` and `applied_unix_ns`.

    `units` begin at 0 with the process, as all counters do.
    """

    name = "adjustments"

    def __init__(self, ledger: str, agent_id: int, clock: Clock) -> None:
        self._ledger, self._agent_id, self._clock = ledger, agent_id, clock
        self._least_key: int | None = None
        self._said = ""
        # `rate` does not see a counter's first value, so each is there from the beginning.
        self._sums = Counter(
            {
                # What comes after `lost` is never metered: rules of prices alone add to it.
                AdjustmentKey(each, change, PRICE_RULE if each > Category.LOST else NEW_PRICE): 0
                for each, change in product(Category, (RAISED, LOWERED))
            }
        )
        self.units: Mapping[AdjustmentKey, int] = MappingProxyType(dict(self._sums))
        self.applied_unix_ns: int | None = None
        """When prices were last applied, by this process' time or before it; None: never."""

    def run(self, stop: threading.Event) -> None:
        """Look again and again."""
        while not stop.is_set():
            self.look()
            self._clock.wait(stop, PERIOD_NS)

    def look(self) -> None:
        """Ask now. Where the ledger does not answer, what came meanwhile is found the next time."""
        try:
            with (
                LedgerReader.of(self._ledger, clock=self._clock) as ledger,
                ledger.read() as connection,
            ):
                found = adjusted(connection, self._agent_id, self._least_key)
        except LedgerError as error:
            _LOG.debug("what new prices have changed could not be read: %s", error)
            return
        except Exception:  # noqa: BLE001 - a figure can wait, metering cannot: the agent goes on
            _LOG.exception("what new prices have changed could not be read")
            return
        self._least_key = found.least_key
        for one in found.sums:
            self._sums[AdjustmentKey(one.category, RAISED, one.reason)] += one.raised_units
            self._sums[AdjustmentKey(one.category, LOWERED, one.reason)] += one.lowered_units
        self.units = MappingProxyType(dict(self._sums))
        self.applied_unix_ns = found.posted_unix_ns or self.applied_unix_ns
