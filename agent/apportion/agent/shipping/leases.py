"""Which devices the agent may meter, as far as the shared ledger has said.

The settlement thread asks, the shipper answers when it can. What was granted stays granted until
the shared ledger says otherwise: an agent that is cut off goes on with what it holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from apportion.core.units import NS_PER_MINUTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.core.clock import Clock
    from apportion.cost.ledger.lease import Claimed

ASKED_NS: Final = 10 * NS_PER_MINUTE
"""A device that nobody has asked for is kept for so long; then its lease runs out."""


class Leases:
    """Epochs by device. Safe from two threads."""

    def __init__(self, held: Mapping[str, int], clock: Clock) -> None:
        """`held`: what the agent held when it was last here."""
        self._clock = clock
        self._lock = threading.Lock()
        self._held = dict(held)
        self._refused: dict[str, str] = {}
        self._asked_ns: dict[str, int] = dict.fromkeys(held, clock.monotonic_ns())
        self._changed: set[str] = set()

    # -- the settlement's side -------------------------------------------------------------------
    def own(self, device: str) -> bool:
        """Whether this agent holds the device; if not, it is claimed from now on."""
        with self._lock:
            self._asked_ns[device] = self._clock.monotonic_ns()
            return device in self._held

    def reason(self, device: str) -> str:
        """Why it does not hold the device."""
        node = self._refused.get(device)
        if node is None:
            return "the shared ledger has not granted its lease yet"
        return f"the agent on {node} holds its lease in the shared ledger"

    def take_changed(self) -> set[str]:
        """Devices that were lost since the last call, or that may have been another's meanwhile."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    # -- the shipper's side ----------------------------------------------------------------------
    def wanted(self) -> list[str]:
        """What is to be claimed or renewed."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            return [name for name, ns in self._asked_ns.items() if now_ns - ns <= ASKED_NS]

    def unanswered(self) -> bool:
        """Whether a device is wanted of which nothing is known yet."""
        with self._lock:
            return bool(self._asked_ns.keys() - self._held.keys() - self._refused.keys())

    def answer(self, claimed: Claimed) -> None:
        """What the shared ledger said of everything that is wanted."""
        with self._lock:
            granted = dict(claimed.granted)
            self._changed |= {
                device
                for device in {*granted, *self._held}
                if granted.get(device) != self._held.get(device)
            }
            self._held, self._refused = granted, dict(claimed.refused)
            for device in [*self._asked_ns]:
                if device not in granted and device not in claimed.refused:
                    del self._asked_ns[device]

    @property
    def held(self) -> Mapping[str, int]:
        """The epoch of each device that is held."""
        return self._held

    @property
    def refused(self) -> Mapping[str, str]:
        """By device that is wanted the node that holds it."""
        return self._refused
