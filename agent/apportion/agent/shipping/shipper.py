"""The thread that ships: in order, again and again, whatever the shared ledger does.

It never stops metering, and metering never waits for it: what cannot be shipped waits in the
node's ledger.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, Final

from apportion.agent.shipping.figures import Figures
from apportion.agent.shipping.leases import Leases
from apportion.core.errors import (
    LedgerDiverged,
    LedgerError,
    LedgerUnavailable,
    SchemaMismatch,
)
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.ship import ship

if TYPE_CHECKING:
    from apportion.core.clock import Clock
    from apportion.cost.ledger.ledger import Ledger
    from apportion.cost.ledger.shared import SharedLedger

_LOG: Final = logging.getLogger(__name__)
POLL_NS: Final = NS_PER_SECOND
"""How often it looks whether a commit waits."""
RENEWALS: Final = 3
"""A lease is renewed so often before it would run out."""
FIRST_PAUSE_NS: Final = NS_PER_SECOND
LONGEST_PAUSE_NS: Final = 30 * NS_PER_SECOND
REPLY_NS: Final = 60 * NS_PER_SECOND
"""A server that owes an answer for longer is taken to be gone."""
LAST_NS: Final = 3 * NS_PER_SECOND
"""What the last commits get at the end, before the rest is left to the next start."""
_WATCH_NS: Final = NS_PER_SECOND // 5
_REASONS: Final = (
    (LedgerUnavailable, "unavailable"),
    (SchemaMismatch, "schema"),
    (LedgerDiverged, "diverged"),
    (LedgerError, "refused"),
)


class Shipper:
    """A `Runner` service. Stopped after the settlement, it ships what that committed last."""

    name = "shipper"

    def __init__(
        self,
        ledger: Ledger,
        shared: SharedLedger,
        clock: Clock,
        *,
        lease_ns: int,
        reply_ns: int = REPLY_NS,
    ) -> None:
        """`lease_ns`: how long a device stays this agent's without a sign of life."""
        self._ledger = ledger
        self._shared = shared
        self._clock = clock
        self.leases: Final = Leases(ledger.outbox.leases(), clock)
        self._lease_ns = lease_ns
        self._renew_ns = 0
        self._reply_ns = reply_ns
        self._figures = Figures()
        self._pauses = random.Random()
        self._failed = 0
        self._reason: str | None = None
        self.complaint: str | None = None
        """Why nothing is shipped at present, in a sentence; None: it is."""

    def samples(self, unix_ns: int) -> tuple[Sample, ...]:
        """What /metrics shows of it, at a time of the wall clock."""
        return (
            *self._figures.samples(unix_ns),
            Sample("leases_held", len(self.leases.held)),
            Sample("leases_refused", len(self.leases.refused)),
        )

    def run(self, stop: threading.Event) -> None:
        """Ship until told to stop, then what is left if that is quickly done."""
        over = threading.Event()
        watch = threading.Thread(
            target=self._watch, args=(stop, over), name="shipper-watch", daemon=True
        )
        watch.start()
        try:
            while not stop.is_set():
                self._clock.wait(stop, self._turn(stop))
            if self.complaint is None:
                self._turn(threading.Event())
                self._release()
        finally:
            over.set()
            watch.join()

    def shutdown(self, timeout_ns: int) -> None:
        """Let go of the connection."""
        del timeout_ns
        self._shared.cut()
        self._shared.close()

    def _turn(self, stop: threading.Event) -> int:
        """Ship until nothing waits; how long to pause then, in nanoseconds."""
        try:
            self._look()
            while not self._step() and not stop.is_set():
                pass
            self._look()
        except Exception as error:  # noqa: BLE001 - whatever it is, metering goes on
            return self._pause(error)
        if self._failed:
            _LOG.info("the shared ledger takes commits again")
        self._failed, self._reason, self.complaint = 0, None, None
        return POLL_NS

    def _step(self) -> bool:
        """Renew leases where it is time, ship once; whether nothing waits any more."""
        if self._clock.monotonic_ns() >= self._renew_ns or self.leases.unanswered():
            self._renew()
        step = ship(self._ledger, self._shared)
        self._figures.add(step)
        return step.done

    def _renew(self) -> None:
        outbox = self._ledger.outbox
        with self._shared.receiving(outbox.agent_id) as arrival:
            claimed = arrival.claim(self.leases.wanted(), self._lease_ns)
        # In this order: what is settled under a lease is committed with its epoch.
        if claimed.granted != self.leases.held:
            outbox.hold(claimed.granted)
        self.leases.answer(claimed)
        self._renew_ns = self._clock.monotonic_ns() + self._lease_ns // RENEWALS

    def _release(self) -> None:
        """The settlement has ended: others need not wait for the leases to run out."""
        try:
            with self._shared.receiving(self._ledger.agent_id) as arrival:
                arrival.release()
        except LedgerError as error:
            _LOG.info("the leases run out by themselves: %s", error)

    def _look(self) -> None:
        self._figures.state = self._ledger.outbox.state()

    def _pause(self, error: Exception) -> int:
        """Count and say what went wrong; how long to wait, at random: agents are many."""
        reason = next((word for kind, word in _REASONS if isinstance(error, kind)), "fault")
        self._figures.fail(reason)
        self._failed += 1
        self.complaint = f"nothing reaches the shared ledger: {error}"
        if reason != self._reason:
            self._reason = reason
            if reason == "fault":
                _LOG.exception("shipping failed; it is tried again", exc_info=error)
            else:
                _LOG.warning("%s; it is tried again, and nothing is lost meanwhile", error)
        longest_ns = min(FIRST_PAUSE_NS << min(self._failed, 10), LONGEST_PAUSE_NS)
        return self._pauses.randint(longest_ns // 2, longest_ns)

    def _watch(self, stop: threading.Event, over: threading.Event) -> None:
        """Cut the connection where the server has owed an answer for too long."""
        stopped_ns: int | None = None
        while not self._clock.wait(over, _WATCH_NS):
            now_ns = self._clock.monotonic_ns()
            if stop.is_set() and stopped_ns is None:
                stopped_ns = now_ns
            since_ns = self._shared.waiting_since_ns
            if since_ns is None:
                continue
            late = stopped_ns is not None and now_ns - stopped_ns > LAST_NS
            if late or now_ns - since_ns > self._reply_ns:
                self._shared.cut()
