"""Asks the ledger once an hour who spends most. A thread with a connection of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.spenders import top_spenders

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from apportion.core.clock import Clock

_LOG: Final = logging.getLogger(__name__)
PERIOD_NS: Final = NS_PER_HOUR
LATELY_NS: Final = 24 * NS_PER_HOUR


class SpenderWatch:
    """Of one node's ledger. A `Runner` service; another thread takes what it found."""

    name = "spenders"

    def __init__(self, ledger: str, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self._found: Mapping[str, Mapping[str, int]] | None = None

    def run(self, stop: threading.Event) -> None:
        """Once an hour look, the first time when there is an hour to look at."""
        while not self._clock.wait(stop, PERIOD_NS):
            self.look()

    def look(self) -> None:
        """Ask now. Where the ledger does not answer, places stay as they are."""
        since_ns = self._clock.realtime_ns() - LATELY_NS
        try:
            with LedgerReader.of(self._ledger, clock=self._clock) as ledger:
                self._found = top_spenders(ledger, since_ns)
        except LedgerError as error:
            _LOG.debug("who spends most could not be read: %s", error)
        except Exception:  # noqa: BLE001 - names can wait, metering cannot: the agent goes on
            _LOG.exception("who spends most could not be read")

    def take(self) -> Mapping[str, Mapping[str, int]] | None:
        """What each name cost lately, by dimension; None where nothing is new."""
        found, self._found = self._found, None
        return found
