"""Looks after the ledger beside settlement: rolls it up, and lets go of what is old.

A thread with connections of its own. It works in small pieces with pauses between them, so that
neither the ledger's lock nor the interpreter's is held for long.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError, LedgerUnavailable
from apportion.cost.ledger.engine import DEFAULT_BUSY_TIMEOUT_MS, ledger_url, open_engine, shown
from apportion.cost.retention import Retention
from apportion.cost.rollups.roll import Roller

if TYPE_CHECKING:
    import threading

    from apportion.core.clock import Clock
    from apportion.cost.keeping import Keep

_LOG: Final = logging.getLogger(__name__)
PERIOD_NS: Final = 60_000_000_000
PAUSE_NS: Final = 100_000_000
"""Between two pieces."""


class Upkeep:
    """Of one agent's rows in its own ledger. A `Runner` service."""

    name = "upkeep"

    def __init__(
        self,
        ledger: str,
        agent_id: int,
        keep: Keep,
        clock: Clock,
        *,
        busy_timeout_ms: int = DEFAULT_BUSY_TIMEOUT_MS,
    ) -> None:
        url = ledger_url(ledger)
        self._agent_id, self._clock = agent_id, clock
        self._engine = open_engine(url, busy_timeout_ms=busy_timeout_ms)
        self._works = (
            Roller(self._engine, shown(url)),
            Retention(self._engine, shown(url), keep),
        )
        self._said = ""

    def run(self, stop: threading.Event) -> None:
        """Once a minute do what there is to do."""
        while not stop.is_set():
            self.turn(stop)
            self._clock.wait(stop, PERIOD_NS)

    def turn(self, stop: threading.Event) -> None:
        """Everything that there is to do now, unless told to stop."""
        try:
            for work in self._works:
                while not stop.is_set() and work.step(self._agent_id):
                    self._clock.wait(stop, PAUSE_NS)
        except LedgerUnavailable as error:
            _LOG.debug("%s; tried again in a minute", error)
        except LedgerError as error:
            if str(error) != self._said:
                _LOG.error("%s", error)
            self._said = str(error)
        except Exception:  # noqa: BLE001 - sums can wait, metering cannot: the agent goes on
            _LOG.exception("the ledger could not be looked after; tried again in a minute")

    def shutdown(self, timeout_ns: int) -> None:
        """Let go of the ledger."""
        del timeout_ns
        self._engine.dispose()
